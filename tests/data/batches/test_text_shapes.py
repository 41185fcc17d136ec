"""Shapes of batches of texts: few, near what is needed, and enough for every epoch."""

import numpy as np

from mrl_jax.data.batches.text_plan import PairPlan
from mrl_jax.data.batches.text_shapes import few_shapes, fitting_shape, padded_tokens


def test_padded_lengths_are_few_and_near():
    sizes = [padded_tokens(length) for length in range(1, 2049)]
    assert sizes == sorted(sizes)
    assert all(length <= size for length, size in enumerate(sizes, 1))
    assert all(size <= 1.5 * length + 1 for length, size in enumerate(sizes, 1) if length > 16)
    assert set(sizes) == {16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048}


def test_what_is_joined_is_what_adds_least_padding():
    longest = [(10, 30)] * 50 + [(10, 40)] * 2 + [(60, 60)] * 20
    assert few_shapes(longest, (60, 60), most=3) == [(16, 32), (16, 48), (64, 64)]
    assert few_shapes(longest, (60, 60), most=2) == [(16, 32), (64, 64)]
    assert few_shapes(longest, (60, 200), most=1) == [(64, 64), (64, 256)]


def test_all_epochs_of_tasks_with_prompts_of_many_lengths_have_the_shapes_of_the_first():
    rng, count = np.random.default_rng(0), 3000
    task = rng.integers(5, size=count)
    written = np.clip(rng.lognormal(2.2 + 0.3 * task, 0.6), 2, 400).astype(int)
    query = np.array([0, 9, 14, 21, 37])[task] + written
    document = np.clip(rng.lognormal(3.5 + 0.3 * (task % 3), 0.7), 3, 512).astype(int)
    lengths = np.stack([query, document])
    plan = PairPlan(lengths.sum(axis=0), [str(t) for t in task], batch_size=32, seed=0)

    def longest(step: int) -> tuple[int, int]:
        first, second = lengths[:, plan(step)].max(axis=1).tolist()
        return first, second

    steps, limit = plan.batches_per_epoch, (int(query.max()), int(document.max()))
    without = {tuple(map(padded_tokens, longest(step))) for step in range(6 * steps)}
    first = {tuple(map(padded_tokens, longest(step))) for step in range(steps)}
    assert len(first) > 24  # So many would be compiled in the first epoch,
    assert len(without) > len(first)  # and more of them later.
    shapes = few_shapes(map(longest, range(steps)), limit)
    assert len(shapes) <= 25
    used = [fitting_shape(shapes, *longest(step)) for step in range(6 * steps)]
    assert set(used[steps:]) <= {*used[:steps], shapes[-1]}
    for step, shape in enumerate(used):
        assert all(need <= size for need, size in zip(longest(step), shape, strict=True))
    needed = sum(sum(map(padded_tokens, longest(step))) for step in range(steps))
    assert sum(map(sum, used[:steps])) < 1.1 * needed
