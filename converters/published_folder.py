"""Writing a checkpoint folder in the published format: safetensors, whole or in shards."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import save_file

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import as_os_error

SHARD_BYTES = 2 * 10**9
"""Size above which weights are split: a shard is held in memory while it is written."""


def save_shards(
    folder: Path,
    tensors: Mapping[str, Callable[[], HostArray]],
    sizes: Mapping[str, int],
    shard_bytes: int,
) -> list[str]:
    """Write tensors under their names, with an index if they fill several files.

    Args:
        folder: where to (a staged folder).
        tensors: makes each tensor when its shard is written.
        sizes: bytes of each tensor.
        shard_bytes: size above which another file is begun.

    Returns:
        The names of the weight files.

    Raises:
        OSError: a write failed.
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for key, size in sizes.items():
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += size
    count = len(shards)
    names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    if count == 1:
        names = ["model.safetensors"]
    for name, keys in zip(names, shards, strict=True):
        part = {key: tensors[key]() for key in keys}
        try:
            save_file(part, folder / name, metadata={"format": "pt"})
        except SafetensorError as error:
            raise as_os_error(error) from error
        (folder / name).chmod(0o666 & ~_umask())  # safetensors leaves it to the owner alone.
    if count > 1:
        weight_map = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    return names


def _umask() -> int:
    current = os.umask(0o022)  # It can only be read by setting it.
    os.umask(current)
    return current
