"""Folders that are replaced at an address, where the upload fails or its process is killed."""

from pathlib import Path

import pytest
from loopback_s3 import BUCKET

from mrl_jax.core import replacement
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import staged_folder
from mrl_jax.core.object_store import ObjectStore
from mrl_jax.core.paths import output_path, user_path
from mrl_jax.core.remote import UPLOAD_FILE

INDEX = f"s3://{BUCKET}/index"
OLD, NEW = ({"a": f"a{n}", "b": f"b{n}", "index.json": str(n)} for n in (1, 2))


def make(files: dict[str, str], *, overwrite: bool = False) -> None:
    with staged_folder(Path(INDEX), marker="index.json", overwrite=overwrite) as staging:
        for name, text in files.items():
            (staging / name).write_text(text)


def contents() -> dict[str, str]:
    folder = user_path(INDEX)
    return {path.name: path.read_text() for path in folder.iterdir()}


class Killed(BaseException):
    """As SIGKILL, after which nothing else is done."""


def cut_off(monkeypatch, calls: int) -> None:
    """Let so many writes and removals at the store pass, and no more."""
    left = [calls]

    def limited(method):
        def call(self, *args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return method(self, *args, **kwargs)

        return call

    remove_one = limited(ObjectStore.remove)

    def remove(self, addresses):
        for one in addresses:
            remove_one(self, [one])

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "remove", remove)
        patch.setattr(ObjectStore, "put", limited(ObjectStore.put))
        patch.setattr(ObjectStore, "write", limited(ObjectStore.write))
        with pytest.raises(Killed):
            make(NEW, overwrite=True)


@pytest.mark.parametrize("calls", range(7))
def test_cut_off_anywhere_the_next_reader_here_finishes_it(calls, s3, monkeypatch):
    make({**OLD, "older": "1"})
    cut_off(monkeypatch, calls)
    assert contents() == NEW
    assert s3.names() == [f"index/{name}" for name in NEW]
    assert not (output_path(INDEX) / UPLOAD_FILE).exists()


@pytest.mark.parametrize("calls", range(1, 7))
def test_cut_off_anywhere_another_machine_reads_a_whole_or_none(calls, s3, tmp_path, monkeypatch):
    make(OLD)
    cut_off(monkeypatch, min(calls, 5))
    monkeypatch.setenv("MRL_JAX_CACHE", str(tmp_path / "other"))
    if calls == 1:
        assert contents() == OLD
    elif calls < 5:
        with pytest.raises(MrlError, match=f"^{INDEX}: an upload to it was not finished"):
            user_path(INDEX)
        assert not user_path(INDEX, optional=True).exists()
        make(OLD)  # What is half there is no output that exists.
        assert contents() == OLD
    else:
        assert contents() == NEW
    make(OLD, overwrite=True)
    assert s3.names() == [f"index/{name}" for name in OLD]


def test_what_another_machine_wrote_since_then_stays(s3, tmp_path, monkeypatch):
    make(OLD)
    cut_off(monkeypatch, 3)
    monkeypatch.setenv("MRL_JAX_CACHE", str(tmp_path / "other"))
    make({"c": "c", "index.json": "3"}, overwrite=True)
    monkeypatch.setenv("MRL_JAX_CACHE", str(tmp_path / "cache"))
    user_path(INDEX)
    assert s3.names() == ["index/c", "index/index.json"]
    assert s3.read("index/index.json") == b"3"


def test_a_note_that_was_cut_off_is_dropped(s3):
    make(OLD)
    (output_path(INDEX) / UPLOAD_FILE).write_text("{")
    assert contents() == OLD
    assert s3.names() == [f"index/{name}" for name in OLD]


def test_of_two_writers_the_first_is_told(s3, monkeypatch):
    upload = replacement.upload

    def late(path, **options):
        upload(path, **options)
        s3.put(f"index/{UPLOAD_FILE}", "another index.json")

    monkeypatch.setattr(replacement, "upload", late)
    with pytest.raises(MrlError, match=f"^{INDEX}: another process wrote here at the same time"):
        make(OLD)
