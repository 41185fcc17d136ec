"""Training of the demo's text tower: what it feeds the tower, and that the tower learns from it."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches.text_plan import alike_batches
from mrl_jax.data.text.tokenizer import pad_tokens
from mrl_jax.demo import train_text as text_stage
from mrl_jax.demo.towers import text_config
from mrl_jax.demo.train_text import TextStageConfig, train_text_tower

STAGE = TextStageConfig(steps=60, batch_size=8, dims=(16, 8), learning_rate=5e-3)
QUERIES = [[2 + i, 2 + j, 0] for i in range(5) for j in range(5)]
DOCUMENTS = [[7 + i, 12 + j, 0] for i in range(5) for j in range(5)]


def changed(**fields) -> TextStageConfig:
    return dataclasses.replace(STAGE, **fields)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(2, 9), min_size=1, max_size=8),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 99),
)
def test_stretched_queries_still_spell_the_query(ids, most, gaps, seed):
    stage = changed(most_repeats=most, gap_token=1 if gaps else None)
    stretched = text_stage.stretch([*ids, 0], stage, np.random.default_rng(seed))
    assert stretched[-1] == 0
    assert stretched.count(0) == 1
    spoken = [token for token in stretched[:-1] if token != 1]
    assert len(ids) <= len(spoken) <= most * len(ids)
    # Runs of one token melt into one another; what is left is the query's own order.
    assert [token for token, _ in itertools.groupby(spoken)] == [
        token for token, _ in itertools.groupby(ids)
    ]
    assert most > 1 or stretched == [*ids, 0]


def test_an_epoch_has_every_pair_at_most_once_and_like_lengths_together():
    lengths = [2 + i % 7 for i in range(50)]
    batches = alike_batches(lengths, 8, 0, 0)
    used = np.concatenate(batches)
    assert len(batches) == 6
    assert len(set(used.tolist())) == len(used) == 48
    spans = [np.ptp([lengths[row] for row in batch]) for batch in batches]
    assert np.mean(spans) < 3
    again, other = (alike_batches(lengths, 8, 0, epoch) for epoch in (0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(batches, other, strict=True))


def test_the_tower_learns_the_pairs():
    config = text_config(17, width=16, num_layers=1)
    tower = train_text_tower(config, QUERIES, DOCUMENTS, STAGE, progress=False)
    graphdef, state = nnx.split(tower)

    @jax.jit
    def embed(state, tokens, mask):
        return nnx.merge(graphdef, state).embed(tokens, mask)

    queries, documents = (np.asarray(embed(state, *pad_tokens(x))) for x in (QUERIES, DOCUMENTS))
    correct = np.argmax(queries @ documents.T, axis=1) == np.arange(len(QUERIES))
    assert np.mean(correct) > 0.5  # Chance is 0.04.


def test_too_few_pairs_and_a_diverging_run_are_refused():
    config = text_config(17, width=16, num_layers=1)
    with pytest.raises(MrlError, match="there are 3 pairs of texts"):
        train_text_tower(config, QUERIES[:3], DOCUMENTS[:3], STAGE, progress=False)
    with pytest.raises(MrlError, match=r"the loss of step \d+ is"):
        train_text_tower(
            config,
            QUERIES,
            DOCUMENTS,
            changed(learning_rate=1e38, warmup_fraction=0.0, steps=8, clip_norm=1e30),
            progress=False,
        )
