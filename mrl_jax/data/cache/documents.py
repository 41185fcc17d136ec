"""Vectors of documents, computed once by a frozen tower and read back by every run after it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.files import staged_folder
from mrl_jax.data.cache.files import (
    CACHE_FILE,
    CachedArray,
    read_cache_of,
    verify_cache,
    write_cache_file,
)
from mrl_jax.data.sets.digests import digest_lines

VECTORS_FILE = "vectors.npy"
MAKE_AGAIN = "name another folder in data.document_cache, or remove this one to have it made again"


def document_cache_key(
    texts: Sequence[str], *, tower: str, tokenizer: str, max_tokens: int, dtype: str
) -> dict[str, str]:
    """What a cache is made of: name → digest (of tower and tokenizer given so) or value.

    `texts` are the documents, in order, none twice; they are cut to `max_tokens`, and the
    tower computes in `dtype`.
    """
    return {
        "texts": digest_lines(texts),
        "text tower": tower,
        "tokenizer": tokenizer,
        "max_text_tokens": str(max_tokens),
        "dtype": dtype,
    }


def open_document_cache(
    folder: Path, key: Mapping[str, str], rows: int, *, verify: bool = True
) -> CachedArray | None:
    """The vectors of a cache, [`rows`, E] float32; None where there is no cache.

    All of it is read and compared with its digest, unless it is not to be verified.

    Raises:
        MrlError: it was made of something other than `key`, or is damaged.
    """
    info = read_cache_of(folder, key, hint=MAKE_AGAIN)
    if info is None:
        return None
    if verify:
        verify_cache(folder, info, hint=MAKE_AGAIN)
    return CachedArray(folder / VECTORS_FILE, np.float32, (rows, None), hint=MAKE_AGAIN)


def write_document_cache(
    folder: Path, key: Mapping[str, str], vectors: Float32[HostArray, "N E"]
) -> None:
    """Write a cache, whole or not at all.

    Raises:
        MrlError: something else is there; the place cannot be written to.
    """
    with staged_folder(folder, marker=CACHE_FILE, needs_bytes=vectors.nbytes) as staging:
        np.save(staging / VECTORS_FILE, vectors, allow_pickle=False)
        sizes = {"documents": len(vectors), "width": vectors.shape[1]}
        write_cache_file(staging, key, [VECTORS_FILE], sizes)
