"""Which pairs of texts make up a batch: of one task, as often as its weight says."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_jax.core.config import override
from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches.text import TextBatchConfig
from mrl_jax.data.batches.text_plan import PairPlan, alike_batches

TASKS = ["a"] * 11 + ["b"] * 5 + ["a"] * 6 + ["c"] * 9
LENGTHS = [3 + 7 * i % 13 for i in range(len(TASKS))]


def plan(tasks=TASKS, *, weights=None, seed=0, batch_size=4):
    return PairPlan(LENGTHS[: len(TASKS)], tasks, batch_size=batch_size, weights=weights, seed=seed)


def task_of(rows):
    (task,) = {TASKS[row] for row in rows}
    return task


def test_a_batch_has_pairs_of_one_task_and_an_epoch_every_batch_once():
    ours = plan()
    assert ours.batches_per_epoch == 17 // 4 + 5 // 4 + 9 // 4
    for epoch in range(3):
        batches = [ours(epoch * 7 + place).tolist() for place in range(7)]
        assert all(len(rows) == 4 for rows in batches)
        assert collections.Counter(map(task_of, batches)) == {"a": 4, "b": 1, "c": 2}
        used = list(itertools.chain(*batches))
        assert len(set(used)) == len(used)


def test_batches_are_a_function_of_seed_and_step():
    forward = [plan_(step).tolist() for plan_ in [plan()] for step in range(30)]
    backward = plan()
    assert [backward(step).tolist() for step in reversed(range(30))] == forward[::-1]
    assert [plan(seed=1)(step).tolist() for step in range(30)] != forward


def test_without_tasks_the_order_is_that_of_one_drawing():
    ours = plan(None)
    for step in range(14):
        epoch, place = divmod(step, 7)
        np.testing.assert_array_equal(ours(step), alike_batches(LENGTHS, 4, 0, epoch)[place])
    assert any(len({TASKS[row] for row in ours(step)}) > 1 for step in range(7))


def test_tasks_of_as_many_pairs_are_drawn_apart():
    tasks = ["a", "b"] * 16
    ours = PairPlan([1] * 32, tasks, batch_size=4, seed=0)
    drawn = {"a": [], "b": []}
    for step in range(8):
        drawn[ours.turn(step)[0]].append(ours(step) // 2)
    assert not np.array_equal(np.sort(drawn["a"]), np.sort(drawn["b"]))


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.floats(0.01, 10) | st.integers(1, 5).map(float)] * 3),
    st.integers(1, 200),
)
def test_tasks_come_as_often_as_their_weights_say(numbers, steps):
    weights = dict(zip("abc", numbers, strict=True))
    ours = plan(weights=weights)
    turns = [ours.turn(step) for step in range(steps)]
    counts = collections.Counter(task for task, _ in turns)
    for task, weight in weights.items():
        assert counts[task] < weight / sum(numbers) * steps + 1 + 1e-6
        assert [number for name, number in turns if name == task] == list(range(counts[task]))
    if all(number.is_integer() for number in numbers):
        whole = [ours.turn(step)[0] for step in range(int(sum(numbers)))]
        assert collections.Counter(whole) == weights


def test_a_task_of_weight_0_never_comes_and_may_be_small():
    ours = plan(weights={"a": 1.0, "b": 0.0, "c": 2.0}, batch_size=8)
    assert ours.batches_per_epoch == 2 + 1
    assert [task_of(ours(step)) for step in range(6)].count("c") == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 6}, "there are 5 pairs of the task 'b', expected at least the 6"),
        ({"tasks": None, "batch_size": 40}, "there are 31 pairs of texts, expected at least"),
        ({"weights": {"a": 1.0, "c": 1.0}}, "task_weights has none for the task 'b'"),
        (
            {"weights": dict.fromkeys("abcd", 1.0)},
            "task_weights has one for 'd', and no pair is of that task. Write one of 'a', 'b', 'c'",
        ),
    ],
)
def test_tasks_and_weights_that_do_not_fit(options, message):
    with pytest.raises(MrlError) as caught:
        plan(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["task_weights.a=1"], "task_weights is set, and batches do not keep to one task"),
        (["task_homogeneous=true", "task_weights.a=-1"], "task_weights.a is -1.0, expected 0 or"),
        (["task_homogeneous=true", "task_weights.a=1e999"], "task_weights.a is inf, expected 0"),
        (["task_homogeneous=true", "task_weights.a=0"], "task_weights is 0 for every task"),
        (["task_homogeneous=true", "task_weights.a=much"], "'much', expected a number"),
    ],
)
def test_weights_that_are_refused(changes, message):
    with pytest.raises(MrlError) as caught:
        override(TextBatchConfig(), changes)
    assert message in str(caught.value)


def test_weights_are_numbers_by_name():
    config = override(
        TextBatchConfig(), ["task_homogeneous=true", "task_weights.a=3", "task_weights.b=.5"]
    )
    assert config.task_weights == {"a": 3.0, "b": 0.5}


def test_every_pair_is_left_out_of_some_epochs_alone():
    """Of 11 pairs 3 are left out of each epoch: not always those of the longest texts."""
    lengths = np.arange(11)
    epochs = [set(np.concatenate(alike_batches(lengths, 4, 0, epoch))) for epoch in range(40)]
    assert all(len(rows) == 8 for rows in epochs)
    counts = np.asarray([sum(row in rows for rows in epochs) for row in range(11)])
    assert counts.min() > 20
    assert counts.max() < 38
