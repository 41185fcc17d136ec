"""A module's weights as a flat mapping from dotted paths; counts, digests, freezing."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from mrl_jax.core.array_types import HostArray

Module = TypeVar("Module", bound=nnx.Module)


class Frozen(nnx.Variable):
    """A weight that training never touches: `nnx.grad` and `nnx.Param` filters pass it by."""


def flat_weights(module: nnx.Module) -> dict[str, nnx.Variable[Any]]:
    """The module's weights by dotted path, `layers.attention.q_proj.kernel` for one."""
    return {
        ".".join(str(part) for part in path): variable
        for path, variable in nnx.to_flat_state(nnx.state(module, (nnx.Param, Frozen)))
    }


def freeze(module: Module) -> Module:
    """Turn every `nnx.Param` of `module` into `Frozen`, in place; returns `module`."""
    return _retype(module, nnx.Param, Frozen)


def unfreeze(module: Module) -> Module:
    """Turn every `Frozen` of `module` into `nnx.Param`, in place; returns `module`."""
    return _retype(module, Frozen, nnx.Param)


def _retype(module: Module, old: type[Any], new: type[Any]) -> Module:
    for _, part in nnx.iter_modules(module):
        for name, value in list(vars(part).items()):
            if type(value) is old:
                setattr(part, name, new(value.get_value()))
    return module


@dataclasses.dataclass(frozen=True)
class Split:
    """A module taken apart once, so that a step can be a pure function of plain arrays.

    Attributes:
        trained: nested dict of the leaves that a filter chose.
        frozen: dict of all other leaves by dotted path.
        rebuild: (trained, frozen) to the module; pure, and cheap under a jit.
    """

    trained: dict[str, Any]
    frozen: dict[str, Any]
    rebuild: Callable[[Mapping[str, Any], Mapping[str, Any]], Any]


def split(module: nnx.Module, trainable: Any = nnx.Param) -> Split:
    """Take a module apart into trained and frozen arrays.

    Args:
        module: stays as it is.
        trainable: an NNX filter.
    """
    graphdef, state = nnx.split(module)
    chosen = nnx.filterlib.to_predicate(trainable)
    flat = nnx.to_flat_state(state)
    template: list[tuple[Any, str, bool, Any]] = []
    arrays: dict[bool, dict[str, Any]] = {True: {}, False: {}}
    for path, variable in flat:
        name, is_trained = ".".join(map(str, path)), bool(chosen(path, variable))
        arrays[is_trained][name] = variable.get_value()
        # Shapes only, or the closure would keep the first weights alive.
        template.append((path, name, is_trained, jax.eval_shape(lambda v=variable: v)))

    def rebuild(trained: Mapping[str, Any], frozen: Mapping[str, Any]) -> Any:
        values = {True: flatten(trained), False: frozen}
        leaves = [(path, leaf.replace(values[part][name])) for path, name, part, leaf in template]
        return nnx.merge(graphdef, nnx.from_flat_state(leaves))

    return Split(trained=nest(arrays[True]), frozen=arrays[False], rebuild=rebuild)


def count(weights: Mapping[str, Any]) -> int:
    """Number of scalars in a flat mapping of arrays or of shapes."""
    return sum(int(np.prod(value.shape)) for value in weights.values())


def digest(weights: Mapping[str, HostArray | jax.Array]) -> str:
    """SHA-256 of paths, dtypes, shapes and bytes: two equal digests are the same weights."""
    total = hashlib.sha256()
    for path in sorted(weights):
        array = np.ascontiguousarray(weights[path])
        total.update(f"{path}|{array.dtype.name}|{array.shape}|".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


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
