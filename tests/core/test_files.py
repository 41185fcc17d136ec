"""Output folders appear whole or not at all: full disks, kills, interrupts, replacements."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked_convert import start_conversion
from tiny_checkpoints import make_checkpoint

from converters.convert import convert
from converters.export import export
from mrl_jax import load_qwen3
from mrl_jax.core.errors import MrlError, as_os_error
from mrl_jax.core.files import OLD_SECONDS, check_apart, staged_folder, write_json
from mrl_jax.core.processes import start_of

# 91 MB, so that writing takes long enough to be interrupted.
LARGE = {
    "vocab_size": 20000,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("qwen3", tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("qwen3", tmp_path_factory.mktemp("large") / "checkpoint", **LARGE)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder for outputs, so that whatever is left in it shows."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def write_one(final: Path, text: str = "new", **options: Any) -> None:
    with staged_folder(final, marker="file", **options) as staging:
        (staging / "file").write_text(text)


def test_a_folder_appears_when_it_is_whole(place):
    with staged_folder(place / "deep" / "out", marker="file") as staging:
        (staging / "file").write_text("new")
        assert not (place / "deep" / "out").exists()
        assert staging.name.startswith(".out.partial-")
        number = staging.stat().st_ino
    assert os.listdir(place / "deep") == ["out"]
    # Renamed, which is one step, and not copied, which a kill could halve.
    assert (place / "deep" / "out").stat().st_ino == number
    assert (place / "deep" / "out" / "file").read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_of_a_failure(error, place):
    def write() -> None:
        with staged_folder(place / "out", marker="file") as staging:
            (staging / "deep").mkdir()
            (staging / "deep" / "file").write_text("x")
            raise error

    with pytest.raises(error):
        write()
    assert os.listdir(place) == []


def test_a_failed_write_names_the_final_folder(place):
    # Not the hidden one, which is gone when the user reads this.
    def write() -> None:
        with staged_folder(place / "out", marker="file"):
            raise OSError(28, "x")

    with pytest.raises(MrlError, match=r"^\S+/out: could not be written: No space left"):
        write()
    assert os.listdir(place) == []


def test_a_failed_read_names_what_was_read(place, tmp_path):
    source = tmp_path / "gone.wav"
    with (
        pytest.raises(MrlError, match=r"gone\.wav: could not be read") as error,
        staged_folder(place, marker="m"),
    ):
        source.read_bytes()
    assert str(place) not in str(error.value)
    with (
        pytest.raises(MrlError, match="could not be written") as error,
        staged_folder(place, marker="m") as staging,
    ):
        (staging / "none" / "a").write_text("")
    assert str(place) in str(error.value)


def test_an_occupied_name_is_refused(place):
    (place / "out").mkdir()
    (place / "out" / "file").write_text("old")
    with pytest.raises(MrlError, match=r"exists already.*--overwrite"):
        write_one(place / "out")
    assert (place / "out" / "file").read_text() == "old"
    (place / "empty").mkdir()
    write_one(place / "empty")
    assert (place / "empty" / "file").read_text() == "new"
    assert sorted(os.listdir(place)) == ["empty", "out"]


def test_a_name_that_is_taken_meanwhile_is_refused(place):
    def write() -> None:
        with staged_folder(place / "out", marker="file"):
            write_one(place / "out", "theirs")

    with pytest.raises(MrlError, match="appeared while it was being made"):
        write()
    assert (place / "out" / "file").read_text() == "theirs"
    assert os.listdir(place) == ["out"]


def test_overwriting_replaces_a_folder_of_the_same_kind(place):
    write_one(place / "out", "old")
    (place / "out" / "extra").write_text("old")
    write_one(place / "out", overwrite=True)
    assert os.listdir(place) == ["out"]
    assert os.listdir(place / "out") == ["file"]
    assert (place / "out" / "file").read_text() == "new"


def test_the_marker_may_be_in_a_folder_of_the_output(place):
    for text in ("old", "new"):
        with staged_folder(place / "out", marker="in/marker", overwrite=True) as staging:
            (staging / "in").mkdir()
            (staging / "in" / "marker").write_text(text)
    assert (place / "out" / "in" / "marker").read_text() == "new"


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_overwriting_never_deletes_anything_else(kind, place):
    if kind == "folder":
        (place / "out").mkdir()
        (place / "out" / "thesis").write_text("years")
    else:
        (place / "out").write_text("years")
    with pytest.raises(MrlError, match=r"holds something else .there is no file."):
        write_one(place / "out", overwrite=True)
    assert os.listdir(place) == ["out"]
    kept = place / "out" / "thesis" if kind == "folder" else place / "out"
    assert kept.read_text() == "years"


@pytest.mark.parametrize("filled", [True, False])
def test_a_link_is_followed(filled, place, tmp_path):
    # To a larger disk, say: the link stays, what it leads to is replaced.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if filled:
        (elsewhere / "file").write_text("old")
    (place / "out").symlink_to(elsewhere)
    write_one(place / "out", overwrite=filled)
    assert (place / "out").is_symlink()
    assert (elsewhere / "file").read_text() == "new"


@pytest.mark.parametrize("out", ["source", "."])
def test_an_output_around_its_own_source_is_refused(out, place):
    (place / "source").mkdir()
    with pytest.raises(MrlError, match="would replace its own source"):
        check_apart(place / "source", place / out)
    check_apart(place / "source", place / "source" / "within")


@pytest.mark.parametrize("error", [OSError(5, "broken"), KeyboardInterrupt(), SystemExit(143)])
def test_the_old_folder_returns_when_the_swap_fails(error, place, monkeypatch):
    write_one(place / "out", "old")
    rename = os.rename

    def fails_on_the_way_in(source: Path, target: Path) -> None:
        if Path(target).name == "out" and "-old" not in Path(source).name:
            raise error
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_on_the_way_in)
    with pytest.raises(MrlError if isinstance(error, OSError) else type(error)):
        write_one(place / "out", overwrite=True)
    monkeypatch.undo()
    assert os.listdir(place) == ["out"]
    assert (place / "out" / "file").read_text() == "old"
    write_one(place / "out", overwrite=True)
    assert (place / "out" / "file").read_text() == "new"


def leftover(
    final: Path, pid: int, suffix: str = "", *, host: str = socket.gethostname(), start: int = 0
) -> Path:
    host = "".join(c if c.isalnum() and c.isascii() else "-" for c in host)
    begun = f"t{start}-" if start else ""
    path = final.parent / f".{final.name}.partial-{host}-{begun}{pid}{suffix}"
    path.mkdir()
    (path / "file").write_text("left")
    return path


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("name", ["out", "o[u]t", "o**t", "ou?"])
def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(name, place, dead):
    gone = leftover(place / name, dead)
    # After a restart in a container, our own number is that of the process killed before.
    ours = leftover(place / name, os.getpid())
    living = leftover(place / name, os.getppid())
    other = leftover(place / "other", dead)
    write_one(place / name)
    assert not gone.exists()
    assert not ours.exists()
    assert (living / "file").read_text() == (other / "file").read_text() == "left"
    assert (place / name / "file").read_text() == "new"


def test_a_number_that_is_reused_by_a_later_process_keeps_no_leftover(place):
    parent = os.getppid()
    gone = leftover(place / "out", parent, start=start_of(parent) - 1)
    living = leftover(place / "out", parent, start=start_of(parent))
    write_one(place / "out")
    assert not gone.exists()
    assert living.exists()


@pytest.mark.parametrize("suffix", ["", "-old"])
def test_leftovers_of_another_host_go_when_they_are_old(suffix, place, dead):
    fresh = leftover(place / "out", dead, suffix, host="fresh")
    deep = leftover(place / "out", dead, suffix, host="deep")  # A file within is still written.
    old = leftover(place / "out", dead, suffix, host="old-1")
    other = leftover(place / "out2", dead, suffix, host="old-1")
    before = time.time() - OLD_SECONDS - 60
    for path in (deep, old, old / "file", other, other / "file"):
        os.utime(path, (before, before))
    write_one(place / "out", overwrite=True)
    assert (place / "out" / "file").read_text() == "new"
    assert fresh.exists()
    assert deep.exists()
    assert other.exists()
    assert not old.exists()


def test_an_old_folder_that_lost_its_name_in_a_kill_gets_it_back(place, dead):
    leftover(place / "out", dead, "-old")
    with pytest.raises(MrlError, match="exists already"):
        write_one(place / "out")
    assert os.listdir(place) == ["out"]
    assert (place / "out" / "file").read_text() == "left"
    # One that was replaced before the kill is rubbish.
    leftover(place / "out", dead, "-old")
    write_one(place / "out", overwrite=True)
    assert os.listdir(place) == ["out"]
    assert (place / "out" / "file").read_text() == "new"


def test_too_little_room_is_an_error_before_the_work(place, monkeypatch):
    usage = shutil.disk_usage(place)._replace(free=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(MrlError, match=r"needs 2\.00 GB, and 0\.00 GB are free"):
        write_one(place / "out", needs_bytes=2 * 10**9)
    assert os.listdir(place) == []
    write_one(place / "out", needs_bytes=1)
    assert os.listdir(place) == ["out"]


def test_the_system_error_is_found_in_what_libraries_say():
    tensorstore = ValueError("X: Failed to write: No space left [os_error_code='28'] [source]")
    safetensors = RuntimeError("Error while serializing: I/O error: File too large (os error 27)")
    assert as_os_error(tensorstore).errno == 28
    assert as_os_error(safetensors).errno == 27
    assert str(as_os_error(ValueError("first\nsecond"))) == "first"
    assert str(as_os_error(ValueError())) == "ValueError"


# Full disks, with the real writers.


def command(*argv: object, prelude: str = "") -> list[str]:
    script = (
        f"import sys; {prelude}\n"
        "from converters.__main__ import main; from mrl_jax.core.cli import run_command\n"
        "sys.exit(run_command(main))"
    )
    return [sys.executable, "-c", script, *map(str, argv)]


def assert_refused(done: subprocess.CompletedProcess[str], out: Path, words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {out}: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def limited(*argv: object, size: int) -> subprocess.CompletedProcess[str]:
    """Run with a limit on the size of files: a real error from the writer, in mid-write."""
    prelude = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    return subprocess.run(
        command(*argv, prelude=prelude), capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", [20_000, 20_000_000])
def test_a_refused_write_of_weights_is_one_line(size, large, place):
    # Some writes fail at once, others are under way then: no second message may follow.
    done = limited("qwen3", large, place / "out", size=size)
    assert_refused(done, place / "out", "could not be written: File too large")
    assert os.listdir(place) == []


def test_a_refused_write_of_an_export_is_one_line(tiny, place, tmp_path):
    convert(str(tiny), tmp_path / "tower", family="qwen3")
    done = limited("export", tmp_path / "tower", place / "out", size=20_000)
    assert_refused(done, place / "out", "could not be written: File too large")
    assert os.listdir(place) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 64 MB of our own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    with (disk / "filler").open("wb") as file:
        for _ in range((shutil.disk_usage(disk).free - leave) // 4096):
            file.write(bytes(4096))
    return disk / "filler"


def test_a_full_disk_is_one_line_and_leaves_nothing(small_disk, tmp_path):
    source = make_checkpoint("qwen3", tmp_path / "checkpoint", vocab_size=60_000)  # 7.7 MB
    size = (source / "model.safetensors").stat().st_size
    filler = fill(small_disk, leave=size // 2)
    with pytest.raises(MrlError, match=r"needs 0\.01 GB, and 0\.00 GB are free"):
        convert(str(source), small_disk / "out", family="qwen3")
    filler.unlink()
    # Room for the weights by their own count, and not for what is written around them.
    filler = fill(small_disk, leave=size + 4096)
    argv = command("qwen3", source, small_disk / "out")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert_refused(done, small_disk / "out", "could not be written: No space left on device")
    assert os.listdir(small_disk) == ["filler"]
    filler.unlink()
    convert(str(source), small_disk / "out", family="qwen3")
    filler = fill(small_disk, leave=size)
    with pytest.raises(MrlError, match="could not be written: No space left on device"):
        export(small_disk / "out", small_disk / "exported", shard_bytes=10**9)
    assert sorted(os.listdir(small_disk)) == ["filler", "out"]


# Kills and interrupts, of a real process at work.


BEGUN = ""
WRITING = "/weights/**/d/*"
"""What is in the hidden folder once Orbax's threads have begun to write."""


def errors_of(out: Path) -> Path:
    return out.parent.with_name("errors")


def started(source: Path, out: Path, moment: str = BEGUN) -> BaseProcess:
    """A conversion that has come to some moment."""
    process = start_conversion(["qwen3", str(source), str(out)], errors_of(out))
    deadline = time.monotonic() + 60
    while not any(out.parent.glob(f".{out.name}.partial-*-{process.pid}{moment}")):
        assert process.is_alive(), errors_of(out).read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return process


def ended(process: BaseProcess, out: Path) -> tuple[int | None, str]:
    """The exit status of a conversion, and what it wrote to stderr."""
    process.join(timeout=60)
    return process.exitcode, errors_of(out).read_text()


def assert_loads(out: Path, source: Path) -> None:
    embedding = np.asarray(load_qwen3(out).embed_tokens.embedding[...])
    assert embedding.shape == (LARGE["vocab_size"], LARGE["hidden_size"])
    assert np.isfinite(embedding).all()
    tower, report = (json.loads((out / f"{n}.json").read_text()) for n in ("tower", "report"))
    assert report["digest"] == f"sha256:{tower['digest']}"
    assert report["source"] == str(source)


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_all_or_nothing(large, place):
    out = place / "out"
    killed = 0
    for moment, delay in [(BEGUN, 0.0), (WRITING, random.random() / 2), (WRITING, 0.0)]:
        process = started(large, out, moment)
        time.sleep(delay)
        process.kill()
        killed += ended(process, out)[0] == -signal.SIGKILL
        assert all(name == "out" or name.startswith(".out.partial-") for name in os.listdir(place))
        if out.exists():
            assert_loads(out, large)
            shutil.rmtree(out)
    assert killed >= 2
    assert any(name.startswith(".out.partial-") for name in os.listdir(place))
    assert ended(started(large, out), out) == (0, "")
    assert os.listdir(place) == ["out"]
    assert_loads(out, large)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "line"),
    [
        (signal.SIGTERM, 143, ""),
        (signal.SIGINT, 130, "error: interrupted; nothing was left half-written\n"),
    ],
)
@pytest.mark.parametrize("moment", [BEGUN, WRITING], ids=["begun", "writing"])
def test_an_interrupt_leaves_nothing(number, status, line, moment, large, place):
    out = place / "out"
    process = started(large, out, moment)
    assert process.pid is not None
    os.kill(process.pid, number)
    result = ended(process, out)
    if out.exists():  # It was faster than we: then the folder is whole.
        assert_loads(out, large)
        return
    assert result == (status, line)
    assert os.listdir(place) == []


def test_a_file_is_replaced_and_never_written_over(tmp_path):
    path, link = tmp_path / "a.json", tmp_path / "link"
    write_json(path, {"old": "é"})
    os.link(path, link)  # The same file, as a reader that has it open sees it.
    write_json(path, {"new": 1})
    assert json.loads(link.read_text(encoding="utf-8")) == {"old": "é"}
    assert json.loads(path.read_text(encoding="utf-8")) == {"new": 1}
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"new": 1}
    assert sorted(tmp_path.iterdir()) == [path, link]  # Nothing partial is left.
