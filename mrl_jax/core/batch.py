"""One step's input, as a pytree with the same shapes on every host."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredSpeech:
    """Outputs of the speech tower for a batch's clips, computed before.

    Attributes:
        states: [B, T, Y, D] float32, bfloat16 or int8, all layers of each frame, padded with zeros.
        scales: [B, Y, D] float32, what int8 is to be multiplied by; else None.
        frames: [B] int32, of each clip.
    """

    states: Any
    scales: Any
    frames: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Clips and the documents that answer them, row by row.

    As a pytree it may have other leaves in its fields (shardings, specs, arrays with a
    leading axis of devices), so fields carry no shapes; the model's own signatures check
    them.

    Attributes:
        samples: [B, S] float32, clips padded with zeros, normalised as the tower wants.
        lengths: [B] int32, samples of each clip.
        prompt: [B, P] int32, token ids that are put before the speech; P may be 0.
        prompt_mask: [B, P] bool, True at tokens of the prompt.
        document: [B, L] int32, token ids of the documents, end token included.
        document_mask: [B, L] bool, True at tokens of the document.
        query_ids: [B] int32, equal for two rows with the same query.
        document_ids: [B] int32, equal for two rows with the same document.
        rows: [B] bool, False at rows that only fill the batch up.
        document_vectors: [B, E] float32, of the documents where they were computed before;
            `document` is then empty.
        speech: outputs of the speech tower where they were computed before; `samples` is then
            empty.
    """

    samples: Any
    lengths: Any
    prompt: Any
    prompt_mask: Any
    document: Any
    document_mask: Any
    query_ids: Any
    document_ids: Any
    rows: Any
    document_vectors: Any = None
    speech: StoredSpeech | None = None
