"""An index as the commands open it."""

from pathlib import Path

from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.index.description import read_info
from mrl_jax.inference.index.search_index import SearchIndex


def open_index(folder: Path, model: Path | None) -> SearchIndex:
    """An index, with the model at a given place, or where it was when the index was made.

    Raises:
        MrlError: as `SearchIndex.load`.
    """
    if model is None:
        return SearchIndex.load(folder)
    info = read_info(folder, verify=False)
    rotated = info.model is not None and info.model.rotation is not None
    return SearchIndex.load(folder, embedder=Embedder.load(model, rotation=rotated))
