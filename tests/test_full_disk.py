"""Disks that fill up: each writer ends in one line that says so, and leaves nothing half-written.

Real ones, of memory, which only root may mount.
"""

import contextlib
import gc
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax.checkpoints.arrays import save_arrays
from mrl_jax.checkpoints.train_state import RunCheckpoints
from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import staged_folder
from mrl_jax.data.build.__main__ import main
from mrl_jax.data.build.dataset import open_dataset
from mrl_jax.training.metrics_log import MetricsLog, read_metrics

FULL = "could not be written: No space left on device. Free some room there, or write to another"
RATE = 16000
Disk = Callable[[int], contextlib.AbstractContextManager[Path]]


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Makes an empty disk of some kilobytes; the test is skipped where that is not permitted."""

    @contextlib.contextmanager
    def mounted(kilobytes: int) -> Iterator[Path]:
        place = tmp_path / f"{kilobytes} kB"
        place.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
        try:
            subprocess.run(["mount", *options], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("a disk may not be mounted here")
        try:
            yield place
        finally:
            gc.collect()
            subprocess.run(["umount", "-l", str(place)], check=True)

    return mounted


@pytest.mark.slow
def test_a_build(disk, tmp_path, capfd):
    for needed in ("librosa", "tensorflow_datasets", "array_record", "pyarrow"):
        pytest.importorskip(needed)
    soundfile = pytest.importorskip("soundfile")
    rng = np.random.default_rng(0)
    with (tmp_path / "m.jsonl").open("w", encoding="utf-8") as lines:
        for row in range(24):
            soundfile.write(tmp_path / f"{row}.wav", 0.1 * rng.standard_normal(RATE), RATE)
            lines.write(json.dumps({"id": row, "audio": f"{row}.wav", "text": str(row)}) + "\n")
    # ArrayRecord fails as it opens a file, as it writes, or as it closes it; then the tables do.
    statuses = []
    for kilobytes in (4, 100, 700, 720, 732, 744, 756, 768, 2000):
        with disk(kilobytes) as place:
            statuses.append(run_command(main, [str(tmp_path / "m.jsonl"), str(place / "out")]))
            shown = capfd.readouterr().err.replace("\r", "\n").strip().splitlines()
            if statuses[-1] == 0:
                assert len(open_dataset(place / "out")) == 24
                continue
            assert shown[-1].startswith(f"error: {place}/out: {FULL}"), shown
            assert not any("Traceback" in line for line in shown)
            assert list(place.iterdir()) == []
    assert set(statuses[:3]) == {2}
    assert statuses == sorted(statuses, reverse=True)
    assert statuses[-1] == 0


def test_checkpoints(disk, capfd):
    rng = np.random.default_rng(0)
    state = {
        "a": jnp.asarray(rng.standard_normal((64, 1024)), jnp.float32),
        "b": {"c": jnp.ones(3), "d": jnp.asarray(rng.standard_normal((32, 1024)), jnp.float32)},
    }
    for kilobytes, written in ((4, []), (100, []), (300, []), (520, ["1"]), (700, ["1"])):
        with disk(kilobytes) as place, RunCheckpoints(place / "checkpoints") as checkpoints:
            for step in map(int, written):
                checkpoints.save(step, state, {"x": 1}, score=0.5)
            with pytest.raises(MrlError) as error:
                checkpoints.save(len(written) + 1, state, {"x": 1}, score=0.5)
            where = place / "checkpoints" / str(len(written) + 1)
            assert str(error.value).startswith(f"{where}: {FULL}")
            assert sorted(os.listdir(place / "checkpoints")) == written
            if written:
                restored = checkpoints.restore(1, state, {"x": 1})
                np.testing.assert_array_equal(restored["a"], state["a"])
    assert capfd.readouterr().err == ""


def test_arrays_of_towers_and_heads(disk, capfd):
    arrays = {"a": np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)}
    for kilobytes in (4, 40, 200):
        with disk(kilobytes) as place:
            with (
                pytest.raises(MrlError) as error,
                staged_folder(place / "tower", marker="tower.json") as staging,
            ):
                save_arrays(staging / "params", arrays)
            assert str(error.value).startswith(f"{place}/tower: {FULL}")
            assert list(place.iterdir()) == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("tensorboard", [False, True])
def test_metrics(disk, capfd, tensorboard):
    if tensorboard:
        pytest.importorskip("tensorboardX")

    def log(place: Path) -> Any:
        with MetricsLog(place, start=0, tensorboard=tensorboard) as metrics:
            for step in range(1, 5000):
                metrics.write("train", step, {"loss": 1.0 / step, "other": 2.0})

    for kilobytes in (12, 40):
        with disk(kilobytes) as place:
            with pytest.raises(MrlError) as error:  # And not a run that waits for ever.
                log(place)
            assert str(error.value).startswith(f"{place}: {FULL}")
            steps = [row["step"] for row in read_metrics(place / "metrics.jsonl")]
            assert steps == list(range(1, len(steps) + 1))
            assert steps
    assert capfd.readouterr().err == ""
