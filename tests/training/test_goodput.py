"""Goodput against sums by hand, and from runs that were stopped."""

import json
import re

import pytest
import tiny_run

from mrl_jax.training.goodput import ATTEMPTS_FILE, begin_attempt, measure_goodput
from mrl_jax.training.metrics_log import METRICS_FILE, read_metrics


def row(step: int, time: float, seconds: float, *, compiled: bool = False) -> dict[str, object]:
    return {
        "kind": "train",
        "step": step,
        "time": time,
        "seconds": seconds,
        "seconds_input": 0.1,
        "compiled": float(compiled),
    }


def test_steps_done_again_are_lost_time(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 2100.0)
    begin_attempt(tmp_path, step=0, started=1000.0, rows=[])
    # Killed 50 s after its start, with three steps, the last of which no checkpoint holds.
    first = [row(1, 1030.0, 20.0, compiled=True), row(2, 1040.0, 10.0), row(3, 1050.0, 10.0)]
    begin_attempt(tmp_path, step=2, started=2000.0, rows=first)
    rows = [*first[:2], row(3, 2060.0, 10.0), row(4, 2080.0, 20.0)]
    found = measure_goodput(tmp_path, rows)
    assert found is not None
    assert found.total == 50 + 100
    assert found.steps == 10 + 10 + 10 + 20  # The compiled one counts as a usual one.
    assert found.compilation == 10
    assert found.restarts == 1
    assert found.share == pytest.approx(50 / 150)
    assert found.input_wait == pytest.approx(0.4)
    assert "goodput 33%: 50.0 of 150.0 s in steps (0.8% waiting for input)" in found.line()
    assert "90.0 s in start-up" in found.line()


def test_a_clock_that_is_set_back(tmp_path, monkeypatch):
    begin_attempt(tmp_path, step=0, started=5000.0, rows=[])
    monkeypatch.setattr("time.time", lambda: 1000.0)
    found = measure_goodput(tmp_path, [row(1, 1010.0, 20.0, compiled=True), row(2, 1000.0, 10.0)])
    assert found is not None
    assert (found.total, found.share) == (30.0, pytest.approx(2 / 3))
    assert "goodput 67%: 20.0 of 30.0 s" in found.line()
    still = measure_goodput(tmp_path, [row(1, 1000.0, 0.0)])
    assert still is not None
    assert still.share == 0


def test_half_a_line_of_a_killed_attempt_costs_that_line_alone(tmp_path, monkeypatch):
    begin_attempt(tmp_path, step=0, started=1000.0, rows=[])
    with (tmp_path / ATTEMPTS_FILE).open("a") as file:
        file.write('{"step": 0, "ti')
    begin_attempt(tmp_path, step=0, started=2000.0, rows=[])
    monkeypatch.setattr("time.time", lambda: 2050.0)
    found = measure_goodput(tmp_path, [row(1, 2010.0, 10.0)])
    assert found is not None
    assert (found.total, found.restarts) == (50.0, 1)


def test_files_of_older_runs_and_damaged_ones_tell_nothing(tmp_path):
    rows = [row(1, 5.0, 1.0)]
    assert measure_goodput(tmp_path, rows) is None
    (tmp_path / ATTEMPTS_FILE).write_bytes(b'{"step": 0\xff\n[1]\n{"step": 0, "time": "x"}\n')
    assert measure_goodput(tmp_path, rows) is None
    begin_attempt(tmp_path, step=0, started=1.0, rows=rows)
    assert measure_goodput(tmp_path, [{"kind": "train", "step": 1, "loss": 1.0}]) is None
    assert measure_goodput(tmp_path, rows) is not None


def test_a_stopped_run_counts_its_restart(tmp_path):
    root = tiny_run.make_world(tmp_path, examples=24)
    with tiny_run.sigterm_after(2):
        _, lines = tiny_run.four_steps(root, "run")
    assert not any("restart" in line for line in lines)
    _, lines = tiny_run.four_steps(root, "run")
    (line,) = [line for line in lines if line.startswith("goodput ")]
    assert line.endswith("; 1 restart(s)")
    numbers = re.match(r"goodput \d+%: ([\d.]+) of ([\d.]+) s", line)
    assert numbers is not None
    assert 0 < float(numbers[1]) < float(numbers[2])
    rows = read_metrics(root / "run" / METRICS_FILE)
    trained = [row for row in rows if row["kind"] == "train"]
    assert len(trained) == 4
    for one in trained:
        parts = [one[f"seconds_{name}"] for name in ("input", "dispatch", "device")]
        assert min(parts) >= 0
        assert sum(parts) <= one["seconds"] + 1e-6
    attempts = (root / "run" / ATTEMPTS_FILE).read_text().splitlines()
    assert json.loads(attempts[0])["step"] == 0
    assert len(attempts) == 2
