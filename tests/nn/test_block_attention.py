"""Attention in blocks against attention written out: values, gradients, and memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax.nn.attention import attend, attend_plainly
from mrl_jax.nn.block_attention import (
    BLOCK,
    DistanceBias,
    attend_in_blocks,
    attend_to,
    blocks_pay,
    key_blocks,
)

TOLERANCE = 1e-5
BATCH, LENGTH, HEAD, SIZE = 3, 19, 8, 4
LENGTHS = np.array([19, 7, 1], np.int32)


def _heads(heads: int, kv_heads: int, *, length: int = LENGTH, scale: float = 1.0):
    rng = np.random.default_rng(0)
    shapes = [(BATCH, length, n, HEAD) for n in (heads, kv_heads, kv_heads)]
    return [jnp.asarray(scale * rng.standard_normal(shape, np.float32)) for shape in shapes]


def _worst(actual, expected) -> float:
    return float(jnp.max(jnp.abs(actual - expected)) / jnp.max(jnp.abs(expected)))


@pytest.mark.parametrize(
    ("heads", "causal", "lengths", "size"),
    [
        (2, False, None, 4),
        (2, True, LENGTHS, 4),
        (4, False, LENGTHS, 4),
        (4, True, None, 4),
        (4, False, LENGTHS, 19),
        (2, True, None, 32),
    ],
)
def test_blocks_are_the_plain_form_in_value_and_gradient(heads, causal, lengths, size):
    inputs = _heads(heads, 2)
    options = {"lengths": None if lengths is None else jnp.asarray(lengths), "causal": causal}

    def loss(run, inputs):
        mixed = run(*inputs)
        return jnp.sum(mixed * jnp.cos(jnp.arange(mixed.size).reshape(mixed.shape))), mixed

    def both(run):
        return jax.value_and_grad(lambda inputs: loss(run, inputs), has_aux=True)(inputs)

    (_, actual), gradients = both(lambda *x: attend_in_blocks(*x, **options, block=size))
    (_, expected), wanted = both(lambda *x: attend_plainly(*x, **options))
    assert _worst(actual, expected) < TOLERANCE
    for gradient, right in zip(gradients, wanted, strict=True):
        assert _worst(gradient, right) < TOLERANCE
    other = attend_plainly(*inputs, lengths=options["lengths"], causal=not causal)
    assert _worst(actual, other) > 0.1


@pytest.mark.parametrize("scale", [1e-3, 30.0], ids=["flat", "one key takes all"])
def test_scores_of_any_size_are_accumulated_without_overflow(scale):
    inputs = _heads(2, 2, scale=scale)
    actual = attend_in_blocks(*inputs, block=SIZE)
    assert np.isfinite(np.asarray(actual)).all()
    assert _worst(actual, attend_plainly(*inputs)) < TOLERANCE


def test_a_gated_bias_by_distance_is_that_bias_written_out():
    query, key, value = _heads(2, 2, length=12)
    rng = np.random.default_rng(1)
    by_distance = jnp.asarray(rng.standard_normal((2, 23), np.float32))
    gates = jnp.asarray(rng.standard_normal((BATCH, 2, 12, 1), np.float32))
    place = np.arange(12)
    spread = by_distance[:, place[None, :] - place[:, None] + 11]
    lengths = jnp.asarray([12, 7, 3])
    expected = attend_plainly(query, key, value, lengths=lengths, bias=gates * spread[None])
    parts = [jnp.moveaxis(x.reshape(BATCH, 3, SIZE, 2, HEAD), 1, 0) for x in (query, key, value)]
    blocks = key_blocks(parts[1], parts[2], lengths)
    for number in range(3):
        rows = slice(number * SIZE, (number + 1) * SIZE)
        bias = DistanceBias(gates[:, :, rows], by_distance)
        actual = attend_to(parts[0][number], blocks, first=jnp.int32(number * SIZE), bias=bias)
        assert _worst(actual, expected[:, rows]) < TOLERANCE
    rows = slice(2 * SIZE, 3 * SIZE)
    turned = DistanceBias(gates[:, :, rows], by_distance[:, ::-1])
    other = attend_to(parts[0][2], blocks, first=jnp.int32(8), bias=turned)
    assert _worst(other, expected[:, rows]) > 0.01


def test_short_sequences_stay_plain_to_the_bit_and_long_ones_are_in_blocks():
    assert not blocks_pay(1500)
    short = _heads(2, 2)
    assert (attend(*short) == attend_plainly(*short)).all()
    assert not (attend_in_blocks(*short, block=SIZE) == attend_plainly(*short)).all()

    long = 2 * BLOCK + 1
    assert blocks_pay(long)
    inputs = [x[:1, :, :1] for x in _heads(1, 1, length=long)]
    assert (attend(*inputs) == attend_in_blocks(*inputs)).all()
    assert not (attend(*inputs) == attend_plainly(*inputs)).all()
    # A bias that is written out has the size of the scores already.
    zeros = jnp.zeros((1, 1, long, long))
    assert (attend(*inputs, bias=zeros) == attend_plainly(*inputs)).all()


def _bytes(run, shape, *, gradient: bool = False) -> int:
    """Temporary memory of a compiled call."""
    called = lambda x: run(x, x, x)  # noqa: E731
    if gradient:
        called = jax.grad(lambda x: jnp.sum(run(x, x, x) ** 2))
    analysis = jax.jit(called).lower(shape).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
def test_memory_grows_with_the_length_and_not_its_square(gradient):
    def of(run, length):
        return _bytes(run, jax.ShapeDtypeStruct((1, length, 2, 4), jnp.float32), gradient=gradient)

    blocks = lambda *x: attend_in_blocks(*x, block=64)  # noqa: E731
    assert of(blocks, 4096) < 2.2 * of(blocks, 2048)
    if gradient:  # What is inside XLA's own attention of the forward pass is not counted.
        assert of(attend_plainly, 4096) > 3.5 * of(attend_plainly, 2048)
