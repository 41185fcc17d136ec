"""A signal ends a command wherever it arrives, and never disturbs the clean-up of one before."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mrl_jax.core.cli import run_command
from mrl_jax.core.signals import ended_by_signals

# JAX is loaded where other tests ran before these, and warns of forks.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork")

SCRIPT = """
import gc, os, signal, sys, threading, time, weakref
from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError

def send():
    os.kill(os.getpid(), signal.{number})

class Dying:
    def __del__(self):
        send()

class Plain:
    pass

def collect():
    def callback(phase, info):
        if phase == "stop":
            gc.callbacks.remove(callback)
            send()
    gc.callbacks.append(callback)
    gc.collect()

def main(argv):
    try:
        {body}
    finally:
        time.sleep(0.5)  # Longer than it takes to look whether the signal was dropped.
        send()
        print("cleaned", flush=True)
    return 0

if __name__ == "__main__":
    sys.exit(run_command(main))
"""
WAIT = "threading.Event().wait(60)"
PLACES = {
    "plain code": "send()",
    "the garbage collector": f"collect(); {WAIT}",
    "a finalizer": f"Dying(); {WAIT}",
    "a weak reference": f"x = Plain(); y = weakref.ref(x, lambda _: send()); del x; {WAIT}",
    "a comparison in C": f"sorted([1, 2], key=lambda x: collect() or x); {WAIT}",
}
SWALLOWED = """
        for _ in range(2):
            try:
                send()
                time.sleep(30)
            except BaseException:
                pass
        {WAIT}
"""
PLACES["code that drops everything"] = SWALLOWED.strip().format(WAIT=WAIT)
TURNED = """
        try:
            send()
        except BaseException as error:
            raise MrlError("something else") from error
"""
PLACES["code that makes another error of it"] = TURNED.strip()


def clean_start() -> None:
    """A job in the background of a shell ignores Ctrl-C, and its children do."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("number", "status", "line"),
    [
        ("SIGTERM", 143, ""),
        ("SIGINT", 130, "error: interrupted; nothing was left half-written\n"),
    ],
)
def test_a_signal_lands_wherever_it_arrives(number, status, line, place, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(number=number, body=PLACES[place]))
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=50,
        preexec_fn=clean_start,
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "cleaned\n", line)


def test_handlers_return_when_the_command_has_ended():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    inside: list[object] = []

    def main(argv: object) -> int:
        inside.append(signal.getsignal(signal.SIGTERM))
        return 7

    assert run_command(main, []) == 7
    assert inside != before[:1]
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


def test_a_command_in_another_thread_leaves_signals_alone():
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(run_command(lambda _: 3, [])))
    thread.start()
    thread.join()
    assert results == [3]


def test_a_forked_child_ends_alone():
    with ended_by_signals() as interruption:
        child = os.fork()
        if child == 0:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(30)
            except SystemExit as error:
                os._exit(9 if error.code == 143 else 1)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 9
        time.sleep(0.3)
        assert interruption.signum is None


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(number="SIGINT", body="send()"))
    words = [sys.executable, str(script)]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=50,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert (done.returncode, done.stdout) == (0, "cleaned\n")
