"""Scalars as TensorBoard events, written by the caller itself.

tensorboardX's SummaryWriter hands them to a thread, which a full disk ends: its traceback is
printed, and the run waits for it for ever.
"""

import socket
import time
from pathlib import Path
from typing import Any

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
        from tensorboardX import RecordWriter
        from tensorboardX.proto import event_pb2

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
        self._writer = RecordWriter(str(folder / name))
        self._flushed = time.monotonic()
        self._schema: Any = event_pb2  # Its classes are made as it is imported.
        self._write(file_version="brain.Event:2")
        if purge is not None:
            log = self._schema.SessionLog
            self._write(step=purge, session_log=log(status=log.START))

    def add(self, tag: str, value: float, step: int) -> None:
        """One scalar, on the disk after `FLUSH_SECONDS` at most where others follow."""
        from tensorboardX.summary import scalar

        self._write(step=step, summary=scalar(tag, value))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Write what is not on the disk yet."""
        self._writer.close()

    def _write(self, **fields: Any) -> None:
        event = self._schema.Event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())
