"""Shares of tasks: temperatures against numpy, the weights of a manifest, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches.mix import TaskMixConfig, describe_mix, draws_of, shares_of
from mrl_jax.data.batches.plan import BatchPlan

COUNTS = {"large": 900, "small": 100}
TASKS = ["large"] * 90 + ["small"] * 10


def shares(counts, temperature):
    options = {"shares": {}, "kind": "task", "where": "mix"}
    return shares_of(counts, temperature=temperature, **options)


def draws(config, *, tasks=TASKS, weights=None, batch_size=4, one_task=False):
    return draws_of(tasks, weights, config, batch_size=batch_size, one_task=one_task)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 10**5), min_size=1, max_size=6), st.floats(0.5, 50.0))
def test_a_temperature_is_a_power_of_the_counts(counts, temperature):
    made = shares({str(i): n for i, n in enumerate(counts)}, temperature)
    powers = np.asarray(counts, np.float64) ** (1 / temperature)
    np.testing.assert_allclose(list(made.values()), powers / powers.sum(), rtol=1e-9)


def test_one_is_natural_and_infinity_uniform():
    assert shares(COUNTS, 1.0) == pytest.approx({"large": 0.9, "small": 0.1})
    assert shares(COUNTS, math.inf) == {"large": 0.5, "small": 0.5}
    # XLM-R's exponent, 0.3.
    assert shares(COUNTS, 1 / 0.3)["small"] == pytest.approx(100**0.3 / (100**0.3 + 900**0.3))


def test_the_config_takes_the_place_of_the_manifests_weights():
    weights = np.where(np.arange(100) < 50, 1.0, 3.0)
    of_manifest = draws(TaskMixConfig(), weights=weights)
    assert of_manifest is not None
    np.testing.assert_array_equal(of_manifest.weights * 4, weights)  # Relative to each other.
    # By task and weight: both parts of "large" hold their shares.
    assert len(set(of_manifest.strata.tolist())) == 3
    mixed = draws(TaskMixConfig(shares={"large": 0.6, "small": 0.4}), weights=weights)
    assert mixed is not None
    total = np.bincount([task == "small" for task in TASKS], mixed.weights)
    np.testing.assert_allclose(total, [0.6, 0.4])
    # None: the plan is the one without weights, to the bit.
    assert draws(TaskMixConfig(temperature=1.0), weights=weights) is None
    assert draws(TaskMixConfig(shares={"large": 0.9, "small": 0.1})) is None
    assert draws(TaskMixConfig()) is None
    assert draws(TaskMixConfig(), weights=np.full(100, 2.5)) is None


@pytest.mark.parametrize(("high", "low"), [(1e9, 1e-9), (1e308, 1.0), (1.0, 5e-324)])
def test_weights_may_be_of_any_size(high, low):
    made = draws(TaskMixConfig(), tasks=[""] * 40, weights=np.repeat([high, low], 20))
    assert made is not None
    assert "0 times" not in describe_mix([""] * 40, made)
    plan = BatchPlan(
        np.full(40, 1600), np.zeros(40, int), batch_size=4, num_buckets=1, seed=0, draws=made
    )
    drawn = np.concatenate([plan(step)[1] for step in range(10)])
    assert np.bincount(drawn, minlength=40).tolist() == [2] * 20 + [0] * 20


def test_a_weight_that_cannot_be_had_is_refused_by_what_gave_it():
    weights = np.where(np.arange(100) < 3, 50.0, 1.0)
    with pytest.raises(MrlError, match=r"^data\.batch\.mix: the 3 examples without a task that"):
        draws(TaskMixConfig(), tasks=[""] * 100, weights=weights, batch_size=8)
    with pytest.raises(MrlError, match=r"of the task 'large' that have the largest .* 1\.6 times"):
        draws(TaskMixConfig(), weights=weights, batch_size=8)
    aside = TaskMixConfig(temperature=1.0)  # What the hint says.
    assert draws(aside, tasks=[""] * 100, weights=weights, batch_size=8) is None


def test_a_line_says_the_shares():
    made = draws(TaskMixConfig(shares={"large": 0.6, "small": 0.4}))
    assert made is not None
    assert describe_mix(TASKS, made) == (
        "mix, with draws of an example an epoch: "
        "large 60.0% (90.0% of the data, 0.667 times), small 40.0% (10.0% of the data, 4 times)"
    )
    weights = np.where(np.arange(100) < 50, 1.0, 3.0)
    made = draws(TaskMixConfig(), tasks=[""] * 100, weights=weights)
    assert made is not None
    assert describe_mix([""] * 100, made).endswith(
        "no task 100.0% (100.0% of the data, 0.5 to 1.5 times)"
    )


def test_shares_reach_the_batches():
    """From a config to the examples that a plan draws, in one batch of tasks or in many."""
    config = TaskMixConfig(temperature=math.inf)
    for one_task in (False, True):
        made = draws(config, one_task=one_task)
        assert made is not None
        numbers = np.asarray([task == "small" for task in TASKS], np.int64)
        groups = numbers if one_task else np.zeros_like(numbers)
        sizes = {"batch_size": 4, "num_buckets": 2, "seed": 0}
        plan = BatchPlan(np.arange(1, 101) * 100, groups, draws=made, **sizes)
        drawn = np.concatenate([plan(step)[1] for step in range(25)])
        assert abs(numbers[drawn].sum() - 50) <= (4 if one_task else 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0, expected above 0"),
        ({"temperature": -1.0}, "temperature is -1.0, expected above 0"),
        ({"temperature": math.nan}, "temperature is NaN, expected a number"),
        ({"shares": {"a": -0.5, "b": 1.5}}, "the share of 'a' is -0.5, expected above 0 to 1"),
        ({"shares": {"a": 0.0, "b": 1.0}}, "the share of 'a' is 0, expected above 0 to 1"),
        ({"shares": {"a": math.nan}}, "'a' is NaN, expected a number"),
        ({"shares": {"a": math.inf}}, "the share of 'a' is inf, expected above 0 to 1"),
        ({"shares": {"a": 0.5, "b": 0.4}}, "the shares sum to 0.9, expected 1"),
        ({"shares": {"a": 1.0}, "temperature": 2.0}, "has shares and a temperature"),
    ],
)
def test_shares_without_sense_are_refused(fields, message):
    with pytest.raises(MrlError, match=message):
        TaskMixConfig(**fields)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({"shares": {"large": 0.5, "smal": 0.5}}, {}, "'smal', and no .* Did you mean small"),
        ({"shares": {"large": 1.0}}, {}, "no share for the task 'small', of 10 examples"),
        ({"temperature": 2.0}, {"tasks": ["a"] * 9}, "is 2, and all examples are of one task"),
        ({"temperature": 0.01}, {}, "is 0.01, which leaves nothing of the task 'small'"),
        (
            {"shares": {"large": 0.5, "small": 0.5}},
            {"batch_size": 32},
            "the 10 examples of the task 'small' are too few for their share: one would be 1.6 "
            "times in each batch of 32",
        ),
        (
            {"temperature": 2.0},
            {"batch_size": 20, "one_task": True},
            "the 10 examples of the task 'small' are too few .* 2.0 times in each batch of 20",
        ),
    ],
)
def test_shares_that_cannot_be_had_are_refused(config, options, message):
    with pytest.raises(MrlError, match=message) as error:
        draws(TaskMixConfig(**config), **options)
    assert str(error.value).startswith("data.batch.mix")
    assert "\n" not in str(error.value)
