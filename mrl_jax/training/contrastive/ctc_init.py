"""Where a head may begin: at what the speech tower's own recogniser hears.

A head that begins at random has to find out by contrast alone which token embeddings a
frozen text tower can read. A speech tower with a CTC layer already tells in each frame which
character is said, and the text tower has an embedding for it. Ridge regression of the
latter on the frames' layer states gives a head that spells out loud, before any training;
training then mends what spelling misses. The architecture stays the published one.
"""

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
from mrl_jax.models.late_fusion import LateFusion

CLIPS = 512
"""Clips that the regression is fitted on."""


RIDGE = 1e-4
"""As a share of the mean variance of a coordinate of the states."""


def init_from_ctc(
    model: LateFusion, folder: Path, tokenizer: TextTokenizer, batches: Iterable[Batch]
) -> None:
    """Give the head the weights that spell what the tower in `folder` hears.

    Args:
        model: its head is changed in place; its factors should be calibrated before.
        folder: the speech tower, with its CTC layer.
        tokenizer: of the text tower.
        batches: clips to fit on; whether any gave a speech frame is checked.

    Raises:
        MrlError: a tower without a CTC layer or vocabulary; no frame to fit on.
    """
    recogniser = load_hubert_ctc(folder, dtype=jnp.float32)
    if recogniser.vocabulary is None:
        raise MrlError(
            "the recogniser has no vocabulary, and model.head_init=ctc spells with it",
            where=folder,
            hint="convert it from a folder with vocab.json, or set model.head_init=random",
        )
    embeddings = np.asarray(model.text.embed_tokens.embedding[...], np.float32)
    spelled, rest = character_vectors(recogniser.vocabulary, tokenizer, embeddings)
    graphdef, arrays = nnx.split(recogniser)
    layer_scale = model.head.layer_scale[...]

    @jax.jit
    def moments(arrays: Any, samples: Array, lengths: Array) -> tuple[Array, Array]:
        """[1+YD, 1+YD] and [1+YD, E]: products with the states, and with 1, over frames."""
        return _moments(nnx.merge(graphdef, arrays), samples, lengths, layer_scale, spelled)

    among: Any = 0.0
    across: Any = 0.0
    for batch in batches:
        more = moments(arrays, batch.samples, batch.lengths)
        among, across = (
            total + np.asarray(part, np.float64)
            for total, part in zip((among, across), more, strict=True)
        )
    if not np.ndim(among) or among[0, 0] < 1:
        raise MrlError("no clip has a frame of speech to fit the head on", where=folder)
    weights, bias = ridge(among, across)
    model.head.start(weights, bias, rest)


def character_vectors(
    vocabulary: CtcVocabulary, tokenizer: TextTokenizer, embeddings: HostArray
) -> tuple[HostArray, HostArray]:
    """What each output of a recogniser looks like to the text tower, seen from silence.

    A character of several tokens is their mean. Silence (the blank) is the unknown token,
    where the tokenizer has one, and else nothing at all.

    Args:
        vocabulary: V outputs.
        tokenizer: of the text tower.
        embeddings: [tokens, E].

    Returns:
        [V, E], in which the blank is zero; and the embedding of silence [E].
    """
    unknown = tokenizer.unknown_id
    rest = np.zeros_like(embeddings[0]) if unknown is None else embeddings[unknown]
    vectors = np.zeros((len(vocabulary.tokens), embeddings.shape[1]), np.float32)
    for row, token in enumerate(vocabulary.tokens):
        if row == vocabulary.blank:
            continue
        text = " " if token == vocabulary.word_delimiter else token
        (ids,) = tokenizer.encode_prompts([text.lower() if vocabulary.lower_case else text])
        if ids:
            vectors[row] = embeddings[ids].mean(axis=0) - rest
    return vectors, rest


def ridge(
    among: Float[HostArray, "F F"], across: Float[HostArray, "F E"]
) -> tuple[HostArray, HostArray]:
    """Weights [F-1, E] and bias [E] of the regression with these moments.

    Args:
        among: sums of products of the inputs, the first of which is 1 everywhere.
        across: sums of products of inputs and outputs.
    """
    count = among[0, 0]
    mean, target = among[0, 1:] / count, across[0] / count
    covariance = among[1:, 1:] / count - np.outer(mean, mean)
    shared = across[1:] / count - np.outer(mean, target)
    covariance[np.diag_indices_from(covariance)] += RIDGE * np.trace(covariance) / len(mean)
    weights = np.linalg.solve(covariance, shared)
    return weights, target - mean @ weights


def _moments(
    recogniser: Any, samples: Array, lengths: Array, layer_scale: Array, spelled: HostArray
) -> tuple[Array, Array]:
    output = recogniser.encoder(samples, lengths)
    logits = recogniser.lm_head(output.last_hidden).astype(jnp.float32)
    heard = jnp.matmul(jax.nn.softmax(logits), spelled, precision=lax.Precision.HIGHEST)
    states = output.layer_states.astype(jnp.float32) * layer_scale[:, None, None, None]
    states = jnp.moveaxis(states, 0, 2).reshape(*heard.shape[:2], -1)
    states = jnp.pad(states, ((0, 0), (0, 0), (1, 0)), constant_values=1.0)
    states = jnp.where(output.frame_mask[:, :, None], states, 0.0).reshape(-1, states.shape[-1])
    products = [
        jnp.matmul(states.T, other, precision=lax.Precision.HIGHEST)
        for other in (states, heard.reshape(-1, heard.shape[-1]))
    ]
    return products[0], products[1]
