"""Rows without negatives: counted as the loss masks them, and refused where there are no others."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches.speech import BatchConfig
from mrl_jax.losses.config import LossConfig
from mrl_jax.losses.matryoshka import matryoshka_infonce
from mrl_jax.training.contrastive.config import DataConfig, ExperimentConfig
from mrl_jax.training.negatives import check_negatives, has_negative

IDS = {
    "different": ([0, 1, 2], [0, 1, 2], [True] * 3),
    "one document": ([0, 1, 2], [5, 5, 5], [False] * 3),
    "one query": ([4, 4, 4], [0, 1, 2], [False] * 3),
    "covered by both": ([0, 0, 1], [0, 1, 0], [False, True, True]),
}


@pytest.mark.parametrize("name", IDS)
def test_a_row_without_negative_is_one_whose_loss_is_zero(name):
    queries, documents, expected = IDS[name]
    assert has_negative(np.asarray(queries), np.asarray(documents)).tolist() == expected
    vectors = jnp.asarray(np.random.default_rng(0).standard_normal((3, 8)), jnp.float32)
    loss = matryoshka_infonce(
        vectors,
        vectors[::-1],
        dims=(8,),
        temperature=1.0,
        query_ids=jnp.asarray(queries, jnp.int32),
        document_ids=jnp.asarray(documents, jnp.int32),
    )
    # Two products may round the only score of a row differently.
    assert (np.asarray(loss.per_row[0]) > 1e-6).tolist() == expected


def checked_batches(*batches):
    lines = []
    pairs = [(np.asarray(queries), np.asarray(documents)) for queries, documents in batches]
    check_negatives(pairs.__getitem__, len(pairs), lines.append)
    return lines


def test_batches_without_any_are_refused_and_some_are_told():
    different, same = ([0, 1, 2], [0, 1, 2]), ([0, 1, 2], [5, 5, 5])
    assert checked_batches(different, different) == []
    [line] = checked_batches(different, same)
    assert line.startswith("warning: 50% of the examples have no negative")
    with pytest.raises(MrlError, match="no example has a negative"):
        checked_batches(same, same)


def test_a_batch_of_one_is_refused_where_the_loss_is_contrastive():
    data = DataConfig(batch=BatchConfig(batch_size=1))
    with pytest.raises(MrlError, match=r"data.batch.batch_size is 1, expected 2 or more"):
        ExperimentConfig(name="x", data=data)
    regression = ExperimentConfig(name="x", data=data, loss=LossConfig(name="l1_cosine"))
    assert dataclasses.asdict(regression)["data"]["batch"]["batch_size"] == 1
    one = jnp.ones((1, 8), jnp.float32)
    with pytest.raises(MrlError, match="1 pairs and no negatives"):
        matryoshka_infonce(one, one, dims=(8,))
    loss = matryoshka_infonce(one, one, dims=(8,), hard_negatives=-one[:, None])
    assert loss.total >= 0
