"""SIGTERM and Ctrl-C end a command wherever it is, and what it staged is removed.

Python raises an exception from a signal's handler in whatever the main thread is just doing. Where
that is a callback (of the garbage collector, JAX has one; a finalizer; a callback from C), the
exception is printed and dropped, and the command goes on. So the exception is raised again, until
it is on its way up.
"""

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

AGAIN_SECONDS = 0.2
"""How soon it is looked whether the exception is on its way."""
PATIENCE_SECONDS = 10.0
"""A second signal does not disturb the clean-up after the first, unless it takes longer."""
_REMINDER = signal.SIGURG
"""Ignored by every process that does not ask for it."""


class Interruption:
    """Whether a signal came, and which; made by `ended_by_signals`."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._raised: list[BaseException] = []
        self._since = 0.0
        self._pid, self._thread = os.getpid(), threading.get_ident()
        self._closed = False

    @property
    def status(self) -> int | None:
        """The exit status that a shell gives a process that this signal ended; None without one."""
        return None if self.signum is None else 128 + self.signum

    def arrive(self, signum: int, _frame: FrameType | None) -> None:
        """The handler of SIGTERM and SIGINT: raises in the main thread."""
        if os.getpid() != self._pid:  # A forked child is its own.
            raise _exception(signum)
        if self.signum is not None:
            if time.monotonic() - self._since < PATIENCE_SECONDS:
                return
            self._raised.clear()
        else:
            # Not by `threading`, some lock of which the main thread may be holding just now.
            _thread.start_new_thread(self._remind, ())
        self.signum, self._since = signum, time.monotonic()
        self.remind(signum, None)

    def remind(self, signum: int, _frame: FrameType | None) -> None:
        """The handler of what `_remind` sends: raises again what was dropped."""
        del signum
        if self.signum is None or self._closed or os.getpid() != self._pid:
            return
        if not _is_handled(self._raised):
            self._raised.append(_exception(self.signum))
            raise self._raised[-1]

    def dropped(self, error: BaseException | None) -> bool:
        """Whether an error that Python is about to print is only one that is raised again."""
        return self.signum is not None and isinstance(error, KeyboardInterrupt | SystemExit)

    def close(self) -> None:
        """No more is raised."""
        self._closed = True

    def _remind(self) -> None:
        while True:
            time.sleep(AGAIN_SECONDS)
            if self._closed:
                return
            with contextlib.suppress(ProcessLookupError):
                signal.pthread_kill(self._thread, _REMINDER)  # Wakes a main thread that waits.


@contextlib.contextmanager
def ended_by_signals() -> Iterator[Interruption]:
    """SIGTERM and SIGINT end the block, by `SystemExit` and `KeyboardInterrupt`.

    Elsewhere than in the main thread, where Python takes no handlers, nothing changes; nor does a
    SIGINT that the process was started to ignore.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    handlers: dict[int, Any] = {
        signal.SIGTERM: interruption.arrive,
        _REMINDER: interruption.remind,
    }
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        handlers[signal.SIGINT] = interruption.arrive
    hook = sys.unraisablehook

    def quiet(unraisable: Any) -> None:
        if not interruption.dropped(unraisable.exc_value):
            hook(unraisable)

    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    sys.unraisablehook = quiet
    try:
        yield interruption
    finally:
        interruption.close()
        if sys.unraisablehook is quiet:
            sys.unraisablehook = hook
        for number, handler in before.items():
            if signal.getsignal(number) == handlers[number]:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _exception(signum: int) -> BaseException:
    return KeyboardInterrupt() if signum == signal.SIGINT else SystemExit(128 + signum)


def _is_handled(errors: Sequence[BaseException]) -> bool:
    """Whether the main thread is in an `except`, `finally` or `__exit__` because of one of them."""
    handled, seen = sys.exc_info()[1], set()
    while handled is not None and id(handled) not in seen:
        if any(handled is error for error in errors):
            return True
        seen.add(id(handled))
        handled = handled.__context__ or handled.__cause__
    return False
