"""Addresses of object stores, against an S3 server on loopback."""

import dataclasses
import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
from loopback_s3 import BUCKET, LoopbackS3

from mrl_jax.core import remote, remote_run, run_lock
from mrl_jax.core.addresses import address_of, cache_root, place_of, shown, with_addresses
from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import staged_folder
from mrl_jax.core.known_objects import KnownObjects
from mrl_jax.core.object_store import _problem_of
from mrl_jax.core.paths import (
    local_path,
    output_path,
    referenced_path,
    relative_reference,
    user_path,
    user_text,
)
from mrl_jax.core.presets import find_config
from mrl_jax.core.processes import ProcessId
from mrl_jax.core.remote import fetch, fetch_files, objects_at, upload
from mrl_jax.core.remote_run import owned_run
from mrl_jax.core.run_lock import Owner
from mrl_jax.curation import command as curate_command
from mrl_jax.curation.output import _path
from mrl_jax.curation.sources import ParallelSource, RecordingsSource, read_source
from mrl_jax.curation.synthesize import SynthesizeConfig
from mrl_jax.data.sets.manifest import read_manifest
from mrl_jax.demo import __main__ as demo_command


def address(key: str) -> str:
    return f"s3://{BUCKET}/{key}"


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def new_cache(monkeypatch, folder: Path) -> None:
    """As on another machine."""
    monkeypatch.setenv("MRL_JAX_CACHE", str(folder))


def test_an_address_and_its_place_are_one_another(tmp_path, monkeypatch):
    monkeypatch.setenv("MRL_JAX_CACHE", str(tmp_path))
    for one in ("s3://bucket", "s3://bucket/a/b c", "gs://bucket.x/é"):
        assert address_of(place_of(one)) == one
        assert shown(place_of(one)) == one
    assert place_of("s3://bucket/a/") == place_of("s3://bucket/a") != place_of("gs://bucket/a")
    assert address_of(tmp_path) is address_of(Path("/a")) is address_of(cache_root()) is None
    assert address_of(place_of("s3://bucket/a") / ".." / "b") == "s3://bucket/b"
    assert with_addresses(f"{place_of('s3://bucket/a')}: no") == "s3://bucket/a: no"
    for wrong in ("s3://", "s3:///a", "s3://b u/a", "s3://bucket/a//b", "s3://bucket/../a"):
        with pytest.raises(MrlError, match="Write it as SCHEME://BUCKET/FOLDER"):
            place_of(wrong)


def test_relative_paths_between_places_are_those_between_addresses(tmp_path, monkeypatch):
    monkeypatch.setenv("MRL_JAX_CACHE", str(tmp_path / "cache"))
    run, tower, here = place_of("s3://bucket/run"), place_of("s3://bucket/tower"), tmp_path / "x"
    assert relative_reference(tower, run) == "../tower"
    assert relative_reference(here, tmp_path / "run") == "../x"
    assert relative_reference(tower, here) == "s3://bucket/tower"
    assert relative_reference(here, run) == str(here)


def test_a_folder_is_fetched_once_and_then_what_changed(s3):
    for key, text in {"a.json": "1", "in/b": "22", "in/c": "333", "empty/": ""}.items():
        s3.put(f"set/{key}", text)
    s3.put("settings", "of no set")
    place = user_path(address("set"))
    assert place == output_path(Path(address("set"))) == user_path(f"S3{address('set')[2:]}/")
    assert contents(place) == {"a.json": "1", "in/b": "22", "in/c": "333"}
    before = {path: path.stat().st_ino for path in place.rglob("*")}
    s3.put("set/in/b", "44")
    (place / "in/c").write_text("edited")
    assert user_path(address("set")) == place
    assert contents(place) == {"a.json": "1", "in/b": "44", "in/c": "333"}
    after = {path: path.stat().st_ino for path in place.rglob("*")}
    assert {path.name for path in after if before[path] != after[path]} == {"b", "c"}
    s3.remove("set/in/c")
    s3.remove("set/in/b")
    user_path(address("set"))
    assert contents(place) == {"a.json": "1"}
    assert not (place / "in").exists()


def test_a_file_and_a_named_set(s3):
    s3.put("a/run.py", "text")
    assert user_path(address("a/run.py")).read_text() == "text"
    assert user_text(f"fleurs:wo-fr@{address('a')}") == f"fleurs:wo-fr@{place_of(address('a'))}"
    assert referenced_path(place_of(address("x")), "../a/run.py").read_text() == "text"
    assert not user_path(address("none"), optional=True).exists()
    with pytest.raises(MrlError, match=rf"^{address('none')}: nothing is there"):
        user_path(address("none"))


def test_recordings_of_a_manifest_are_fetched_with_it(s3):
    rows = [
        {"id": "1", "audio": "clips/1.wav", "text": "a"},
        {"id": "2", "audio": address("other/2.wav"), "text": "b"},
        {"id": "3", "audio": "clips/none.wav", "text": "c"},
    ]
    s3.put("data/train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    s3.put("data/clips/1.wav", "one")
    s3.put("data/clips/unused.wav", "no")
    s3.put("other/2.wav", "two")
    first, second, third = (example.audio for example in read_manifest(address("data/train.jsonl")))
    assert isinstance(first, Path)
    assert isinstance(second, Path)
    assert (first.read_text(), second.read_text()) == ("one", "two")
    assert isinstance(third, Path)
    assert not third.exists()
    assert [path.name for path in first.parent.iterdir()] == ["1.wav"]
    fetch_files([Path("/no/place")])


def test_a_run_is_read_without_what_only_resuming_takes(s3):
    for key in ("experiment.json", "model.json", "checkpoints/3/files.json", "data/build.json"):
        s3.put(f"run/{key}", "{}")
    assert set(contents(user_path(address("run")))) == {"experiment.json", "model.json"}
    assert set(contents(user_path(address("run/data")))) == {"build.json"}
    whole = contents(fetch(address("run"), whole=True))
    assert len(whole) == 4
    assert contents(user_path(address("run"))) == whole


@pytest.mark.parametrize("keys", [("a/../b",), ("a", "a/b"), ("x" * 256,)])
def test_keys_that_are_no_files_are_refused(keys, s3):
    for key in keys:
        s3.put(f"set/{key}", "1")
    with pytest.raises(MrlError, match="a key that cannot be the path of a file"):
        user_path(address("set"))
    assert not contents(place_of(address("set")))


def test_a_folder_called_data_outside_of_a_run_is_like_any_other(s3):
    for name in ("a", "b"):
        s3.put(f"set/data/{name}.parquet", name)
    user_path(address("set"))
    s3.remove("set/data/b.parquet")
    assert contents(user_path(address("set"))) == {"data/a.parquet": "a"}


def test_tables_that_two_processes_write_keep_what_both_know(s3):
    for name in ("a", "b"):
        s3.put(f"set/{name}", name)
    place = output_path(address("set"))
    objects = objects_at(place)
    assert objects is not None
    first, second = KnownObjects(place), KnownObjects(place)
    place.mkdir(parents=True)
    for known, name in ((first, "a"), (second, "b")):
        assert not known.has_name(name)
        (place / name).write_text(name)
        known.set(name, objects[name])
    first.write()
    second.write()
    assert sorted(KnownObjects(place).names()) == ["a", "b"]
    second.set("a", None)
    second.write()
    assert KnownObjects(place).names() == ["b"]


def test_errors_leave_out_what_may_be_a_key():
    for text in ("s3://KEY:SECRET@bucket/a", "ftp://KEY:SECRET@host/a"):
        with pytest.raises(MrlError) as caught:
            user_path(text)
        assert "SECRET" not in str(caught.value)
    assert "SECRET" not in _problem_of(OSError("http://u:SECRET@host:1/b"), "s3://bucket")[0]


def test_sources_of_a_curation_are_fetched_and_their_recordings_named_by_address(s3, tmp_path):
    s3.put("raw/a/1.wav", "one")
    s3.put("texts/1.txt", "un\n")
    s3.put("texts/2.txt", "deux\n")
    (row,) = read_source(RecordingsSource(name="raw", path=address("raw")), tmp_path).rows
    assert row.audio is not None
    assert Path(row.audio).read_text() == "one"
    assert _path(row.audio, tmp_path / "run") == address("raw/a/1.wav")
    source = ParallelSource(name="p", path=address("texts/1.txt"), second=address("texts/2.txt"))
    (row,) = read_source(source, tmp_path).rows
    assert (row.transcript, row.text) == ("un", "deux")
    with pytest.raises(MrlError, match=rf"^{address('none')}: nothing is there"):
        read_source(RecordingsSource(name="raw", path=address("none")), tmp_path)
    with pytest.raises(MrlError, match=r"^stages.synthesize.folder: s3://bucket/x is an address"):
        SynthesizeConfig(voices=("fr",), folder=address("x"))


def test_an_option_that_takes_no_address_says_so():
    assert local_path("--out")("a/b") == Path("a/b")
    with pytest.raises(MrlError, match=r"^--out: s3://bucket/a is an address"):
        local_path("--out")("s3://bucket/a")


@pytest.mark.parametrize(
    ("main", "words", "option"),
    [
        (curate_command.main, ("--config", "x", "--workdir"), "--workdir"),
        (demo_command.main, ("--out",), "--out"),
    ],
)
def test_commands_that_write_bit_by_bit_take_no_address(main, words, option):
    with pytest.raises(MrlError, match=f"^{option}: {address('a')} is an address"):
        main([*words, address("a")])


class Ordered(remote.ObjectStore):
    """Writes down what is put and removed, and when."""

    calls: list[str]

    def put(self, path, address):
        super().put(path, address)
        self.calls.append(f"put {address.rpartition('run/')[2]}")

    def remove(self, addresses):
        addresses = list(addresses)
        super().remove(addresses)
        self.calls += [f"remove {one.rpartition('run/')[2]}" for one in addresses]


def test_descriptions_are_uploaded_last_and_removed_first(s3, monkeypatch):
    Ordered.calls = []
    monkeypatch.setattr(remote, "ObjectStore", Ordered)
    run = place_of(address("run"))
    for name in ("model.json", "steps/1/files.json", "steps/1/z", "steps/1/.z.partial"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    upload(run)
    assert Ordered.calls == ["put steps/1/z", "put steps/1/files.json", "put model.json"]
    assert s3.names("run/") == ["run/model.json", "run/steps/1/files.json", "run/steps/1/z"]
    Ordered.calls.clear()
    upload(run)
    assert Ordered.calls == []
    (run / "steps/1/z").write_text("other")
    (run / "steps/1/files.json").write_text("other")
    upload(run)
    assert Ordered.calls == ["remove steps/1/files.json", "put steps/1/z", "put steps/1/files.json"]
    shutil.rmtree(run / "steps/1")
    Ordered.calls.clear()
    upload(run)
    assert Ordered.calls == []  # A cache may have been cleaned.
    upload(run, prune=("steps/",))
    assert Ordered.calls == ["remove steps/1/files.json", "remove steps/1/z"]
    assert s3.names("run/") == ["run/model.json"]


def test_a_folder_appears_whole_at_its_address(s3, tmp_path, monkeypatch):
    def make(text: str, **options: bool) -> None:
        with staged_folder(Path(address("set")), marker="set.json", **options) as staging:
            (staging / "set.json").write_text("{}")
            (staging / text).write_text(text)
            assert f"set/{text}" not in s3.names()

    make("a")
    assert s3.names() == ["set/a", "set/set.json"]
    new_cache(monkeypatch, tmp_path / "other")
    with pytest.raises(MrlError, match=f"^{address('set')}: the output exists already"):
        make("b")
    make("b", overwrite=True)
    assert s3.names() == ["set/b", "set/set.json"]
    assert contents(user_path(address("set"))) == {"b": "b", "set.json": "{}"}
    s3.remove("set/set.json")
    with pytest.raises(MrlError, match="holds something else"):
        make("c", overwrite=True)
    s3.remove("set/b")
    make("c")  # What the cache still has does not count.
    assert s3.names() == ["set/c", "set/set.json"]


def test_what_fails_is_one_line(s3, monkeypatch, capfd):
    def refused(text: str) -> str:
        def main(words):
            user_path(words[0])
            return 0

        assert run_command(main, [text]) == 2
        error = capfd.readouterr().err
        assert error.count("\n") == 1, error
        return error

    assert "could not be listed: it is not there" in refused("s3://no-such-bucket/a")
    assert f"error: {address('none')}: nothing is there" in refused(address("none"))
    assert "only s3:// and gs:// and paths of this machine" in refused("az://bucket/a")
    s3.allow(0)
    try:
        assert "access is denied" in refused(address("none"))
    finally:
        s3.allow(float("inf"))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gcsfs" else find(name)
    )
    assert "`pip install 'mrl_jax[remote]'`" in refused("gs://bucket/a")


def test_code_at_an_address_is_not_run(s3):
    s3.put("run.py", "raise RuntimeError")
    with pytest.raises(MrlError, match="a config is code that is run"):
        find_config(address("run.py"))


def test_without_credentials_or_a_server(s3, monkeypatch):
    import s3fs

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(MrlError, match=r"no credentials for it\. Set AWS_ACCESS_KEY_ID"):
        user_path(address("a"))
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_a_store_that_does_not_answer(s3, monkeypatch):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(MrlError, match="the store cannot be reached"):
        user_path(address("a"))
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_run_comes_back_on_another_machine(s3, tmp_path, monkeypatch):
    run = output_path(address("run"))

    def interrupted() -> None:
        with owned_run(run) as folder:
            assert s3.names() == ["run/run.lock"]
            (run / "checkpoints/1").mkdir(parents=True)
            (run / "checkpoints/1/files.json").write_text("1")
            folder.save()
            assert s3.names() == ["run/checkpoints/1/files.json", "run/run.lock"]
            (run / "metrics.jsonl").write_text("2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert s3.names() == ["run/checkpoints/1/files.json", "run/metrics.jsonl"]
    new_cache(monkeypatch, tmp_path / "other")
    run = output_path(address("run"))
    with owned_run(run):
        assert contents(run).keys() == {"checkpoints/1/files.json", "metrics.jsonl", "run.lock"}
        shutil.move(run / "checkpoints/1", run / "checkpoints/2")
        (run / "uploaded").write_text("no")
    assert s3.names() == ["run/checkpoints/2/files.json", "run/metrics.jsonl", "run/uploaded"]
    new_cache(monkeypatch, tmp_path / "cache")  # The first machine: the address counts.
    run = output_path(address("run"))
    (run / "here").write_text("never uploaded")
    with owned_run(run):
        assert not (run / "checkpoints/1").exists()
        assert not (run / "here").exists()
        assert (run / "checkpoints/2/files.json").read_text() == "1"


def test_an_upload_that_fails_is_tried_again(s3):
    run, lines = output_path(address("run")), []
    with owned_run(run, lines.append) as folder:
        (run / "metrics.jsonl").write_text("1")
        s3.allow(0)
        try:
            folder.save()
        finally:
            s3.allow(float("inf"))
        assert [line for line in lines if "access is denied" in line] == lines != []
        assert s3.names() == ["run/run.lock"]
        folder.save()
        assert s3.names() == ["run/metrics.jsonl", "run/run.lock"]
    assert len(lines) == 1


def test_a_run_of_several_processes_is_refused(s3, monkeypatch):
    monkeypatch.setattr(remote_run, "host_shard", lambda: (0, 2))
    with (
        pytest.raises(MrlError, match=f"^{address('run')}: a run of several processes"),
        owned_run(output_path(address("run"))),
    ):
        pass
    assert not s3.names()


def owner_elsewhere(s3: LoopbackS3) -> None:
    process = dataclasses.replace(ProcessId.current(), host="elsewhere")
    s3.put("run/run.lock", Owner(process=process, since="some time").to_text())


def test_a_run_at_an_address_has_one_owner(s3, tmp_path, monkeypatch):
    run, lines = output_path(address("run")), []
    with owned_run(run):
        new_cache(monkeypatch, tmp_path / "other")
        with (
            pytest.raises(MrlError, match=f"{address('run')}: another run writes here: process"),
            owned_run(output_path(address("run"))),
        ):
            pass
        new_cache(monkeypatch, tmp_path / "cache")
    assert s3.names() == []
    owner_elsewhere(s3)
    with pytest.raises(MrlError, match="on elsewhere since some time"), owned_run(run):
        pass
    assert s3.names() == ["run/run.lock"]
    monkeypatch.setattr(run_lock, "STALE_SECONDS", -1.0)

    def taken_over() -> None:
        with owned_run(run, lines.append) as folder:
            owner_elsewhere(s3)
            (run / "metrics.jsonl").write_text("of the one that was taken over")
            folder.save()

    with pytest.raises(MrlError, match="another run writes here by now"):
        taken_over()
    assert s3.names() == ["run/run.lock"]
    assert [line for line in lines if "on elsewhere since some time" in line] == lines != []


def test_of_two_that_begin_at_once_one_is_the_owner(s3, monkeypatch):
    class Late(remote.ObjectStore):
        def read(self, address):
            data = super().read(address)
            owner_elsewhere(s3)
            return data

    monkeypatch.setattr(remote_run, "ObjectStore", Late)
    with (
        pytest.raises(MrlError, match="another run began to write here just now"),
        owned_run(output_path(address("run"))),
    ):
        pass
    assert b"elsewhere" in s3.read("run/run.lock")


def test_the_owner_that_was_taken_over_stops(s3, monkeypatch):
    monkeypatch.setattr(remote_run, "TOUCH_SECONDS", 0.01)
    run = output_path(address("run"))

    def taken_over() -> None:
        with owned_run(run) as folder:
            for _ in range(1000):
                owner_elsewhere(s3)  # Again, as a sign of ours may have been on its way.
                folder.save()
            pytest.fail("it never stopped")

    with pytest.raises(MrlError, match="another run writes here by now"):
        taken_over()
    assert s3.names() == ["run/run.lock"]
    assert b"elsewhere" in s3.read("run/run.lock")


def test_logs_are_uploaded_while_they_grow(s3, monkeypatch):
    monkeypatch.setattr(remote_run, "TOUCH_SECONDS", 0.01)
    run = output_path(address("run"))
    with owned_run(run, logs=("metrics.jsonl",)):
        (run / "other").write_text("1")
        with (run / "metrics.jsonl").open("w") as file:
            for size in (1, 2):
                print("row", file=file, flush=True)
                while s3.names("run/metrics") == [] or len(s3.read("run/metrics.jsonl")) < 4 * size:
                    pass
        assert "run/other" not in s3.names()


def test_the_cache_is_written_where_it_may_be(s3, monkeypatch):
    s3.put("set/a", "1")
    monkeypatch.setenv("MRL_JAX_CACHE", os.devnull)
    with pytest.raises(MrlError, match="the cache on this machine could not be written"):
        user_path(address("set"))
