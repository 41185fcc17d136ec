"""metrics.jsonl after power losses: what is sound is kept, what is not is told."""

import json

import pytest

from mrl_jax.training.metrics_log import METRICS_FILE, MetricsLog, read_metrics

ROWS = [{"kind": "train", "step": step, "loss": 1.0 / step} for step in (1, 2, 3)]
LINES = [json.dumps(row).encode() for row in ROWS]


@pytest.mark.parametrize(
    "damage",
    [
        *(b"null", b"3", b"[]", b"\xff\xfe", b"\0" * 512, b"[" * 100_000),
        *(b'{"step": "2"}', b'{"kind": 1}', b'{"kind": "train", "step": 1%s}' % (b"0" * 400)),
    ],
)
def test_a_damaged_line_is_left_out_and_told(tmp_path, damage):
    path = tmp_path / METRICS_FILE
    path.write_bytes(b"\n".join([LINES[0], damage, *LINES[1:], b""]))
    with pytest.warns(UserWarning, match="1 damaged lines are left out, the first is line 2"):
        assert read_metrics(path) == ROWS
    with (
        pytest.warns(UserWarning, match="the first is line 2"),
        MetricsLog(tmp_path, start=2, tensorboard=False) as log,
    ):
        log.write("train", 3, {"loss": 0.5})
    assert read_metrics(path) == [*ROWS[:2], {"kind": "train", "step": 3, "loss": 0.5}]


def test_a_last_line_that_a_killed_run_left_is_dropped_without_a_word(tmp_path):
    path = tmp_path / METRICS_FILE
    path.write_bytes(b"\n".join([*LINES[:2], LINES[2][:9]]))
    assert read_metrics(path) == ROWS[:2]
    assert read_metrics(tmp_path / "absent.jsonl") == []
