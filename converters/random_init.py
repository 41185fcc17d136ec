"""A checkpoint of a given config with random weights, in the published format.

For trying things at full size where the hub cannot be reached; no PyTorch is needed, because
names and shapes come from the rule tables.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import existing_file
from mrl_jax.core.files import staged_folder

from .checkpoints import DTYPES, read_json
from .families import Family, encoder_leaves, find_family
from .published_folder import SHARD_BYTES, save_shards
from .rules import Shape, published_names


def random_init(
    name: str,
    config_file: Path,
    out: Path,
    *,
    dtype: str = "float32",
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a folder that `convert` and transformers read like a published one.

    Kernels are drawn with standard deviation 1/sqrt(inputs), norms are near identity.

    Args:
        name: one of `converters.FAMILIES`.
        config_file: a published config.json.
        out: the checkpoint folder to make.
        dtype: dtype of the weights.
        seed: the same seed gives the same bytes.
        shard_bytes: size above which weights are split into several files.
        overwrite: replace `out` if it exists.

    Raises:
        MrlError: the config is not supported, or `out` cannot be written.
    """
    raw = read_json(existing_file(config_file, hint="pass a Hugging Face config.json"))
    published = find_family(name, raw, config_file)
    shapes = encoder_leaves(published.kind, published.parse_config(raw, where=config_file))
    needed = sum(map(math.prod, shapes.values())) * DTYPES[dtype].itemsize
    # First of all whether there is room: sizes that are absurd have names without end too.
    with staged_folder(
        out, marker="config.json", overwrite=overwrite, needs_bytes=needed
    ) as staging:
        (staging / "config.json").write_text(json.dumps({**raw, "dtype": dtype}, indent=2) + "\n")
        tensors, sizes = _tensors(published, shapes, dtype, seed)
        files = save_shards(staging, tensors, sizes, shard_bytes)
    return {"kind": published.kind, "tensors": len(tensors), "files": files, "dtype": dtype}


def _tensors(
    published: Family, shapes: Mapping[str, Shape], dtype: str, seed: int
) -> tuple[dict[str, Callable[[], HostArray]], dict[str, int]]:
    """What draws each tensor, and its bytes, by published name."""
    naming = {"prefix": "", "spellings": ["parametrizations"]}
    tensors: dict[str, Callable[[], HostArray]] = {}
    sizes: dict[str, int] = {}
    for number, item in enumerate(published_names(published.table, shapes, naming)):
        shape = item.layout.inverse_shape(shapes[item.path][item.layer is not None :])

        def tensor(
            shape: tuple[int, ...] = shape, path: str = item.path, n: int = number
        ) -> HostArray:
            return _draw(np.random.default_rng((seed, n)), shape, path).astype(DTYPES[dtype])

        tensors[item.key], sizes[item.key] = tensor, int(np.prod(shape)) * DTYPES[dtype].itemsize
    return tensors, sizes


def _draw(rng: np.random.Generator, shape: tuple[int, ...], path: str) -> HostArray:
    noise = rng.standard_normal(shape, dtype=np.float32)
    leaf = path.rsplit(".", 1)[-1]
    if leaf == "scale":
        return 1 + 0.1 * noise
    if leaf in ("magnitude", "variance"):
        return np.abs(1 + 0.1 * noise)
    if leaf in ("bias", "embedding", "mean"):
        return 0.02 * noise
    return noise / np.sqrt(np.prod(shape[1:], dtype=np.float32))
