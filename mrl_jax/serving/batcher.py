"""Work of many requests, done together by one thread."""

import collections
import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from mrl_jax.core.errors import MrlError

Run = Callable[[Any, Sequence[Any]], Sequence[Any]]


class QueueFullError(Exception):
    """More work waits than there may."""


class StoppedError(Exception):
    """The service ends, or its thread has ended."""


@dataclasses.dataclass(frozen=True)
class _Item:
    kind: Hashable
    value: Any
    future: "concurrent.futures.Future[Any]"


class Batcher:
    """Items of one kind that wait at the same time are given to `run` in one call.

    Args:
        run: a kind and the values of up to `batch_size` items to their results, in order. It is
            only called by one thread, so it need not be safe to be called by two. Where it raises
            an `MrlError` for several items, each is tried alone, so that one request's mistake is
            not another's.
        batch_size: items of a call.
        wait_seconds: that an item waits for others where none are waiting.
        queue_size: items that may wait.
    """

    def __init__(self, run: Run, *, batch_size: int, wait_seconds: float, queue_size: int):
        self._run, self._batch_size = run, batch_size
        self._wait_seconds, self._queue_size = wait_seconds, queue_size
        self._items: collections.deque[_Item] = collections.deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._items)

    @property
    def alive(self) -> bool:
        """Whether work is still done."""
        return self._thread.is_alive() and not self._stopping

    def submit(
        self, kind: Hashable, values: Sequence[Any]
    ) -> list["concurrent.futures.Future[Any]"]:
        """Put items into the queue: all of them, or none.

        Raises:
            QueueFullError: there is no room for all.
            StoppedError: the service ends.
        """
        with self._changed:
            if not self.alive:
                raise StoppedError
            if len(self._items) + len(values) > self._queue_size:
                raise QueueFullError
            items = [_Item(kind, value, concurrent.futures.Future()) for value in values]
            self._items.extend(items)
            self._changed.notify()
        return [item.future for item in items]

    def stop(self) -> None:
        """Finish what waits, take nothing more, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while items := self._next():
            live = [item for item in items if item.future.set_running_or_notify_cancel()]
            if live:
                self._finish(live)

    def _next(self) -> list[_Item]:
        """The first item that waits and others of its kind; none where the service ends."""
        with self._changed:
            while not self._items:
                if self._stopping:
                    return []
                self._changed.wait()
            deadline = time.monotonic() + self._wait_seconds
            while self._waiting() < self._batch_size and not self._stopping:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            kind, taken, others = self._items[0].kind, [], []
            while self._items and len(taken) < self._batch_size:
                item = self._items.popleft()
                (taken if item.kind == kind else others).append(item)
            self._items.extendleft(reversed(others))
            return taken

    def _waiting(self) -> int:
        kind = self._items[0].kind
        return sum(item.kind == kind for item in self._items)

    def _finish(self, items: Sequence[_Item]) -> None:
        try:
            results = self._run(items[0].kind, [item.value for item in items])
            pairs = list(zip(items, results, strict=True))
        except BaseException as error:
            if isinstance(error, MrlError) and len(items) > 1:
                for item in items:
                    self._finish([item])
                return
            for item in items:
                item.future.set_exception(error)
            return
        for item, result in pairs:
            item.future.set_result(result)
