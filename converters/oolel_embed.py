"""Convert the published Oolel-Embed speech model: two towers and a trained head, as one model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import check_apart

from .oolel_folders import find_folders, read_two_folders
from .oolel_model import write_model
from .oolel_one_folder import read_one_folder
from .sources import find_checkpoint

DIMS = (1024, 512, 256, 128)
"""Prefixes that the published head was trained on (arXiv 2602.19991)."""


def convert_oolel_embed(
    source: str | Sequence[str],
    out: Path,
    *,
    dtype: str | None = None,
    dims: Sequence[int] = DIMS,
    revision: str | None = None,
    subfolder: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Convert a published speech model; gives the report that is also in `out`/report.json.

    Args:
        source: local folder or hub id: the folder above the two that the paper's own code
            saves, or one folder with all tensors; or a pair of them, the speech half with the
            head and the text half.
        out: the model folder to make: `speech` and `text` towers, and the head.
        dtype: dtype to store the towers in; that of the checkpoint by default. The head
            computes in float32 and is stored so.
        dims: prefixes that a late-fusion head was trained on; those wider than its text tower
            are left out. A dual encoder's are those that it has layers for.
        revision: branch, tag or commit on the hub.
        subfolder: folder inside `source` to read instead.
        overwrite: replace `out` if it exists.

    Raises:
        MrlError: a part is missing, ambiguous, unsupported or left over; or `out` cannot
            be written. Nothing is left under `out` then.
    """
    sources = [source] if isinstance(source, str) else list(source)
    if not 1 <= len(sources) <= 2:
        raise MrlError(
            f"{len(sources)} sources are named, expected one folder or two",
            where=", ".join(sources),
            hint="pass the folder above both towers, or the speech folder and the text folder",
        )
    options: dict[str, Any] = {"revision": revision, "subfolder": subfolder, "nested": True}
    places = [find_checkpoint(one, **options) for one in sources]
    for place in places:
        check_apart(place, out)
    folders = find_folders(places)
    name = " and ".join(sources)
    if folders is None:
        model = read_one_folder(places[0], name, dtype=dtype, dims=dims)
    else:
        model = read_two_folders(folders, name, dtype=dtype, dims=dims)
    return write_model(model, out, overwrite=overwrite)
