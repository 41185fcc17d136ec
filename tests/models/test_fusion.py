"""What late-fusion models share: one sequence of vectors gives embeddings and features."""

import jax
import numpy as np
from tiny_fusion import tiny_batch, tiny_model

from mrl_jax.nn import param_tree


def test_speech_features_are_the_embedding_and_means_of_the_tokens_that_the_text_tower_reads():
    split = param_tree.split(tiny_model())
    batch = tiny_batch(4)
    inputs = (batch.samples, batch.lengths, batch.prompt, batch.prompt_mask)

    @jax.jit
    def run(*inputs):
        model = split.rebuild(split.trained, split.frozen)
        vectors, mask = model.text_inputs(model.tokens_of_speech(*inputs[:2]), inputs[2:])
        states = model.text(vectors, mask, keep_states=True)
        return (
            model.speech_features(*inputs),
            model.embed_speech(*inputs),
            (vectors, states.layer_states[0], states.last_hidden),
            mask,
        )

    features, embeddings, states, mask = jax.tree.map(np.asarray, run(*inputs))
    np.testing.assert_allclose(features[:, 0], embeddings, atol=1e-6)
    assert mask.sum(axis=1).max() > mask.sum(axis=1).min()
    for row, valid in enumerate(mask):
        means = [layer[row][valid].mean(axis=0) for layer in states]
        np.testing.assert_allclose(features[row, 1:], means, atol=1e-5)
