"""`SearchConfig`: dimension, precision and funnel, as stored in a model folder."""

import dataclasses
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from mrl_jax.checkpoints.models import FORMAT, ModelInfo
from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError, MrlError, existing_file
from mrl_jax.core.files import write_bytes
from mrl_jax.core.npy import open_npy
from mrl_jax.core.records import read_record, readable_as, write_description
from mrl_jax.core.remote import upload
from mrl_jax.nn import param_tree

SEARCH_CONFIG_FILE = "search.json"
CHOOSE_AGAIN = "choose one again: `mrl-jax eval tradeoff --budget ...`"
Precision = Literal["fp32", "int8", "binary", "binary+int8"]
"""Of stored documents; the last two are signs, alone and with int8 beside them."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How documents are stored and searched.

    Attributes:
        dim: prefix of the embedding.
        rank: number of leading directions that the prefix is projected on; None for none.
        precision: of what is stored.
        prefix: coordinates of a funnel's first stage; None for no funnel.
        shortlist: documents that are scored again, in a funnel or after signs.
    """

    dim: int
    rank: int | None = None
    precision: Precision = "fp32"
    prefix: int | None = None
    shortlist: int = 100

    def __post_init__(self) -> None:
        for name in ("dim", "rank", "prefix", "shortlist"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < 1 << 31:
                raise ArgumentError(f"{name} is {value}, expected 1 or more")
        if self.rank is not None and self.rank > self.dim:
            raise ArgumentError(f"rank is {self.rank}, expected at most dim, {self.dim}")
        if self.prefix is not None and self.prefix > self.width:
            raise ArgumentError(f"prefix is {self.prefix}, expected at most {self.width}")

    @property
    def width(self) -> int:
        """Numbers a vector has."""
        return self.dim if self.rank is None else self.rank


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Record:
    """The contents of search.json; `directions` is the digest of that array."""

    head_digest: str
    search_config: SearchConfig
    directions: str | None
    chosen: Mapping[str, Any]

    def __post_init__(self) -> None:
        if (self.directions is None) != (self.search_config.rank is None):
            raise ValueError("rank and directions do not go together")
        if self.directions is not None and not re.fullmatch("[0-9a-f]{64}", self.directions):
            raise ValueError("directions is no SHA-256")


@checked
def write_search_config(
    folder: Path,
    info: ModelInfo,
    config: SearchConfig,
    directions: Float32[HostArray, "dim rank"] | None,
    chosen: Mapping[str, Any],
) -> None:
    """Write the search config to use by default; an earlier one is replaced in one rename.

    Args:
        folder: the model's folder.
        info: its model.json; the config is of its head alone.
        config: the choice.
        directions: that it projects on, as columns; None without a rank.
        chosen: why it was chosen, for who reads the file.
    """
    digest, array = None, None
    if directions is not None:
        digest = param_tree.digest({"directions": directions})
        array, content = _directions_file(folder, digest), io.BytesIO()
        np.save(content, directions, allow_pickle=False)
        write_bytes(array, content.getvalue())
    record = _Record(
        head_digest=info.head_digest, search_config=config, directions=digest, chosen=dict(chosen)
    )
    write_description(folder / SEARCH_CONFIG_FILE, dataclasses.asdict(record), version=FORMAT)
    upload(folder)
    for old in folder.glob("search-*.npy"):
        if old != array:
            old.unlink(missing_ok=True)


@checked
def read_search_config(
    folder: Path, info: ModelInfo
) -> tuple[SearchConfig, Float32[HostArray, "dim rank"] | None]:
    """The search config of a model, and the directions that it projects on.

    Raises:
        MrlError: none was chosen, or for another head, or it is damaged.
    """
    path = existing_file(folder / SEARCH_CONFIG_FILE, hint=CHOOSE_AGAIN)
    what, directions = "a search config", None
    record = read_record(path, _Record, version=FORMAT, what=what, hint=CHOOSE_AGAIN)
    config = record.search_config
    with readable_as(what, path, hint=CHOOSE_AGAIN):
        if record.directions is not None:
            place = _directions_file(folder, record.directions)
            directions = open_npy(place, hint=CHOOSE_AGAIN, in_memory=True)
            if param_tree.digest({"directions": directions}) != record.directions:
                raise ValueError("the digest of its directions differs")
            if directions.shape != (config.dim, config.rank):
                raise ValueError(f"its directions are of shape {directions.shape}")
    if record.head_digest != info.head_digest:
        raise MrlError(
            f"was chosen for another head: its digest is {record.head_digest[:12]}, that of the "
            f"model {info.head_digest[:12]}",
            where=path,
            hint=CHOOSE_AGAIN,
        )
    return record.search_config, directions


def _directions_file(folder: Path, digest: str) -> Path:
    return folder / f"search-{digest[:8]}.npy"
