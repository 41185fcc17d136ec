"""A stack of equal layers: parameters stacked on a leading axis, run by a scan.

One layer is compiled instead of all of them, which cuts compile time; the backward pass keeps
what is expensive to recompute of each layer, or nothing but its input.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mrl_jax.nn.int8 import dequantize
from mrl_jax.nn.linear import bfloat16_on_cpu
from mrl_jax.nn.param_tree import Frozen

Layer = TypeVar("Layer", bound=nnx.Module)
FSDP = "fsdp"
"""Name of the mesh axis that frozen weights are sharded over."""


class Dtypes(TypedDict):
    """How a module computes, and how it holds its weights: every layer takes both by keyword."""

    dtype: DTypeLike
    param_dtype: DTypeLike


def stack_layers(make_layer: Callable[[nnx.Rngs], Layer], num_layers: int, rngs: nnx.Rngs) -> Layer:
    """`num_layers` of what `make_layer` builds, each leaf stacked as [Y, ...]."""

    @nnx.split_rngs(splits=num_layers)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def make(layer_rngs: nnx.Rngs) -> Layer:
        return make_layer(layer_rngs)

    return make(rngs)


def call_layer(layer: Any, *arguments: Any) -> Array:
    """`layer` itself, called."""
    return layer(*arguments)


def run_layers(
    layers: nnx.Module,
    x: Float[Array, "*rows L D"],
    *context: Any,
    remat: bool,
    unroll: bool,
    keep_states: bool,
    call: Callable[..., Array] = call_layer,
) -> tuple[Float[Array, "*rows L D"], Float[Array, "Y *rows L D"] | None]:
    """Pass `x` through a stack made by `stack_layers`.

    Args:
        layers: the stack; called as `call(layer, x, *context)` for each layer in turn.
        x: input of the first layer; [B, L, D], or [J, B, F, D] in J blocks of places.
        context: masks, angles.
        remat: recompute all of a layer in the backward pass, and keep its input only; otherwise
            its products with weights are kept, and what is cheap (norms, softmax, attention's
            own products) is recomputed.
        unroll: compile every layer on its own instead of one body for all, which takes longer;
            see docs/benchmarks.md.
        keep_states: also return the output of every layer.
        call: a function of a module, to do something else with a layer than to call it.

    Returns:
        The output of the last layer, and the outputs of all layers or None.
    """
    graphdef, state = nnx.split(layers)
    x = _batch_sharded(x)
    options = {"remat": remat, "unroll": unroll, "keep_states": keep_states, "call": call}
    return _scan(graphdef, state, x, context, **options)


# Jitted here, with the graph as a static argument, so that a call outside of jit compiles
# once and not each time.
@functools.partial(jax.jit, static_argnames=("graphdef", "remat", "unroll", "keep_states", "call"))
def _scan(
    graphdef: nnx.GraphDef[nnx.Module],
    state: Any,
    x: Float[Array, "*rows L D"],
    context: tuple[Any, ...],
    *,
    remat: bool,
    unroll: bool,
    keep_states: bool,
    call: Callable[..., Array],
) -> tuple[Float[Array, "*rows L D"], Float[Array, "Y *rows L D"] | None]:
    variables, structure = jax.tree.flatten(state, is_leaf=lambda x: isinstance(x, nnx.Variable))
    # Weights that a scan would widen stay outside of it, and a layer is taken from them in it.
    outside = [_is_widened(variable) for variable in variables]
    scanned = [None if out else one for one, out in zip(variables, outside, strict=True)]

    def body(
        carry: Float[Array, "*rows L D"], given: tuple[Array, list[Any]]
    ) -> tuple[Float[Array, "*rows L D"], Float[Array, "*rows L D"] | None]:
        number, of_layer = given
        taken = [
            stack.replace(_layer_of(stack.get_value(), number)) if out else one
            for one, stack, out in zip(of_layer, variables, outside, strict=True)
        ]
        layer_state = jax.tree.unflatten(structure, taken)
        layer = nnx.merge(graphdef, dequantize(_gathered(layer_state)))
        output = call(layer, carry, *context)
        return output, output if keep_states else None

    # Keeping all that autodiff would is slower than this as well: the scan copies it.
    keep = None if remat else jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    step = jax.checkpoint(body, prevent_cse=unroll, policy=keep)
    numbers = jnp.arange(jax.tree.leaves(state)[0].shape[0])
    return jax.lax.scan(step, x, (numbers, scanned), unroll=unroll)


def _is_widened(variable: Any) -> bool:
    """Whether a scan over these weights would copy them all to float32 first.

    XLA's CPU backend has no slices of bfloat16. Weights to be trained are left to the scan, whose
    gradient adds up by layers; `_layer_of`'s adds up whole stacks.
    """
    array = variable.get_value() if isinstance(variable, Frozen) else None
    return isinstance(array, jax.Array) and bfloat16_on_cpu(array)


@jax.custom_vjp
def _layer_of(stack: Float[Array, "Y ..."], number: Array) -> Float[Array, "..."]:
    """One layer of a stack in bfloat16, taken as bits, which stay as they are."""
    # With `number` it differs in each turn of the loop; else XLA would copy the stack before it.
    stack, number = jax.lax.optimization_barrier((stack, number))
    bits = jax.lax.bitcast_convert_type(stack, jnp.uint16)
    taken = jax.lax.dynamic_index_in_dim(bits, number, keepdims=False)
    return jax.lax.bitcast_convert_type(taken, stack.dtype)


def _layer_forward(stack: Array, number: Array) -> tuple[Array, tuple[Array, Array]]:
    return _layer_of(stack, number), (stack, number)


def _layer_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, None]:
    stack, number = kept
    return jnp.zeros_like(stack).at[number].set(gradient), None


_layer_of.defvjp(_layer_forward, _layer_backward)


def _gathered(layer_state: Any) -> Any:
    """One layer's weights gathered on every device, where they are sharded.

    Without this constraint XLA moves activations to the weights, whose cost grows with the
    batch.
    """
    if FSDP not in jax.sharding.get_abstract_mesh().axis_names:
        return layer_state
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec()), layer_state)


def _batch_sharded(x: Float[Array, "*rows L D"]) -> Float[Array, "*rows L D"]:
    """Activations sharded by batch, where weights are sharded.

    Otherwise an embedding table that is sharded along its width would shard them so as well.
    """
    axes = jax.sharding.get_abstract_mesh().axis_names
    if FSDP not in axes:
        return x
    before = (None,) * (x.ndim - 3)  # Blocks are on all devices.
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*before, axes))


@dataclasses.dataclass(frozen=True)
class InMesh:
    """A compiled function that is traced with a mesh in context, which `run_layers` reads."""

    function: Any
    mesh: Mesh

    def __call__(self, *arguments: Any) -> Any:
        with jax.set_mesh(self.mesh):
            return self.function(*arguments)

    def lower(self, *arguments: Any) -> Any:
        with jax.set_mesh(self.mesh):
            return self.function.lower(*arguments)
