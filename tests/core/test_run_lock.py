"""A run's folder has one owner; the dead are followed, and the living never."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.core.processes import ProcessId, is_alive, start_of
from mrl_jax.core.run_lock import LOCK_FILE, STALE_SECONDS, Owner, owned

HOLD = """
import sys
from pathlib import Path
from mrl_jax.core.errors import MrlError
from mrl_jax.core.run_lock import owned
print("begun", flush=True)
sys.stdin.readline()
try:
    with owned(Path(sys.argv[1])):
        print("owner", flush=True)
        sys.stdin.readline()
except MrlError as error:
    print(error, flush=True)
"""


def started(workdir: Path) -> "subprocess.Popen[str]":
    """A process that is about to own a folder, when it is told to."""
    words = [sys.executable, "-c", HOLD, str(workdir)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert answer(process) == "begun"
    return process


def tell(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def answer(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: "subprocess.Popen[str]") -> None:
    with process:
        process.kill()


def write_owner(workdir: Path, **changes: object) -> Path:
    """A lock whose owner differs from this process in some fields."""
    workdir.mkdir(exist_ok=True)
    process = dataclasses.replace(ProcessId.current(), **changes)
    owner = Owner(process=process, since="some time")
    path = workdir / LOCK_FILE
    path.write_text(json.dumps(dataclasses.asdict(owner)))
    return path


def test_the_second_run_is_refused_and_the_next_one_is_not(tmp_path):
    process = started(tmp_path / "run")
    tell(process)
    assert answer(process) == "owner"
    with pytest.raises(MrlError) as error, owned(tmp_path / "run"):
        pass
    assert str(error.value).startswith(
        f"{tmp_path / 'run'}: another run writes here: process {process.pid} on "
    )
    assert "\n" not in str(error.value)
    tell(process)
    assert process.wait(timeout=30) == 0
    end(process)
    with owned(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK_FILE).is_file()
    assert not (tmp_path / "run").exists()  # It was made here, and nothing was written.


def test_a_killed_owner_is_followed_and_told_of(tmp_path):
    process = started(tmp_path / "run")
    tell(process)
    assert answer(process) == "owner"
    process.kill()  # Nobody has waited for it: its number is still there.
    while is_alive(process.pid):
        time.sleep(0.01)
    lines: list[str] = []
    with owned(tmp_path / "run", lines.append):
        pass
    end(process)
    assert len(lines) == 1
    assert f"process {process.pid} on" in lines[0]
    assert os.listdir(tmp_path / "run") == []
    with owned(tmp_path / "run", lines.append):
        pass
    assert len(lines) == 1


def test_of_many_that_begin_at_once_one_is_the_owner(tmp_path):
    write_owner(tmp_path, start=1)  # Stale: all would follow it.
    processes = [started(tmp_path) for _ in range(5)]
    for process in processes:
        tell(process)
    answers = [answer(process) for process in processes]
    answers = [
        line if "note" not in line else answer(p)
        for line, p in zip(answers, processes, strict=True)
    ]
    for process in processes:
        end(process)
    assert answers.count("owner") == 1, answers
    assert sum("another run writes here" in line for line in answers) == 4, answers


def test_one_process_does_not_own_a_folder_twice(tmp_path):
    with owned(tmp_path):
        with pytest.raises(MrlError, match="another run writes here"), owned(tmp_path):
            pass
        assert (tmp_path / LOCK_FILE).is_file()


@pytest.mark.parametrize("start", ["the same", "another"])
def test_a_number_that_is_reused_is_no_owner(start, tmp_path):
    parent = os.getppid()
    began = start_of(parent) - (start == "another")
    write_owner(tmp_path, pid=parent, start=began)
    lines: list[str] = []
    if start == "the same":
        with pytest.raises(MrlError, match=f"process {parent} on"), owned(tmp_path):
            pass
        return
    with owned(tmp_path, lines.append):
        assert len(lines) == 1


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"space": "another container"}])
def test_an_owner_that_cannot_be_seen_is_gone_when_it_gives_no_sign(changes, tmp_path):
    path = write_owner(tmp_path, pid=2**22 + 1, **changes)
    words = r"its last sign is \d+ s old; if it is gone, remove"
    with pytest.raises(MrlError, match=words), owned(tmp_path):
        pass
    old = time.time() - STALE_SECONDS - 10
    os.utime(path, (old, old))
    lines: list[str] = []
    with owned(tmp_path, lines.append):
        assert path.stat().st_mtime > old
    assert "left by process 4194305" in lines[0]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"process": 1, "since": 2}', "\udc80", "[" * 10**5]
)
def test_a_damaged_lock_stops_nobody(text, tmp_path):
    (tmp_path / LOCK_FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    lines: list[str] = []
    with owned(tmp_path, lines.append):
        pass
    assert "left by an owner unknown" in lines[0]
    assert os.listdir(tmp_path) == []


def test_a_lock_that_another_took_is_left_to_it(tmp_path):
    with owned(tmp_path):
        path = write_owner(tmp_path, host="elsewhere")
    assert path.is_file()


def test_a_file_in_the_place_of_the_folder_stays(tmp_path):
    (tmp_path / "run").write_text("years")
    with pytest.raises(MrlError, match="is a file, expected a folder"), owned(tmp_path / "run"):
        pass
    assert (tmp_path / "run").read_text() == "years"
