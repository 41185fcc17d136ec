"""Vectors of documents, computed once by a frozen tower and read back by every run after it.

A store belongs to what it was made of: the texts, the weights, and how texts become tokens.
Each has its digest in `store.json` (see `store_file`), and a run that differs in one is refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import staged_folder
from mrl_jax.data.cache.files import CachedArray, is_store_of, write_store_file
from mrl_jax.data.sets.digests import digest_lines

CACHE_FILE, VECTORS_FILE = "store.json", "vectors.npy"


FORMAT = 1


MAKE_AGAIN = "name another folder in data.document_cache, or remove this one to have it made again"


def document_cache_key(
    texts: Sequence[str], *, tower: str, tokenizer: str, max_tokens: int, dtype: str
) -> dict[str, str]:
    """What a store is made of, in words → digest or value.

    Args:
        texts: the documents, in order, none twice.
        tower: digest of the text tower's weights.
        tokenizer: digest of its tokenizer.
        max_tokens: where texts are cut.
        dtype: that the tower computes in.
    """
    return {
        "texts": digest_lines(texts),
        "text tower": tower,
        "tokenizer": tokenizer,
        "max_text_tokens": str(max_tokens),
        "dtype": dtype,
    }


def open_document_cache(folder: Path, key: Mapping[str, str], rows: int) -> CachedArray | None:
    """The vectors of a store, [N, E] float32; None where none is.

    Args:
        folder: of the store.
        key: what it must have been made of.
        rows: documents in it.

    Raises:
        MrlError: it was made of something else, or is damaged.
    """
    if not is_store_of(folder, CACHE_FILE, key, format=FORMAT, hint=MAKE_AGAIN):
        return None
    vectors = CachedArray(folder / VECTORS_FILE, hint=MAKE_AGAIN)
    if vectors.dtype != np.float32 or len(vectors.shape) != 2 or vectors.shape[0] != rows:
        raise MrlError(
            f"holds {vectors.dtype} of shape {vectors.shape}, expected {rows} rows of float32",
            where=folder / VECTORS_FILE,
            hint=MAKE_AGAIN,
        )
    return vectors


def write_document_cache(
    folder: Path, key: Mapping[str, str], vectors: Float32[HostArray, "N E"]
) -> None:
    """Write a store, whole or not at all.

    Raises:
        MrlError: something else is there; the place cannot be written to.
    """
    with staged_folder(folder, marker=CACHE_FILE, needs_bytes=vectors.nbytes) as staging:
        np.save(staging / VECTORS_FILE, vectors, allow_pickle=False)
        shape = {"documents": len(vectors), "width": vectors.shape[1]}
        write_store_file(staging / CACHE_FILE, key, format=FORMAT, more=shape)
