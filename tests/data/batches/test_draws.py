"""Plans with weights: shares by numpy counts, no copies in a batch, any step from a fresh plan."""

import hashlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches import draws
from mrl_jax.data.batches.draws import Draws
from mrl_jax.data.batches.plan import BatchPlan

PLANS_BEFORE = {
    (53, 1, 8, 3): "48645227369ea503",
    (200, 3, 16, 4): "f66f58b2679ec00e",
    (97, 2, 5, 1): "1aeaf271be35361f",
}
"""`digest_of_plan` at commit f8d2610, the last one whose plans knew no weights."""


def digest_of_plan(examples: int, groups: int, batch_size: int, buckets: int) -> str:
    rng = np.random.default_rng(examples)
    lengths, group = rng.integers(1, 30_000, examples), rng.integers(0, groups, examples)
    plan = BatchPlan(lengths, group, batch_size=batch_size, num_buckets=buckets, seed=5)
    steps = (plan(step) for step in range(3 * plan.batches_per_epoch))
    lines = "".join(f"{bucket}:{rows.tolist()}\n" for bucket, rows in steps)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


@pytest.mark.parametrize("sizes", PLANS_BEFORE)
def test_plans_without_weights_are_what_they_were(sizes):
    assert digest_of_plan(*sizes) == PLANS_BEFORE[sizes]


def make_plan(tasks, shares, *, one_task=False, batch_size=4, buckets=3, seed=0):
    """A plan of examples of some tasks (numbers), drawn at the tasks' shares."""
    tasks, shares = np.asarray(tasks), np.asarray(shares)
    lengths = np.random.default_rng(len(tasks)).integers(1, 30_000, len(tasks))
    weights = (shares / shares.sum() / np.bincount(tasks))[tasks]
    plan = BatchPlan(
        lengths,
        tasks if one_task else np.zeros_like(tasks),
        batch_size=batch_size,
        num_buckets=buckets,
        seed=seed,
        draws=Draws(weights=weights, strata=tasks),
    )
    return plan, lengths, len(tasks) // batch_size * batch_size * weights


def epoch_of(plan, epoch):
    """[batches, batch_size], the examples of an epoch."""
    steps = range(epoch * plan.batches_per_epoch, (epoch + 1) * plan.batches_per_epoch)
    return np.stack([plan(step)[1] for step in steps])


@st.composite
def mixes(draw):
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    shares = [draw(st.floats(0.02, 1.0)) for _ in sizes]
    tasks = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    batch_size = draw(st.integers(1, 8))
    assume(len(tasks) >= batch_size)
    options = {"batch_size": batch_size, "buckets": draw(st.integers(1, 5))}
    options |= {"one_task": draw(st.booleans()), "seed": draw(st.integers(0, 3))}
    return tasks, shares, options


@settings(max_examples=80, deadline=None)
@given(mixes())
def test_shares_hold_in_every_epoch_and_no_batch_has_an_example_twice(mix):
    tasks, shares, options = mix
    batch_size, one_task = options["batch_size"], options["one_task"]
    # Of each task there are as many as stand in a batch, or more.
    in_a_batch = batch_size * (1.0 if one_task else np.asarray(shares) / sum(shares))
    if (in_a_batch > np.bincount(tasks) * (1 + 1e-8)).any():
        with pytest.raises(MrlError, match="an example would be"):
            make_plan(tasks, shares, **options)
        return
    plan, lengths, expected = make_plan(tasks, shares, **options)
    assert plan.batches_per_epoch == len(tasks) // batch_size
    slack = batch_size if one_task else 1
    for epoch in range(2):
        batches = epoch_of(plan, epoch)
        assert all(len(set(batch)) == batch_size for batch in batches.tolist())
        counts = np.bincount(batches.ravel(), minlength=len(tasks))
        of_tasks = np.bincount(tasks, counts), np.bincount(tasks, expected)
        np.testing.assert_array_less(np.abs(of_tasks[0] - of_tasks[1]), slack + 1e-6)
        if one_task:
            # Of a task all are used as often, to within one.
            assert all(len(set(tasks[batch])) == 1 for batch in batches)
            expected_here = (of_tasks[0] / np.bincount(tasks))[tasks]
        else:
            expected_here = expected
        assert (np.floor(expected_here + 1e-6) - 1e-6 <= counts).all()
        assert (counts <= np.ceil(expected_here - 1e-6) + 1e-6).all()
        for place in range(plan.batches_per_epoch):
            bucket, rows = plan(epoch * plan.batches_per_epoch + place)
            assert lengths[rows].max() <= plan.sizes[bucket]


def test_each_epoch_draws_others_of_a_task_below_its_natural_share():
    plan, _, _ = make_plan([0] * 60 + [1] * 20, [0.5, 0.5])
    first, second = (set(epoch_of(plan, epoch).ravel().tolist()) for epoch in range(2))
    low = set(range(60))
    assert len(first & low) == len(second & low) == 40
    assert first & low != second & low
    # In time every one.
    assert low <= {i for epoch in range(12) for i in epoch_of(plan, epoch).ravel().tolist()}
    high = np.bincount(epoch_of(plan, 0).ravel(), minlength=80)[60:]
    assert (high == 2).all()


def test_at_natural_shares_every_example_is_used_once():
    for one_task in (False, True):
        plan, _, _ = make_plan([0] * 24 + [1] * 8, [0.75, 0.25], one_task=one_task)
        assert sorted(epoch_of(plan, 3).ravel().tolist()) == list(range(32))


def test_a_batch_is_a_function_of_seed_and_step():
    tasks, shares = [0] * 50 + [1] * 13, [0.4, 0.6]
    plan, _, _ = make_plan(tasks, shares)
    whole = [plan(step) for step in range(3 * plan.batches_per_epoch)]
    fresh, _, _ = make_plan(tasks, shares)
    for step in (40, 17, 44, 0, 16):  # As a resumed run reads them, or another host.
        assert fresh(step)[0] == whole[step][0]
        np.testing.assert_array_equal(fresh(step)[1], whole[step][1])
    other, _, _ = make_plan(tasks, shares, seed=1)
    assert any((other(step)[1] != whole[step][1]).any() for step in range(5))


def test_few_examples_of_one_length_are_spread_over_all_batches():
    """The short ones are drawn more often than there are batches of their own length."""
    tasks = np.asarray([0] * 60 + [1] * 5)
    lengths = np.where(tasks == 1, 1000, 20_000)
    often = Draws(weights=np.where(tasks == 1, 11.9, 1.0), strata=tasks)
    sizes = {"batch_size": 4, "num_buckets": 2, "seed": 0}
    plan = BatchPlan(lengths, np.zeros(65, np.int64), draws=often, **sizes)
    batches = epoch_of(plan, 0)
    assert all(len(set(batch)) == 4 for batch in batches.tolist())
    assert (batches >= 60).sum() in (31, 32)  # 64 * 59.5 / 119.5


def test_copies_are_dealt_rather_than_exchanged(monkeypatch):
    """Half of each batch is of 17 examples: shuffled alone, 17 * 66 copies would be in one batch
    with another.
    """
    exchanges = []
    take = draws._place_to_take
    monkeypatch.setattr(draws, "_place_to_take", lambda *args: exchanges.append(1) or take(*args))
    tasks = np.repeat([0, 1], [6400, 17])
    weights = (0.5 / np.bincount(tasks))[tasks]
    plan = BatchPlan(
        np.full(len(tasks), 20_000),
        np.zeros_like(tasks),
        batch_size=32,
        num_buckets=1,
        seed=0,
        draws=Draws(weights=weights, strata=tasks),
    )
    batches = epoch_of(plan, 0)
    assert (np.diff(np.sort(batches, axis=1)) > 0).all()
    assert len(exchanges) < 17 * 66 / 2
    assert set(np.bincount(batches.ravel())[-17:]) == {188, 189}


def test_an_example_that_would_be_twice_in_every_batch_is_refused():
    with pytest.raises(MrlError, match=r"an example would be 1\.5 times in each batch of 6"):
        make_plan([0] * 20 + [1] * 2, [0.5, 0.5], batch_size=6)
    make_plan([0] * 20 + [1] * 3, [0.5, 0.5], batch_size=6)  # Three of them in each.
    with pytest.raises(MrlError, match=r"an example would be 2\.0 times in each batch of 6"):
        make_plan([0] * 20 + [1] * 3, [0.9, 0.1], batch_size=6, one_task=True)
    with pytest.raises(MrlError, match="there are 3 examples, expected at least the 4 of one"):
        make_plan([0, 0, 1], [0.5, 0.5])
