"""Scalars as TensorBoard events, written by the caller itself.

tensorboardX's SummaryWriter hands them to a thread, which a full disk ends: its traceback is
printed, and the run waits for it for ever.
"""

import time
from pathlib import Path

from mrl_jax.core.extras import require

FLUSH_SECONDS = 30.0


class EventFile:
    """One file of events in a folder, which is made.

    Args:
        folder: of all event files of a run.
        purge: TensorBoard forgets what earlier files have from this step on; None for nothing.

    Raises:
        OSError: as `add` and `close`: the disk takes no more.
    """

    def __init__(self, folder: Path, *, purge: int | None = None):
        require("tensorboardX", by="train.tensorboard=true")
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self._flushed = time.monotonic()
        if purge is not None:
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=purge, session_log=start))

    def add(self, tag: str, value: float, step: int) -> None:
        """One scalar, on the disk after `FLUSH_SECONDS` at most where others follow."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        event = Event(wall_time=time.time(), step=step, summary=scalar(tag, value))
        self._writer.write_event(event)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Write what is not on the disk yet."""
        self._writer.close()
