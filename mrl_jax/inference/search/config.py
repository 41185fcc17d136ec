"""`SearchConfig`: dimension, precision and funnel, as stored in a model folder."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from mrl_jax.checkpoints.models import FORMAT, ModelInfo
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, existing_file
from mrl_jax.nn import param_tree

SEARCH_CONFIG_FILE = "setting.json"


CHOOSE_AGAIN = "choose one again: `python eval.py tradeoff --budget ...`"


Precision = Literal["fp32", "int8", "binary", "binary+int8"]
"""Of stored documents; the last two are signs, alone and with int8 beside them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How documents are kept and searched.

    Attributes:
        dim: prefix of the embedding.
        rank: leading directions of it that it is projected on; None for none.
        precision: of what is stored.
        prefix: coordinates of a funnel's first look; None for no funnel.
        shortlist: documents that are looked at twice, in a funnel or after signs.
    """

    dim: int
    rank: int | None = None
    precision: Precision = "fp32"
    prefix: int | None = None
    shortlist: int = 100

    @property
    def width(self) -> int:
        """Numbers a vector has."""
        return self.dim if self.rank is None else self.rank


def write_search_config(
    folder: Path,
    info: ModelInfo,
    setting: SearchConfig,
    directions: Float32[HostArray, "dim rank"] | None,
    told: Mapping[str, Any],
) -> None:
    """Write the setting to use by default, in place of an earlier one, whole or not at all.

    Args:
        folder: the model's folder.
        info: its model.json; the setting is of its head alone.
        setting: the choice.
        directions: that it projects on, as columns; None without a rank.
        told: why it was chosen, for who reads the file.
    """
    stored: dict[str, Any] = {"format": FORMAT, "head_digest": info.head_digest}
    stored |= {"setting": dataclasses.asdict(setting), "directions": None, "chosen": dict(told)}
    partial = folder / f".{SEARCH_CONFIG_FILE}.partial"
    try:
        if directions is not None:
            stored["directions"] = param_tree.digest({"directions": directions})
            array = _directions_file(folder, stored["directions"])
            with partial.open("wb") as file:
                np.save(file, directions, allow_pickle=False)
            os.replace(partial, array)
        partial.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, folder / SEARCH_CONFIG_FILE)
    except OSError as error:
        raise MrlError(
            f"the setting could not be written: {error.strerror or error}",
            where=folder,
            hint="check that the place may be written to, and has room",
        ) from error
    kept = stored["directions"] and _directions_file(folder, stored["directions"])
    for old in folder.glob("setting-*.npy"):
        if old != kept:
            old.unlink(missing_ok=True)


def read_search_config(
    folder: Path, info: ModelInfo
) -> tuple[SearchConfig, Float32[HostArray, "dim rank"] | None]:
    """The setting of a model, and the directions that it projects on.

    Raises:
        MrlError: none was chosen, or for another head, or it is damaged.
    """
    path = existing_file(folder / SEARCH_CONFIG_FILE, hint=CHOOSE_AGAIN)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise ValueError(f"the format is not {FORMAT}")
        setting, found, digest = (
            SearchConfig(**raw["setting"]),
            raw["head_digest"],
            raw["directions"],
        )
        if (digest is None) != (setting.rank is None):
            raise ValueError("rank and directions do not go together")
        directions = None
        if digest is not None:
            directions = np.load(_directions_file(folder, digest), allow_pickle=False)
            if param_tree.digest({"directions": directions}) != digest:
                raise ValueError("the digest of its directions differs")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MrlError(
            f"cannot be read as a setting ({error})", where=path, hint=CHOOSE_AGAIN
        ) from error
    if found != info.head_digest:
        raise MrlError(
            f"was chosen for another head: its digest is {str(found)[:12]}, that of the model "
            f"{info.head_digest[:12]}",
            where=path,
            hint=CHOOSE_AGAIN,
        )
    return setting, directions


def _directions_file(folder: Path, digest: str) -> Path:
    return folder / f"setting-{digest[:8]}.npy"
