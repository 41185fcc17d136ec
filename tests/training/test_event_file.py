"""TensorBoard events that are written without a thread, read back by tensorboardX's own schema."""

import struct
from pathlib import Path
from typing import Any

import pytest

from mrl_jax.training.event_file import EventFile

pytest.importorskip("tensorboardX")


def schema() -> Any:
    from tensorboardX.proto import event_pb2

    return event_pb2


def events_of(folder: Path) -> list[Any]:
    """The records of a TFRecord file: length, its checksum, an Event, its checksum."""
    (file,) = folder.glob("events.out.tfevents.*")
    data, events = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        events.append(schema().Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


def test_scalars_come_back_in_order(tmp_path):
    file = EventFile(tmp_path / "events")
    file.add("train/loss", 0.5, 1)
    file.add("train/loss", 0.25, 2)
    file.close()
    first, *rest = events_of(tmp_path / "events")
    assert first.file_version == "brain.Event:2"
    values = [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in rest]
    assert values == [(1, "train/loss", 0.5), (2, "train/loss", 0.25)]
    assert all(event.wall_time > 1.7e9 for event in rest)


def test_a_resumed_run_hides_what_came_after_its_step(tmp_path):
    file = EventFile(tmp_path, purge=7)
    file.close()
    _, start = events_of(tmp_path)
    assert (start.step, start.session_log.status) == (7, schema().SessionLog.START)
