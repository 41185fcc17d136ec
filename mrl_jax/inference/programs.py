"""A model's functions as compiled programs of its arrays, and what they cost."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from mrl_jax.core.distributed import replicated
from mrl_jax.nn.layer_stack import FSDP, InMesh

Rebuild = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]
"""(trained, frozen) to the model, as `param_tree.Split.rebuild`."""


def compile_program(
    rebuild: Rebuild, run: Callable[..., Any], sharding: NamedSharding | None = None
) -> Callable[..., Any]:
    """`run(model, *inputs)` as a compiled function of (trained, frozen, *inputs).

    Args:
        rebuild: the model from its arrays.
        run: what to compute with it.
        sharding: of the inputs' rows; every device then gets the whole output.
    """

    def program(trained: Any, frozen: Any, *inputs: Any) -> Any:
        return run(rebuild(trained, frozen), *inputs)

    compiled = jax.jit(program, out_shardings=None if sharding is None else replicated(sharding))
    if sharding is None or FSDP not in sharding.mesh.axis_names:
        return compiled
    assert isinstance(sharding.mesh, Mesh)
    return InMesh(compiled, sharding.mesh)


def count_flops(
    rebuild: Rebuild, run: Callable[..., Any], trained: Any, frozen: Any, *inputs: Any
) -> float:
    """Floating-point operations of `run(model, *inputs)`, by XLA's count; NaN without one.

    XLA counts the body of a loop once, so the layers are counted unrolled. Nothing is compiled
    for it, and what a compiler saves is not subtracted.
    """

    def unrolled(model: Any, *inputs: Any) -> Any:
        for _, part in nnx.iter_modules(model):
            if hasattr(part, "unroll"):
                vars(part).update(unroll=True, remat=False)
        return run(model, *inputs)

    program: Any = compile_program(rebuild, unrolled)
    counted = program.lower(trained, frozen, *inputs).cost_analysis()
    return float((counted or {}).get("flops", "nan"))
