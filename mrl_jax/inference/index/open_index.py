"""An index as the commands open it."""

from pathlib import Path

from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.first_text import FirstText
from mrl_jax.inference.index.description import read_info
from mrl_jax.inference.index.search_index import SearchIndex


def open_index(folder: Path, model: Path | None, first: FirstText | None = None) -> SearchIndex:
    """An index, with the model at a given place, or where it was when the index was made.

    Args:
        folder, model: of the index, and of the model.
        first: that is asked, see `Embedder.load`.

    Raises:
        MrlError: as `SearchIndex.load`.
    """
    if model is None:
        return SearchIndex.load(folder, first=first)
    info = read_info(folder, verify=False)
    rotated = info.model is not None and info.model.rotation is not None
    embedder = Embedder.load(model, rotation=rotated, first=first)
    return SearchIndex.load(folder, embedder=embedder)
