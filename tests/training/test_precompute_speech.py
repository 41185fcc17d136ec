"""A speech cache made by several hosts is that of one host; a killed run goes on where it was."""

import itertools
import re
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from damage import damaged
from forked_train import ForkedTrain, ForkServer
from loopback_s3 import BUCKET, loopback_s3
from repository import ROOT
from speech_host import Clips, writer_of
from tiers import mostly_slow

from mrl_jax.checkpoints import checksum_command
from mrl_jax.core.checksums import folder_digests
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import user_path
from mrl_jax.data.build.builder import build_dataset
from mrl_jax.data.cache.speech import (
    ShardPlan,
    SpeechCache,
    open_speech_cache,
    write_speech_index,
)
from mrl_jax.training import precompute_speech

CLIPS = 60  # Four shards, the last of which is short.


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two towers, and a built data set."""
    root = tmp_path_factory.mktemp("world")
    tiny_run.make_towers(root / "towers")
    tiny_run.make_towers(root / "others", seed=1)
    build_dataset(tiny_run.make_manifest(root / "data", examples=CLIPS), root / "built")
    return root


@pytest.fixture(scope="module")
def cache(world) -> Path:
    """The cache that this process makes on its two devices."""
    folder = world / "cache"
    assert writer_of(world, folder).make() == 0
    return folder


@pytest.fixture(scope="module")
def hosts(world, tmp_path_factory):
    """A function that starts hosts of two devices each, which make a cache together."""
    outputs, numbers = tmp_path_factory.mktemp("outputs"), itertools.count()
    with ForkServer() as server:

        def start(
            folder: str, *words: tuple[str, ...], count: int = 2, devices: int = 2
        ) -> list[ForkedTrain]:
            together: list[str] = []
            if count > 1:
                together = ["--coordinator", f"localhost:{free_port()}", "--processes", str(count)]
            extra = [*words, *[()] * count]
            return [
                server.start(
                    [*together, "--process", str(n), *extra[n], str(world), str(world / folder)],
                    devices=devices,
                    cwd=ROOT,
                    output=outputs / str(next(numbers)),
                    module="speech_host",
                )
                for n in range(count)
            ]

        yield start


@pytest.fixture(scope="module")
def alone(world, hosts) -> Path:
    """The cache that one host makes, as compiled as those of several."""
    (host,) = hosts("alone", count=1)
    assert clips_read(host) == (CLIPS, 0)
    return world / "alone"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def clips_read(process: ForkedTrain) -> tuple[int, int]:
    """Clips that a host has read, and shards that it found."""
    match = re.search(r"(\d+) clips read, (\d+) shards kept", process.ended()[0])
    assert match
    return int(match[1]), int(match[2])


def error_of(process: ForkedTrain) -> str:
    """The one line that a process ends with."""
    errors = [x for x in process.ended(2)[1].splitlines() if x.startswith("error:")]
    assert len(errors) == 1
    return errors[0]


def opened(world: Path, folder: Path) -> SpeechCache | None:
    writer = writer_of(world, folder)
    return open_speech_cache(folder, writer.key, writer.plan.frames, *writer.sizes)


def states_of(world: Path, folder: Path) -> np.ndarray:
    cache = opened(world, folder)
    assert cache is not None
    return np.asarray(cache.rows(np.arange(CLIPS), int(cache.frames.max())).states)


@pytest.mark.slow
def test_two_hosts_write_the_bytes_of_one(world, alone, hosts):
    both, more = hosts("two"), hosts("one of four", count=1, devices=4)
    read = [clips_read(process)[0] for process in both]
    # Dealt out in turn: neither waits for the other, and none computes what the other does.
    assert read == [32, 28]
    expected = folder_digests(alone)
    assert len(expected) == 4 * 3 + 1
    assert folder_digests(world / "two") == expected
    # Of rows that are divided otherwise the states are those within rounding.
    more[0].ended()
    states = states_of(world, world / "one of four")
    np.testing.assert_allclose(states, states_of(world, alone), atol=1e-5, rtol=1e-5)
    assert np.abs(states).max() > 0.1


@pytest.mark.slow
def test_what_a_killed_run_has_finished_is_kept(world, alone, hosts):
    folder = world / "killed"
    hosts("killed", ("--kill-at", "40"), count=1)[0].ended(-signal.SIGKILL)
    done = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    assert done == ["shard-00000-of-00004", "shard-00001-of-00004"]
    assert opened(world, folder) is None
    inode = (folder / done[0] / "states.npy").stat().st_ino
    both = [clips_read(process) for process in hosts("killed")]
    assert both == [(16, 2), (12, 0)]
    assert folder_digests(folder) == folder_digests(alone)
    assert (folder / done[0] / "states.npy").stat().st_ino == inode
    assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_hosts_that_differ_or_fail_end_together(world, hosts):
    differ = hosts("differ", (), ("--tower", "others"))
    fail = hosts("fail", (), ("--fail-at", "3"))
    broken = hosts("broken", (), ("--break-at", "3"))
    lost = hosts("lost", (), ("--kill-at", "3"))
    for process in differ:
        assert (
            "hosts disagree on the speech tower of the speech cache: process 1 of 2 differs "
            "from process 0" in error_of(process)
        )
    assert not (world / "differ").exists()
    for process in fail:
        assert "process 1 of 2 failed: clip" in error_of(process)
    assert opened(world, world / "fail") is None
    # Of an error that is nobody's mistake too: the other does not wait for it.
    assert "process 1 of 2 failed: RuntimeError: out of memory" in error_of(broken[0])
    assert "RuntimeError: out of memory" in broken[1].ended(1)[1]
    assert "another host of this run is gone" in error_of(lost[0])
    lost[1].ended(-signal.SIGKILL)


def copied(cache: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cache, tmp_path / "copy"))


def test_a_half_made_cache_of_another_tower_is_refused(world, cache, tmp_path):
    folder = copied(cache, tmp_path)
    (folder / "cache.json").unlink()
    shutil.rmtree(folder / "shard-00002-of-00004")
    clips = Clips(world / "built")
    with pytest.raises(MrlError, match="shard-00000-of-00004: was made with another speech tower"):
        writer_of(world, folder, tower="others", clips=clips).make()
    assert clips.read == []
    # Of the same it is finished, and only what is missing is read.
    assert writer_of(world, folder, clips=clips).make() == 3
    assert len(set(clips.read)) == 16
    assert folder_digests(folder) == folder_digests(cache)
    (folder / "cache.json").unlink()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(MrlError, match=r"holds notes.txt, which is no part of a speech cache"):
        writer_of(world, folder).make()
    (folder / "notes.txt").unlink()
    (folder / "shard-00001-of-00004" / "cache.json").unlink()
    with pytest.raises(MrlError, match=r"shard-00001-of-00004: is no whole shard.*Remove it"):
        writer_of(world, folder).make()
    shutil.rmtree(folder / "shard-00001-of-00004")
    (folder / "shard-00000-of-00004").rename(folder / "shard-00000-of-00009")
    with pytest.raises(MrlError, match=r"shard-00000-of-00009: .* another"):
        writer_of(world, folder).make()


def flip(path: Path) -> None:
    path.write_bytes(damaged(path.read_bytes()))


@pytest.mark.parametrize(
    ("damage", "message"),
    mostly_slow(
        [
            (lambda f: flip(f / "states.npy"), r"states.npy: the states of clip \d+ are not those"),
            (lambda f: flip(f / "digests.npy"), "digests.npy: is not the file that was written"),
            (lambda f: flip(f / "cache.json"), "cache.json"),
            (lambda f: (f / "states.npy").unlink(), "states.npy: cannot be read"),
            (shutil.rmtree, "cache.json: is missing, and cache.json names it"),
        ],
    ),
)
def test_a_damaged_shard_is_named(world, cache, tmp_path, damage, message):
    folder = copied(cache, tmp_path)
    damage(folder / "shard-00002-of-00004")
    with pytest.raises(MrlError, match=f"shard-00002-of-00004/{message}"):
        states_of(world, folder)


def test_mrl_jax_checksum_reads_the_shards_too(cache, tmp_path, capsys):
    folder = copied(cache, tmp_path)
    assert checksum_command.main([str(folder)]) == 0
    flip(folder / "shard-00003-of-00004" / "digests.npy")
    with pytest.raises(MrlError, match=r"shard-00003-of-00004/digests\.npy: is not the file"):
        checksum_command.main([str(folder)])


@pytest.mark.slow
def test_a_half_made_cache_at_an_address_is_finished_by_another_machine(
    world, cache, tmp_path, monkeypatch
):
    with loopback_s3(tmp_path / "first") as store:
        folder = copied(cache, tmp_path)
        (folder / "cache.json").unlink()
        shutil.rmtree(folder / "shard-00001-of-00004")
        store.put_folder("states", folder)
        address = f"s3://{BUCKET}/states"
        clips = Clips(world / "built")
        assert writer_of(world, user_path(address), clips=clips).make() == 3
        assert len(set(clips.read)) == 16
        names = {name.removeprefix("states/") for name in store.names("states/")}
        assert names == set(folder_digests(cache))
        monkeypatch.setenv("MRL_JAX_CACHE", str(tmp_path / "second"))
        np.testing.assert_array_equal(states_of(world, user_path(address)), states_of(world, cache))


def test_a_disk_without_room_is_refused_before_anything_is_computed(
    world, cache, tmp_path, monkeypatch
):
    half = copied(cache, tmp_path)
    (half / "cache.json").unlink()
    shutil.rmtree(half / "shard-00002-of-00004")
    monkeypatch.setattr(precompute_speech, "cache_bytes", lambda *_: 1 << 60)
    clips = Clips(world / "built")
    for folder in (tmp_path / "full", half):
        with pytest.raises(MrlError, match=rf"{folder.name}: the output needs .* GB are free"):
            writer_of(world, folder, clips=clips).make()
    assert clips.read == []


def test_the_index_may_be_written_by_another_run_too(world, cache, tmp_path):
    folder = copied(cache, tmp_path)
    writing = folder / ".cache.json.partial"  # Of a run on another machine, at this moment.
    writing.write_text("{")
    writer = writer_of(world, folder)
    write_speech_index(folder, writer.key, writer.plan, *writer.sizes)
    assert writing.read_text() == "{"
    assert folder_digests(folder) == folder_digests(cache)


@pytest.mark.parametrize("count", [1, 16, 17, 4096, 4097, 50_000])
def test_every_clip_stands_in_one_shard(count):
    frames = np.random.default_rng(count).integers(1, 500, count)
    plan = ShardPlan.of(frames)
    assert plan.count <= 256
    clips = [plan.clips(number) for number in range(plan.count)]
    assert sorted(np.concatenate(clips).tolist()) == list(range(count))
    # Only the last may be short of whole batches of 16, so that few rows are padding.
    assert all(len(own) % 16 == 0 for own in clips[:-1])
    places = plan.places()
    for number in (0, plan.count - 1):
        assert places[clips[number]].tolist() == [[number, i] for i in range(len(clips[number]))]
    longest = [frames[own].max() for own in clips]
    assert longest == sorted(longest, reverse=True)
