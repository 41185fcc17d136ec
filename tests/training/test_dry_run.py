"""`mrl-jax train --dry-run`: what it prints is true of the run, and nothing is trained."""

import re
import subprocess
import sys

import pytest
import tiny_run

from mrl_jax.core.cli import run_command
from mrl_jax.core.commands import main
from mrl_jax.core.run_lock import owned


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_run.make_world(tmp_path_factory.mktemp("dry"), examples=48)


def dry(root, capsys, *changes: str, status: int = 0) -> str:
    argv = ["train", "--config", str(root / "tiny.py"), "--workdir", str(root / "run")]
    capsys.readouterr()
    assert run_command(main, [*argv, "--dry-run", "train.validate_every=0", *changes]) == status
    out, error = capsys.readouterr()
    return error if status else out


def flops(line: str) -> tuple[float, float]:
    match = re.search(r"([\d.e-]+) TFLOP a step, ([\d.e-]+) a device", line)
    assert match is not None
    return float(match[1]), float(match[2])


def test_it_names_shapes_memory_and_operations(root, capsys):
    lines = dry(root, capsys, "train.devices=1").splitlines()
    shapes = [line for line in lines if "% of steps" in line]
    assert "batch shape(s) in the first 12 steps" in "\n".join(lines)
    assert 1 <= len(shapes) <= 2
    assert sum(int(line.split("%")[0]) for line in shapes) in (99, 100, 101)
    for line in shapes:
        assert re.search(r"[\d.]+ MB a device \([\d.]+ MB weights, state and batch", line)
        assert "speech" in line or "samples" in line or "clips" in line
    assert not (root / "run" / "checkpoints").exists()
    assert not (root / "run" / "metrics.jsonl").exists()
    two = [x for x in dry(root, capsys, "train.devices=2").splitlines() if "% of steps" in x]
    for one, both in zip(shapes, two, strict=True):
        assert flops(one)[0] == flops(one)[1]
        assert flops(both)[1] == pytest.approx(flops(both)[0] / 2, rel=1e-3)
        assert flops(both)[0] == pytest.approx(flops(one)[0], rel=0.1)


def test_devices_that_are_not_there_are_simulated(root):
    argv = [sys.executable, "-m", "mrl_jax.core.commands", "train", "--config", root / "tiny.py"]
    changes = ["train.devices=4", "train.parallel=mesh", "train.fsdp=2", "--dry-run"]
    changes.append("train.validate_every=0")
    done = subprocess.run(
        [*map(str, argv), "--workdir", str(root / "four"), *changes], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "on 4 device(s) by mesh" in done.stdout
    assert "TFLOP a step" in done.stdout


def test_the_folder_of_a_run_under_way_is_left_alone(root, capsys):
    with owned(root / "run"):
        before = sorted((root / "run").rglob("*"))
        assert "another run writes here" in dry(root, capsys, "train.devices=1", status=2)
        assert sorted((root / "run").rglob("*")) == before


@pytest.mark.parametrize("size", [9, 7])
def test_an_uneven_batch_is_refused(root, capsys, size):
    changes = ("train.devices=2", f"data.batch.batch_size={size}")
    error = dry(root, capsys, *changes, status=2)
    assert f"data.batch.batch_size is {size}, expected a multiple of 2" in error
    assert error.count("\n") == 1
