"""Processes of `train.py` and other commands, forked from one that has imported everything.

An import costs seconds.
Run as a script, this file is that process: it reads a JSON request a line, and answers with one.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from repository import HELPERS, ROOT


class ForkServer:
    """The process that is forked from; a context manager."""

    def __enter__(self) -> "ForkServer":
        paths = os.pathsep.join((str(ROOT), str(HELPERS)))
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "PYTHONPATH": paths,
                "PYTHONWARNINGS": "ignore",  # JAX warns of forks.
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)

    def start(
        self, words: list[str], *, devices: int, cwd: Path, output: Path, module: str = "train"
    ) -> "ForkedTrain":
        """A command's module with these words, on so many CPU devices.

        `output`.out and .err are kept.
        """
        request = {"words": words, "devices": devices, "cwd": str(cwd), "output": str(output)}
        return ForkedTrain(self, self.ask(start={**request, "module": module}), output)

    def ask(self, **request: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class ForkedTrain:
    """One run of `train.py`."""

    def __init__(self, server: ForkServer, pid: int, output: Path):
        self._server, self.pid, self._output = server, pid, output

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit status, once it has ended; killed after 120 s."""
        return self._server.ask(wait=self.pid)

    def ended(self, status: int = 0) -> tuple[str, str]:
        """Its output and errors, once it has ended with this status; killed after 120 s."""
        code = self.wait()
        out, err = (self._output.with_suffix(end).read_text() for end in (".out", ".err"))
        assert code == status, err[-3000:]
        return out, err


def serve() -> None:
    # All that a run imports, and nothing that starts a thread or a backend.
    import grain  # noqa: F401
    import optax  # noqa: F401
    import orbax.checkpoint  # noqa: F401
    import tensorflow_datasets  # noqa: F401
    import tokenizers  # noqa: F401

    import mrl_jax.data.build.tfds_builder
    import mrl_jax.evaluation.retrieval.report
    import mrl_jax.training.contrastive.run
    import mrl_jax.training.ctc.run
    import mrl_jax.training.text_tower.run  # noqa: F401

    running: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer = fork(**request["start"])
            running.add(answer)
        else:
            answer = wait(request["wait"])
            running.remove(request["wait"])
        print(json.dumps(answer), flush=True)
    for pid in running:  # Of a test that failed.
        os.kill(pid, signal.SIGKILL)


def fork(words: list[str], devices: int, cwd: str, output: str, module: str = "train") -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        for number, end in ((1, ".out"), (2, ".err")):
            file = os.open(f"{output}{end}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        os.chdir(cwd)
        kept = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{kept} --xla_force_host_platform_device_count={devices}"
        # A job in the background of a shell ignores Ctrl-C, and so do its children.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from mrl_jax.core.cli import run_command

        status = run_command(importlib.import_module(module).main, words)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(pid: int, seconds: float = 120) -> int:
    """The exit status; what has not ended by then is killed, and -9."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    serve()
