"""Runs on weighted rows and mixed tasks: what is logged, what is trained on, what is refused."""

import json

import numpy as np
import pytest
import tiny_ctc
import tiny_run

from mrl_jax.core.config import load_config, override
from mrl_jax.data.build.dataset import open_dataset
from mrl_jax.training.ctc.config import CtcExperiment
from mrl_jax.training.ctc.run import train_recogniser

EXAMPLES = 32
TASKS, LARGE = "data.train={tasks}", "data.batch.batch_size=16"


def changed_manifest(world, name, change):
    """The manifest with other fields of each row, `change(number)`; beside its recordings."""
    path = world / "data" / f"{name}.jsonl"
    rows = map(json.loads, (world / "data" / "train.jsonl").read_text().splitlines())
    lines = [json.dumps(row | change(i)) + "\n" for i, row in enumerate(rows)]
    path.write_text("".join(lines))
    return path


def is_rare(number):
    return number % 4 == 3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tiny_run.make_world(tmp_path_factory.mktemp("mix"), examples=EXAMPLES)
    changed_manifest(root, "weighted", lambda i: {"weight": 3.0 if is_rare(i) else 1.0})
    changed_manifest(root, "tasks", lambda i: {"task": "rare" if is_rare(i) else "usual"})
    return root


def test_weights_of_rows_are_trained_by_and_can_be_put_aside(world):
    plain, lines = tiny_run.four_steps(world, "plain")
    assert not any(line.startswith("mix") for line in lines)
    train = f"data.train={world / 'data' / 'weighted.jsonl'}"
    weighted, lines = tiny_run.four_steps(world, "weighted", train)
    assert lines[0] == (
        "mix, with draws of an example an epoch: "
        "no task 100.0% (100.0% of the data, 0.667 to 2 times)"
    )
    assert weighted != plain
    assert open_dataset(world / "weighted" / "data").weights is not None
    aside, lines = tiny_run.four_steps(world, "aside", train, "data.batch.mix.temperature=1")
    assert aside == plain  # To the bit.
    assert not any(line.startswith("mix") for line in lines)


def test_tasks_are_mixed_by_the_config_of_the_run(world):
    train = f"data.train={world / 'data' / 'tasks.jsonl'}"
    _, lines = tiny_run.four_steps(world, "even", train, "data.batch.mix.temperature=inf")
    assert lines[0] == (
        "mix, with draws of an example an epoch: "
        "rare 50.0% (25.0% of the data, 2 times), usual 50.0% (75.0% of the data, 0.667 times)"
    )
    config = json.loads((world / "even" / "experiment.json").read_text())
    assert config["data"]["batch"]["mix"]["temperature"] == np.inf
    _, again = tiny_run.four_steps(world, "even", train, "data.batch.mix.temperature=1e999")
    assert not any("config has changed" in line for line in again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.batch.mix.temperature=0"], "temperature is 0.0, expected above 0"),
        (["data.batch.mix.temperature=2"], "is 2, and all examples are of one task"),
        (["data.batch.mix.shares.a=0.5"], "data.batch.mix.shares: the shares sum to 0.5"),
        (["data.batch.mix.shares.a=nan"], "shares.a is 'nan', expected a number"),
        (
            [TASKS, "data.batch.mix.shares.usuall=0.5", "data.batch.mix.shares.rare=0.5"],
            "no example of that task. Did you mean usual?",
        ),
        (
            [TASKS, LARGE, "data.batch.mix.shares.usual=0.1", "data.batch.mix.shares.rare=0.9"],
            "the 8 examples of the task 'rare' are too few for their share",
        ),
        (
            [TASKS, LARGE, "data.batch.mix.temperature=2", "data.batch.task_homogeneous=true"],
            "the 8 examples of the task 'rare' are too few for their share",
        ),
    ],
)
def test_wrong_mixes_are_one_line_and_status_2(world, changes, message, tmp_path):
    changes = [change.format(tasks=world / "data" / "tasks.jsonl") for change in changes]
    tiny_run.assert_refused(world / "tiny.py", tmp_path / "run", changes, message)
    assert not (tmp_path / "run" / "model.json").exists()


def test_a_recogniser_is_trained_by_the_weights_too(world, one_device):
    speech, manifest = world / "towers" / "speech", world / "data" / "weighted.jsonl"
    config = load_config(tiny_ctc.make_config(world, speech, manifest), CtcExperiment)
    changes = ["train.steps=1", "model.vocabulary=characters"]
    lines: list[str] = []
    config = override(config, changes)
    train_recogniser(config, world / "ctc", devices=one_device, log=lines.append)
    assert lines[0].startswith("mix, with draws of an example an epoch: no task 100.0%")
