"""A module's weights as a flat mapping from dotted paths; counts, digests, freezing."""

import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from mrl_jax.array_types import HostArray

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
