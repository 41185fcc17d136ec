"""Initial weights of a late-fusion head from the speech tower's CTC layer.

A head with random weights has to learn from contrast alone which token embeddings a frozen text
tower can read. A speech tower with a CTC layer already predicts the character of each frame, and
the text tower has an embedding for it. Ridge regression of these embeddings on the frames' layer
states gives a head whose tokens spell the transcript before any training. The architecture stays
the published one.
"""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mrl_jax.checkpoints.towers import load_hubert_ctc
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.batch import Batch
from mrl_jax.core.errors import MrlError
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.models.ctc import CtcVocabulary
from mrl_jax.models.ctc_tokens import tokens_of_outputs
from mrl_jax.models.late_fusion import LateFusion

CLIPS = 512
"""Clips that the regression is fitted on."""
RIDGE = 1e-4
"""Penalty, relative to the mean variance of a coordinate of the states."""


def init_from_ctc(
    model: LateFusion,
    folder: Path,
    tokenizer: TextTokenizer,
    batches: Iterable[Batch],
    *,
    verify: bool = True,
) -> None:
    """Give the head the weights that spell the transcripts of the tower in `folder`.

    Args:
        model: its head is changed in place; its factors should be calibrated before.
        folder: the speech tower, with its CTC layer.
        tokenizer: of the text tower.
        batches: clips to fit on.
        verify: compare the tower's files with their digests.

    Raises:
        MrlError: a tower without a CTC layer or vocabulary; no frame to fit on.
    """
    recogniser = load_hubert_ctc(folder, dtype=jnp.float32, verify=verify)
    if recogniser.vocabulary is None:
        raise MrlError(
            "the recogniser has no vocabulary, and model.head_init=ctc needs one",
            where=folder,
            hint="convert it from a folder with vocab.json, or set model.head_init=random",
        )
    embeddings = np.asarray(model.text.embed_tokens.embedding[...], np.float32)
    outputs, silence = character_vectors(recogniser.vocabulary, tokenizer, embeddings)
    graphdef, arrays = nnx.split(recogniser)
    layer_scale = model.head.layer_scale[...]

    @jax.jit
    def moments(arrays: Any, samples: Array, lengths: Array) -> tuple[Array, Array]:
        return _moments(nnx.merge(graphdef, arrays), samples, lengths, layer_scale, outputs)

    inputs: Any = 0.0
    cross: Any = 0.0
    for batch in batches:
        more = moments(arrays, batch.samples, batch.lengths)
        inputs, cross = (
            total + np.asarray(part, np.float64)
            for total, part in zip((inputs, cross), more, strict=True)
        )
    if not np.ndim(inputs) or inputs[0, 0] < 1:
        raise MrlError("no clip has a frame of speech to fit the head on", where=folder)
    weights, bias = ridge(inputs, cross)
    model.head.start(weights, bias, silence)


def character_vectors(
    vocabulary: CtcVocabulary, tokenizer: TextTokenizer, embeddings: HostArray
) -> tuple[HostArray, HostArray]:
    """Token embedding [V, E] of each output of a recogniser, less that of silence; and that [E].

    A character of several tokens gets their mean, a token of the text tower its own embedding
    (of another text tower it is refused, see `check_tokenizer`). Silence (the blank) gets the
    embedding of the unknown token, or zeros where the tokenizer has none. `embeddings` is
    [tokens, E].
    """
    unknown = tokenizer.unknown_id
    silence = np.zeros_like(embeddings[0]) if unknown is None else embeddings[unknown]
    vectors = np.zeros((len(vocabulary.tokens), embeddings.shape[1]), np.float32)
    for row, ids in enumerate(tokens_of_outputs(vocabulary, tokenizer, strict=False)):
        if ids:
            vectors[row] = embeddings[list(ids)].mean(axis=0) - silence
    return vectors, silence


def ridge(
    inputs: Float[HostArray, "F F"], cross: Float[HostArray, "F E"]
) -> tuple[HostArray, HostArray]:
    """Weights [F-1, E] and bias [E] of the regression with these moments.

    They are sums of products of the inputs, the first of which is 1 everywhere, with themselves
    and with the outputs.
    """
    count = inputs[0, 0]
    mean, target = inputs[0, 1:] / count, cross[0] / count
    covariance = inputs[1:, 1:] / count - np.outer(mean, mean)
    cross_covariance = cross[1:] / count - np.outer(mean, target)
    covariance[np.diag_indices_from(covariance)] += RIDGE * np.trace(covariance) / len(mean)
    weights = np.linalg.solve(covariance, cross_covariance)
    return weights, target - mean @ weights


def _moments(
    recogniser: Any, samples: Array, lengths: Array, layer_scale: Array, outputs: HostArray
) -> tuple[Array, Array]:
    """[1+YD, 1+YD] and [1+YD, E]: products with the states, and with 1, summed over frames."""
    output = recogniser.encoder(samples, lengths)
    logits = recogniser.lm_head(output.last_hidden).astype(jnp.float32)
    expected = jnp.matmul(jax.nn.softmax(logits), outputs, precision=lax.Precision.HIGHEST)
    states = output.layer_states.astype(jnp.float32) * layer_scale[:, None, None, None]
    states = jnp.moveaxis(states, 0, 2).reshape(*expected.shape[:2], -1)
    states = jnp.pad(states, ((0, 0), (0, 0), (1, 0)), constant_values=1.0)
    states = jnp.where(output.frame_mask[:, :, None], states, 0.0).reshape(-1, states.shape[-1])
    product = functools.partial(jnp.matmul, states.T, precision=lax.Precision.HIGHEST)
    return product(states), product(expected.reshape(-1, expected.shape[-1]))
