"""A module's weights as a flat mapping from dotted paths: fill, freeze, split, count, digest."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray

Module = TypeVar("Module", bound=nnx.Module)


class Frozen(nnx.Variable):
    """A weight that is not trained: filters for `nnx.Param`, as `nnx.grad`'s, leave it out."""


@checked
def flat_weights(module: nnx.Module) -> dict[str, nnx.Variable[Any]]:
    """The module's weights by dotted path, `layers.attention.q_proj.kernel` for one."""
    return {
        dotted(path): variable
        for path, variable in nnx.to_flat_state(nnx.state(module, (nnx.Param, Frozen)))
    }


@checked
def freeze(module: Module) -> Module:
    """Turn every `nnx.Param` of `module` into `Frozen`, in place; returns `module`."""
    for _, part in nnx.iter_modules(module):
        for name, value in list(vars(part).items()):
            if type(value) is nnx.Param:
                setattr(part, name, Frozen(value.get_value()))
    return module


@checked
def fill(module: Module, arrays: Mapping[str, Any]) -> Module:
    """A copy of `module`, which may be abstract (`nnx.eval_shape`), with these arrays as leaves.

    Args:
        module: not changed.
        arrays: by dotted path; numpy arrays are put on the default device.

    Raises:
        KeyError: a leaf has no array.
    """
    graphdef, state = nnx.split(module)

    def value(path: tuple[Any, ...]) -> Any:
        array = arrays[dotted(path)]
        return jnp.asarray(array) if isinstance(array, np.ndarray) else array

    leaves = [(path, leaf.replace(value(path))) for path, leaf in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(leaves))


@checked
def dotted(path: Iterable[Any]) -> str:
    """("layers", 0, "kernel") as "layers.0.kernel"."""
    return ".".join(map(str, path))


@dataclasses.dataclass(frozen=True)
class Split:
    """A module taken apart once, so that a step can be a pure function of plain arrays.

    Attributes:
        trained: nested dict of the leaves that a filter chose.
        frozen: dict of all other leaves by dotted path.
        rebuild: (trained, frozen) to the module; pure, and costs nothing in a compiled program.
    """

    trained: dict[str, Any]
    frozen: dict[str, Any]
    rebuild: Callable[[Mapping[str, Any], Mapping[str, Any]], Any]


@checked
def split(module: nnx.Module, trainable: Any = nnx.Param) -> Split:
    """Take a module apart into the arrays that the NNX filter `trainable` chooses, and others."""
    graphdef, state = nnx.split(module)
    chosen = nnx.filterlib.to_predicate(trainable)
    arrays: dict[bool, dict[str, Any]] = {True: {}, False: {}}
    for path, variable in nnx.to_flat_state(state):
        arrays[bool(chosen(path, variable))][dotted(path)] = variable.get_value()
    # Shapes only, or the closure would keep the first weights alive.
    shell = nnx.merge(graphdef, jax.eval_shape(lambda state: state, state))

    def rebuild(trained: Mapping[str, Any], frozen: Mapping[str, Any]) -> Any:
        return fill(shell, {**flatten(trained), **frozen})

    return Split(trained=nest(arrays[True]), frozen=arrays[False], rebuild=rebuild)


@checked
def count(weights: Mapping[str, Any]) -> int:
    """Number of scalars in a flat mapping of arrays or of shapes."""
    return sum(int(np.prod(value.shape)) for value in weights.values())


@checked
def digest(weights: Mapping[str, HostArray | jax.Array]) -> str:
    """SHA-256 of paths, dtypes, shapes and bytes: two equal digests are the same weights."""
    total = hashlib.sha256()
    for path in sorted(weights):
        array = np.ascontiguousarray(weights[path])
        total.update(f"{path}|{array.dtype.name}|{array.shape}|".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


@checked
def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": x} as {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = value
    return tree


@checked
def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": x}} as {"a.b": x}: the inverse of `nest`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{path}."))
        else:
            flat[path] = value
    return flat
