"""Damaged inputs by seed, and a reader's answers to them counted.

A reader may read an input or refuse it with an `MrlError`. Anything else it raises, and an input
that takes longer than `LIMIT_SECONDS`, fails the test and names the seed that makes it again.

`MRL_FUZZ_INPUTS` multiplies the number of inputs of every test (default 1), and
`MRL_FUZZ_RECORD` names a file to which every reader adds a line of JSON: its counts, its
slowest input and the growth of its peak memory.
"""

import contextlib
import dataclasses
import faulthandler
import json
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.errors import MrlError

LIMIT_SECONDS = 10 if "MRL_FUZZ_RECORD" in os.environ else 60
"""Of `make fuzz`, and of `make test`, whose machine may be busy."""
MAX_LINE = 1200
"""Letters of the longest error line allowed."""

TOKENS = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xe9",
    b"\xed\xa0\x80",
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n\n",
    b"\t",
    b'"',
    b'""',
    b"\\",
    b",",
    b";",
    b"null",
    b"true",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-1",
    b"0.5",
    b"9" * 400,
    b"[" * 3000,
    b'{"a":' * 3000,
    b"{}",
    b"[]",
    b'"\\ud800"',
    b"\\ud83d",
    b"\\u0000",
    "\u202e\u2028\u0085".encode(),
    "é\U0001f600".encode(),
    b" " * 5000,
    b"a" * 20_000,
    b"../../../etc/passwd",
    b"/dev/zero",
)
"""What damage puts into text: ends of lines, half characters, numbers and depth out of range."""

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**70),
    10**400,
    0.0,
    0.5,
    -1.5,
    1e300,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x",
    "\x00",
    "\ud800",
    "a\udcffb",
    "é" * 300,
    "1",
    "none",
    [],
    [None],
    [[]],
    ["x", 1],
    {},
    {"": None},
    {"x": {"y": []}},
    {"a": 1},
    [1],
    ["a"],
    [-1],
    [0.5],
    [1e9],
    [0] * 1000,
    False,
    2,
    7,
    10**9,
    -(10**9),
    10**30,
    1e308,
    "true",
    "zzz",
    "..",
    "../../x",
    "/",
    "float99",
    "x" * 5000,
)
"""JSON values of every type, to stand where another is expected."""


def scaled(count: int) -> int:
    """A number of inputs, times `MRL_FUZZ_INPUTS`."""
    return max(1, round(count * float(os.environ.get("MRL_FUZZ_INPUTS", "1"))))


def mutate_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to four of: a flipped bit, a cut, a copy, a token put in."""
    for _ in range(int(rng.integers(1, 5))):
        at, end = sorted(int(rng.integers(len(data) + 1)) for _ in range(2))
        end = min(end, at + int(rng.choice([1, 8, 64, 10**9])))
        kind = int(rng.integers(7))
        if kind == 0 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at]
        elif kind == 2:
            data = data[:at] + data[end:]
        elif kind == 3:
            data = data[:end] + data[at:]
        elif kind == 4:
            noise = rng.integers(0, 256, int(rng.integers(1, 9)), np.uint8).tobytes()
            data = data[:at] + noise + data[at:]
        else:
            token = TOKENS[int(rng.integers(len(TOKENS)))]
            data = data[:at] + token + data[end if kind == 5 else at :]
    return data


def mutate_json(value: Any, rng: np.random.Generator) -> Any:
    """The JSON value with one to three entries replaced, removed, renamed, moved or added.

    Some are only put deeper, or are a number or text near the one that was there.
    """
    value = json.loads(json.dumps(value))
    for _ in range(int(rng.integers(1, 4))):
        holders = [holder for holder in _holders(value) if holder]
        if not holders:
            return _any_value(rng)
        holder = holders[int(rng.integers(len(holders)))]
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key: Any = keys[int(rng.integers(len(keys)))]
        kind = int(rng.integers(8))
        if kind < 3:
            holder[key] = _any_value(rng)
        elif kind == 6:
            for _ in range(int(rng.choice([1, 3, 50]))):
                holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
        elif kind == 7:
            holder[key] = _near(holder[key], rng)
        elif kind == 3:
            del holder[key]
        elif isinstance(holder, dict):
            old = holder.pop(key) if kind == 4 else holder[key]
            holder[str(_any_value(rng))[:50]] = old
        else:
            holder.append(holder[key])
    return value


def json_text(value: Any) -> str:
    """JSON with the numbers that it has not (NaN), and escapes for what UTF-8 has not."""
    return json.dumps(value)


def _near(value: Any, rng: np.random.Generator) -> Any:
    """Another number or text that resembles a value; for others any value."""
    near: tuple[Any, ...] = ()
    if isinstance(value, int | float) and value:
        near = (-value, value + 1, value * 1000, 1e9)
    elif isinstance(value, str):
        near = (value * 2, value[:-1], value.upper())
    return near[int(rng.integers(len(near)))] if near else _any_value(rng)


def _any_value(rng: np.random.Generator) -> Any:
    value = VALUES[int(rng.integers(len(VALUES)))]
    return list(value) if isinstance(value, list) else value


def _holders(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _holders(inner)


@dataclasses.dataclass
class Answers:
    """What a reader made of its inputs; the fields are those of a line of the record."""

    reader: str
    inputs: int = 0
    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    peak_mb: float = 0.0


@contextlib.contextmanager
def counted(reader: str, *, peak_mb: float = 500) -> Iterator[Callable[..., Any]]:
    """Gives `ask(seed, call)`, which counts the answer to one input and returns it.

    Args:
        reader: its name in the record.
        peak_mb: by how much its peak memory may exceed that at the start.
    """
    answers = Answers(reader)
    start = _reset_peak()

    def ask(seed: object, call: Callable[[], Any]) -> Any:
        answers.inputs += 1
        begin = time.perf_counter()
        try:
            with _time_limit(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = call()
            answers.read += 1
            return value
        except MrlError as error:
            answers.refused += 1
            line = str(error)
            assert "\n" not in line, f"{reader}, {seed}: more than a line: {line[:300]}"
            assert len(line) < MAX_LINE, f"{reader}, {seed}: {len(line)} letters: {line[:300]}"
            return error
        except BaseException as error:  # A panic in Rust is no Exception.
            error.add_note(f"fuzzed input of {reader}: {seed}")
            raise
        finally:
            seconds = time.perf_counter() - begin
            answers.seconds += seconds
            answers.slowest = max(answers.slowest, seconds)

    yield ask
    answers.peak_mb = round(_peak_mb() - start, 1)
    answers.seconds, answers.slowest = round(answers.seconds, 2), round(answers.slowest, 3)
    if record := os.environ.get("MRL_FUZZ_RECORD"):
        with Path(record).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(dataclasses.asdict(answers)) + "\n")
    assert answers.peak_mb < peak_mb, f"{reader}: the peak memory grew by {answers.peak_mb} MB"


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """An exception after `LIMIT_SECONDS`; the process ends where that is not heard in C code."""

    def late(signum: int, frame: object) -> None:
        raise TimeoutError(f"took longer than {LIMIT_SECONDS} s")

    usual = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
    faulthandler.dump_traceback_later(3 * LIMIT_SECONDS, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)


def _reset_peak() -> float:
    """Start measuring the peak anew where the system can (Linux); the peak in MB."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak_mb()


def _peak_mb() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
