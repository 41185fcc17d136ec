"""`LossConfig`: its checks, and how it finds what computes it."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.losses import LOSSES, Loss, LossConfig, l1_cosine, matryoshka_infonce

ROWS = jnp.asarray(np.random.default_rng(0).standard_normal((4, 8)), jnp.float32)
IDS: dict[str, Any] = {"query_ids": jnp.arange(4), "document_ids": jnp.asarray([0, 0, 2, 3])}


def test_a_contrastive_loss_gets_temperature_and_ids_and_another_does_not():
    for name, expected in (
        (
            "matryoshka_infonce",
            matryoshka_infonce(ROWS, -ROWS, dims=(8, 4), temperature=0.3, symmetric=True, **IDS),
        ),
        ("l1_cosine", l1_cosine(ROWS, -ROWS, dims=(8, 4))),
    ):
        loss = LossConfig(name=name, dims=(8, 4), symmetric=True).bind(temperature=0.3, **IDS)
        np.testing.assert_array_equal(loss(ROWS, -ROWS, dims=(8, 4)).per_row, expected.per_row)


def test_a_mistyped_name_is_refused_with_the_nearest():
    with pytest.raises(MrlError, match=r"'infonce', .* Did you mean matryoshka_infonce\?"):
        LossConfig(name="infonce")


def test_a_loss_that_is_registered_can_be_named(monkeypatch):
    with pytest.raises(MrlError, match=r"loss\.name is 'mine', expected matryoshka_infonce or l1"):
        LossConfig(name="mine")

    def mine(queries, documents, **options):
        return l1_cosine(documents, queries, **options)

    monkeypatch.setitem(LOSSES, "mine", Loss(compute=mine, contrastive=False))
    bound = LossConfig(name="mine", dims=(8,)).bind(temperature=0.1, **IDS)
    expected = l1_cosine(2 * ROWS, ROWS, dims=(8,)).per_row
    np.testing.assert_array_equal(bound(ROWS, 2 * ROWS, dims=(8,)).per_row, expected)
