"""`mrl-jax index` and `mrl-jax search`: what they print and write, and how they refuse."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_run

import mrl_jax
from mrl_jax.core.cli import run_command
from mrl_jax.core.commands import main

WORDS = [tiny_run.text_of((i % 5, i // 5)) for i in range(25)]


def write_corpus(path: Path, texts=WORDS, prefix="d") -> Path:
    rows = [{"_id": f"{prefix}{i}", "text": text} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(capsys, *argv: object, status: int = 0) -> str:
    """What a command prints; its one line of refusal for status 2."""
    capsys.readouterr()
    assert run_command(main, [str(word) for word in argv]) == status
    out, error = capsys.readouterr()
    if status == 2:
        assert out == ""
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error
    return out


@pytest.fixture(scope="module")
def index(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    corpus = write_corpus(folder / "corpus.jsonl")
    argv = ["index", "build", "--model", root / "model", "--corpus", corpus]
    assert run_command(main, [str(word) for word in (*argv, "--out", folder / "index")]) == 0
    return folder / "index"


def test_a_question_is_answered(index, root, tmp_path, capsys):
    clip = tmp_path / "q.wav"
    soundfile.write(clip, tiny_run.clip_of((1, 3), 5), tiny_run.RATE, subtype="FLOAT")
    embedder = mrl_jax.Embedder.load(root / "model")
    vectors = embedder.embed_text(WORDS)
    for query, given in (
        (embedder.embed_speech([clip]), ("--audio", clip)),
        (embedder.embed_text(["ba ce"]), ("ba ce",)),
    ):
        best = np.argsort(-(query @ vectors.T)[0])[:4]
        lines = run(capsys, "search", index, *given, "-k", 4, "--json").splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["id"] for row in rows] == [f"d{i}" for i in best]
        assert [row["text"] for row in rows] == [WORDS[i] for i in best]
        np.testing.assert_allclose(
            [row["score"] for row in rows], (query @ vectors.T)[0][best], atol=1e-5
        )
    text = run(capsys, "search", index, "ba ce", "-k", 1, "--model", root / "model")
    assert text == "  1  1.0000  d5  ba ce\n"


def test_documents_are_added_and_removed(index, root, tmp_path, capsys):
    copy = tmp_path / "index"
    corpus = write_corpus(tmp_path / "c.jsonl")
    base = ("index", "build", "--model", root / "model", "--corpus", corpus, "--out", copy)
    run(capsys, *base, "--dim", 16, "--precision", "int8", "--prefix", 8)
    assert "exists already" in run(capsys, *base, status=2)
    assert "25 documents of 8" in run(capsys, *base, "--overwrite", "--dim", 8)
    more = write_corpus(tmp_path / "more.jsonl", ["ba ba gu"], "new")
    assert "1 documents added, 26 in all" in run(capsys, "index", "add", copy, "--corpus", more)
    line = run(capsys, "index", "add", copy, "--corpus", more, status=2)
    assert "'new0' is in the index already" in line
    (tmp_path / "ids").write_text("d1\n\nd2\n")
    command = ("index", "remove", copy, "new0", "--ids-from", tmp_path / "ids")
    assert "3 documents removed, 23 left" in run(capsys, *command)
    assert "there is no document 'new0'" in run(capsys, "index", "remove", copy, "new0", status=2)
    assert "no document is named" in run(capsys, "index", "remove", copy, status=2)
    assert "as written" in run(capsys, "checksum", copy)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_cannot_be_done_is_one_line_and_nothing_is_written(index, root, tmp_path, capsys):
    corpus, out = write_corpus(tmp_path / "c.jsonl"), tmp_path / "out"
    base = ("index", "build", "--model", root / "model", "--out", out, "--corpus")
    (tmp_path / "empty.jsonl").write_text("")
    twice = tmp_path / "twice.jsonl"
    twice.write_text('{"_id": "a", "text": "ba"}\n{"_id": "a", "text": "ce"}\n')
    for words, argv in (
        ("holds no document with text", (*base, tmp_path / "empty.jsonl")),
        ("the id 'a' is that of", (*base, twice)),
        ("no such file or folder", (*base, tmp_path / "none.jsonl")),
        ("dim is 99", (*base, corpus, "--dim", 99)),
        ("prefix is 0", (*base, corpus, "--prefix", 0)),
        ("prefix of 32 coordinates is not shorter", (*base, corpus, "--prefix", 32)),
        ("has no rotation", (*base, corpus, "--rotation")),
        ("--backend is 'fais'", (*base, corpus, "--backend", "fais")),
        ("no such folder, for an index", ("search", tmp_path / "none", "ba")),
        ("index.json: no such file", ("search", root / "model", "ba")),
        ("k is 26, and the index has 25", ("search", index, "ba", "-k", 26)),
        ("no such file", ("search", index, "--audio", tmp_path / "none.wav")),
        ("is required", ("search", index)),
        ("not allowed with argument", ("search", index, "ba", "--audio", "x.wav")),
        ("the question 0 is empty", ("search", index, " ", "-k", 1)),
        ("the task 'sing' has no prompt", ("search", index, "ba", "--task", "sing")),
    ):
        assert words in run(capsys, *argv, status=2)
    assert not out.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"c.jsonl", "empty.jsonl", "twice.jsonl"}


def test_another_model_and_a_model_that_is_gone_are_refused(index, tmp_path, capsys):
    other = tiny_run.make_model(tmp_path / "a", dims=(32, 8))
    assert run_command(main, ["search", str(index), "ba", "-k", "1", "--model", str(other)]) in (
        0,
        2,
    )
    corpus = write_corpus(tmp_path / "c.jsonl")
    moved = tmp_path / "index"
    run(capsys, "index", "build", "--model", other, "--corpus", corpus, "--out", moved)
    dual = tiny_run.make_dual_encoder(tmp_path / "a", nested=True)
    line = run(capsys, "search", moved, "ba", "--model", dual, status=2)
    assert "is the index of another model" in line
    (tmp_path / "a").rename(tmp_path / "b")
    assert "its model is not at" in run(capsys, "search", moved, "ba", status=2)
    run(capsys, "search", moved, "ba", "--model", tmp_path / "b" / "model")


FAKE = """
class PortAudioError(Exception): pass
def query_devices(kind): {query}
def rec(frames, samplerate, channels, dtype):
    import soundfile
    return soundfile.read({wav!r}, dtype=dtype)[0][:, None]
def wait(): pass
"""


def test_the_microphone_is_heard_where_there_is_one(index, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    line = run(capsys, "search", index, "--microphone", status=2)
    assert "--microphone: a microphone takes sounddevice" in line
    assert "mrl_jax[microphone]" in line
    monkeypatch.delitem(sys.modules, "sounddevice")
    wav = tmp_path / "q.wav"
    soundfile.write(wav, tiny_run.clip_of((1, 3), 5), tiny_run.RATE, subtype="FLOAT")
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "sounddevice.py"
    module.write_text(FAKE.format(query="raise PortAudioError('no device')", wav=str(wav)))
    line = run(capsys, "search", index, "--microphone", status=2)
    assert "no microphone can be read (no device)" in line
    assert "--seconds: 0" in run(capsys, "search", index, "--microphone", "--seconds", 0, status=2)
    monkeypatch.delitem(sys.modules, "sounddevice")
    module.write_text(FAKE.format(query="pass", wav=str(wav)) + "# now with a device\n")
    heard = run(capsys, "search", index, "--microphone", "-k", 3)
    assert heard == run(capsys, "search", index, "--audio", wav, "-k", 3)
    monkeypatch.delitem(sys.modules, "sounddevice")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_build_leaves_nothing_under_its_name(number, root, tmp_path, capsys):
    texts = [f"{WORDS[i % 25]} {WORDS[i % 7]} {WORDS[i % 11]}" for i in range(20_000)]
    corpus, out = write_corpus(tmp_path / "c.jsonl", texts), tmp_path / "out"
    argv = ["index", "build", "--model", root / "model", "--corpus", corpus, "--out", out]
    command = [sys.executable, "-m", "mrl_jax.core.commands", *map(str, argv)]
    child = subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".out.partial-*")) and time.monotonic() < deadline:
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(number)
    assert child.wait(timeout=120) in (-signal.SIGKILL, 143)
    assert not out.exists()
    small = write_corpus(tmp_path / "small.jsonl")
    run(capsys, "index", "build", "--model", root / "model", "--corpus", small, "--out", out)
    assert list(tmp_path.glob(".out.*")) == []  # What the killed one left is gone as well.
