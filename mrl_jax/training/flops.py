"""Floating-point operations of a traced function: its matrix products and convolutions."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from mrl_jax.nn.layer_stack import InMesh


def count_matmul_flops(function: Callable[..., Any], *inputs: Any) -> float:
    """Operations of `function(*inputs)` on all devices, two for a multiplication and addition.

    Unlike XLA's own count, the body of a loop counts as often as it runs: layers that are scanned
    are all counted. What is computed again in the backward pass counts twice, and what no result
    needs not at all. Only matrix products and convolutions count, as in the usual formula for
    model FLOPs; the body of a `while` loop, whose length is not known, counts once. In bfloat16 on
    a CPU a convolution counts with the zeros that fill its rows (`nn.linear.convolve_by_rows`).

    Args:
        function: traced, not run.
        inputs: arrays or their shapes.
    """
    if isinstance(function, InMesh):
        with jax.set_mesh(function.mesh):
            return count_matmul_flops(function.function, *inputs)
    traced = jax.make_jaxpr(function)(*inputs).jaxpr
    needed, _ = dce_jaxpr(traced, [True] * len(traced.outvars))
    return _flops(needed)


def _flops(jaxpr: Jaxpr) -> float:
    return sum((_of_equation(equation) for equation in jaxpr.eqns), 0.0)


def _of_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, spec = equation.invars[1].aval, params["dimension_numbers"].rhs_spec
        each = 2.0 * kernel.size / kernel.shape[spec[0]]
        # Zeros between the samples of a transposed convolution are not multiplied.
        return each * equation.outvars[0].aval.size / math.prod(params["lhs_dilation"])
    inner = [_flops(jaxpr) for jaxpr in _inner(params)]
    if name == "cond":
        return max(inner)
    if name == "scan":
        return params["length"] * sum(inner, 0.0)
    if name == "shard_map":
        return params["mesh"].size * sum(inner, 0.0)
    return sum(inner, 0.0)


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """Functions inside an operation."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, Jaxpr):
                yield one
