"""The trained arrays of a model: a folder of Orbax, or one safetensors file for the hub."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mrl_jax.checkpoints.arrays import stored_paths
from mrl_jax.checkpoints.mapped_arrays import read_mapped
from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.checksums import file_digest, folder_digests
from mrl_jax.core.errors import MrlError, describe_os_error, first_line
from mrl_jax.core.records import DAMAGED

HEAD_FILE = "head.safetensors"


@checked
def head_bytes(arrays: Mapping[str, HostArray]) -> bytes:
    """The contents of a head's file: arrays by their dotted paths."""
    return save({path: np.asarray(array, order="C") for path, array in arrays.items()})


@checked
def head_digests(place: Path) -> dict[str, str]:
    """SHA-256 of the files of a head, by their names relative to the model's folder."""
    if place.is_file():
        return {place.name: file_digest(place)}
    return {f"{place.name}/{name}": sha256 for name, sha256 in folder_digests(place).items()}


@checked
def read_head_arrays(
    place: Path, paths: Iterable[str] | None = None, *, hint: str
) -> dict[str, HostArray]:
    """The arrays of a head by dotted path: all of a file, those of `paths`, or all, of a folder.

    Raises:
        MrlError: they are missing, or cannot be read.
    """
    if place.suffix == ".safetensors":
        return _read_file(place, hint)
    if paths is None:
        paths = stored_paths(place, what="the trained head", hint=hint)
    return read_mapped(place, paths, what="the trained head", hint=hint)


def _read_file(path: Path, hint: str) -> dict[str, HostArray]:
    if not path.is_file():
        raise MrlError("the trained head is missing", where=path, hint=hint)
    try:
        with safe_open(path, framework="flax") as file:  # numpy's reader has no bfloat16.
            return {key: np.asarray(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    except OSError as error:
        problem = describe_os_error(error)
    except (SafetensorError, *DAMAGED) as error:  # An AttributeError of a dtype it has not.
        problem = first_line(error)
    raise MrlError(f"the trained head cannot be read ({problem})", where=path, hint=hint)
