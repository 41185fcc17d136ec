"""`mrl-jax embed`: vectors on disk equal those of the Embedder, whatever was killed between."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import soundfile
import tiny_run
from pyarrow import parquet

import mrl_jax
from mrl_jax.core.cli import run_command
from mrl_jax.core.commands import main
from mrl_jax.core.errors import MrlError
from mrl_jax.inference.embed import run as run_module
from mrl_jax.inference.embed.inputs import Inputs, open_inputs
from mrl_jax.inference.embed.run import EmbedConfig, embed_corpus
from mrl_jax.inference.embed.shards import EMBED_FILE

TEXTS = [" ".join(tiny_run.WORDS[(i + k) % 5] for k in range(1 + i % 7)) for i in range(45)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_run.make_model(tmp_path_factory.mktemp("embed"))


@pytest.fixture(scope="module")
def embedder(model):
    return mrl_jax.Embedder.load(model)


@pytest.fixture
def corpus(tmp_path) -> Path:
    path = tmp_path / "corpus.jsonl"
    rows = [{"id": f"d{i}", "text": text} for i, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Twelve recordings of several lengths and rates, and three that cannot be embedded."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(12):
        clip = np.tile(tiny_run.clip_of((i % 5, i % 3), i), 1 + i % 4)
        place = folder / f"speaker{i % 2}" / f"{i:02d}.{'wav' if i % 3 else 'flac'}"
        place.parent.mkdir(exist_ok=True)
        soundfile.write(place, clip, tiny_run.RATE // (1 + i % 2))
    soundfile.write(folder / "short.wav", np.full(20, 0.1), tiny_run.RATE)
    soundfile.write(folder / "silent.wav", np.zeros(9000), tiny_run.RATE)
    (folder / "broken.mp3").write_text("<html></html>")
    return folder


def run(capsys, *argv: object, status: int = 0) -> str:
    """What `mrl-jax embed` prints; its one line of refusal for status 2."""
    capsys.readouterr()
    assert run_command(main, ["embed", *map(str, argv)]) == status
    out, error = capsys.readouterr()
    if status == 2:
        assert out == ""
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error
    return out + error


def read_vectors(folder: Path) -> tuple[list[str], np.ndarray]:
    """By pyarrow and numpy alone, as users read them."""
    ids, parts = [], []
    for file in sorted(folder.glob("vectors-*.parquet")):
        table = parquet.read_table(file)
        ids += table["id"].to_pylist()
        parts.append(np.stack(table["vector"].to_pylist()))
        assert table.schema.field("vector").type.value_type == pyarrow.float32()
    for file in sorted(folder.glob("vectors-*.npy")):
        parts.append(np.load(file))
        lines = file.with_name(f"{file.stem}.ids.jsonl").read_text().splitlines()
        ids += [json.loads(line) for line in lines]
    return ids, np.concatenate(parts)


@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_texts_keep_their_order_and_ids(form, model, embedder, corpus, tmp_path, capsys):
    out = tmp_path / "out"
    options = ("--shard-rows", 20, "--format", form, "--dim", 16)
    said = run(capsys, model, corpus, out, *options)
    assert said == f"{out}: 45 vectors of 16 coordinates written\n"
    assert len(list(out.glob(f"vectors-*-of-00003.{form}"))) == 3
    ids, vectors = read_vectors(out)
    assert ids == [f"d{i}" for i in range(45)]
    np.testing.assert_allclose(vectors, embedder.embed_text(TEXTS, dim=16), atol=1e-6)
    assert not np.allclose(vectors, embedder.embed_text(TEXTS, dim=16, task="find"), atol=1e-3)


def test_the_prompt_of_a_task(model, embedder, corpus, tmp_path, capsys):
    run(capsys, model, corpus, tmp_path / "out", "--task", "find")
    expected = embedder.embed_text(TEXTS, task="find")
    np.testing.assert_allclose(read_vectors(tmp_path / "out")[1], expected, atol=1e-6)


def test_recordings_that_cannot_be_embedded_are_named(model, embedder, clips, tmp_path, capsys):
    out = tmp_path / "out"
    said = run(capsys, model, clips, out, "--shard-rows", 8)
    assert "3 recordings could not be embedded" in said
    ids, vectors = read_vectors(out)
    assert ids == sorted(path.relative_to(clips).as_posix() for path in clips.glob("*/*"))
    expected = embedder.embed_speech([clips / name for name in ids])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    lines = [line for file in out.glob("_skipped-*") for line in file.read_text().splitlines()]
    reasons = {row["id"]: row["reason"] for row in map(json.loads, lines)}
    assert set(reasons) == {"short.wav", "silent.wav", "broken.mp3"}
    assert "shorter than one speech token" in reasons["short.wav"]
    assert "HTML" in reasons["broken.mp3"]
    assert parquet.read_table(str(out))["id"].to_pylist() == ids  # The folder is one table.


def test_recordings_of_a_table(model, embedder, clips, tmp_path, capsys):
    files = sorted(clips.glob("*/*"))
    cells = [
        {"bytes": file.read_bytes() if i % 2 else None, "path": str(file)}
        for i, file in enumerate([*files, clips / "none.wav"])
    ]
    table = pyarrow.table({"id": [f"q{i}" for i in range(len(cells))], "audio": cells})
    parquet.write_table(table, tmp_path / "t.parquet")
    said = run(capsys, model, tmp_path / "t.parquet", tmp_path / "out")
    assert "1 recordings could not be embedded" in said
    ids, vectors = read_vectors(tmp_path / "out")
    assert ids == [f"q{i}" for i in range(len(files))]
    np.testing.assert_allclose(vectors, embedder.embed_speech(files), atol=1e-5)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_missing_is_written_again_and_nothing_else(model, corpus, tmp_path, capsys):
    out = tmp_path / "out"
    run(capsys, model, corpus, out, "--shard-rows", 10)
    before = contents(out)
    lost = out / "vectors-00002-of-00005.parquet"
    lost.unlink()
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    said = run(capsys, model, corpus, out, "--shard-rows", 10)
    assert "10 vectors of 32 coordinates written, 4 shards were there already" in said
    assert contents(out) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert "0 vectors" in run(capsys, model, corpus, out, "--shard-rows", 10)


def test_a_killed_run_goes_on(model, corpus, tmp_path, capsys):
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(capsys, model, corpus, whole, "--shard-rows", 3)
    argv = [sys.executable, "-m", "mrl_jax.core.commands", "embed", str(model), str(corpus)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    process = subprocess.Popen([*argv, str(out), "--shard-rows", "3"], env=environment)
    while len(list(out.glob("vectors-*"))) < 3 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert {name.split(".")[0] for name in contents(out) if name.startswith("vectors")}
    run(capsys, model, corpus, out, "--shard-rows", 3)
    assert contents(out).keys() == contents(whole).keys()
    np.testing.assert_allclose(read_vectors(out)[1], read_vectors(whole)[1], atol=1e-5)


def test_parts_make_one_output(model, corpus, tmp_path, capsys):
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(capsys, model, corpus, whole, "--shard-rows", 10)
    said = run(capsys, model, corpus, out, "--shard-rows", 10, "--part", "2/2")
    assert "20 vectors of 32 coordinates written, 3 shards are left to other parts" in said
    assert "left to" not in run(capsys, model, corpus, out, "--shard-rows", 10, "--part", "1/2")
    assert contents(out) == contents(whole)


def test_the_output_of_another_model_is_kept(model, corpus, tmp_path_factory, tmp_path, capsys):
    out = tmp_path / "out"
    run(capsys, model, corpus, out)
    before = contents(out)
    dual = tiny_run.make_dual_encoder(model.parent, nested=True, name="other")
    assert "holds the vectors of another model" in run(capsys, dual, corpus, out, status=2)
    assert "of another dim" in run(capsys, model, corpus, out, "--dim", 8, status=2)
    corpus.write_text(corpus.read_text() + '{"id": "new", "text": "ba"}\n')
    assert "another input, or one that has changed" in run(capsys, model, corpus, out, status=2)
    assert contents(out) == before
    run(capsys, dual, corpus, out, "--overwrite")
    assert len(read_vectors(out)[0]) == 46


def test_overwriting_goes_on_and_spares_the_work_of_other_parts(model, corpus, tmp_path, capsys):
    out, place = tmp_path / "out", tmp_path / "place"
    place.mkdir()
    out.symlink_to(place)
    run(capsys, model, corpus, out, "--dim", 8)
    options = ("--shard-rows", 10, "--overwrite")
    (out / "notes.txt").write_text("mine")
    (out / ".vectors-00000-of-00001.parquet.partial-host-t1-1").write_text("x")
    run(capsys, model, corpus, out, *options, "--part", "1/2")
    assert len(list(out.glob("vectors-*"))) == 3
    assert not list(out.glob(".vectors*"))
    said = run(capsys, model, corpus, out, *options, "--part", "2/2")
    assert "20 vectors of 32 coordinates written\n" in said
    assert len(read_vectors(out)[0]) == 45
    assert "5 shards were there already" in run(capsys, model, corpus, out, *options)
    assert (out / "notes.txt").read_text() == "mine"


def test_processes_that_begin_at_once(model, corpus, tmp_path, capsys, monkeypatch):
    out, folder = tmp_path / "out", run_module.ShardFolder
    whole = contents_of(model, corpus, tmp_path / "whole", capsys)

    class Second(folder):
        def write(self, number, ids, vectors, skipped):
            if not list(out.glob("vectors-*")):  # Another process has written the same by now.
                folder(self.folder, self.info).write(number, ids, vectors, skipped)
            stale = out / f".vectors-0000{number}-of-00003.parquet.partial-host-t1-1"
            super().write(number, ids, vectors, skipped)
            assert not stale.exists()

    monkeypatch.setattr(run_module, "ShardFolder", Second)
    run(capsys, model, corpus, out, "--shard-rows", 20)
    assert contents(out) == whole


def contents_of(model, corpus, out, capsys) -> dict[str, bytes]:
    run(capsys, model, corpus, out, "--shard-rows", 20)
    return contents(out)


def test_vectors_that_another_run_replaces_are_not_mixed(embedder, corpus, tmp_path, monkeypatch):
    out, before = tmp_path / "out", run_module._embed
    inputs, config = open_inputs(corpus), EmbedConfig(shard_rows=20)

    def replaced(*arguments):
        monkeypatch.setattr(run_module, "_embed", before)
        embed_corpus(embedder, inputs, out, EmbedConfig(dim=8, shard_rows=20), overwrite=True)
        return before(*arguments)

    monkeypatch.setattr(run_module, "_embed", replaced)
    with pytest.raises(MrlError, match="holds the vectors of another dim"):
        embed_corpus(embedder, inputs, out, config)
    assert read_vectors(out)[1].shape == (45, 8)


@pytest.mark.parametrize("change", ["more", "fewer", "other"])
def test_an_input_that_changes_meanwhile(change, embedder, corpus, tmp_path, monkeypatch):
    out, old = tmp_path / "out", corpus.read_text()
    lines = old.splitlines(keepends=True)
    new = {
        "more": [*lines, '{"id": "new", "text": "ba"}\n'],
        "fewer": lines[:5],
        "other": ['{"id": "d0", "text": "gu gu gu"}\n', *lines[1:]],
    }[change]
    counted = Inputs.count_and_digest

    def then_changed(self):
        found = counted(self)
        corpus.write_text("".join(new))
        return found

    monkeypatch.setattr(Inputs, "count_and_digest", then_changed)
    with pytest.raises(MrlError, match="has changed while it was embedded"):
        embed_corpus(embedder, open_inputs(corpus), out, EmbedConfig(shard_rows=15))
    assert [path.name for path in out.iterdir()] == [EMBED_FILE]
    monkeypatch.undo()
    corpus.write_text(old)
    embed_corpus(embedder, open_inputs(corpus), out, EmbedConfig(shard_rows=15))
    np.testing.assert_allclose(read_vectors(out)[1], embedder.embed_text(TEXTS), atol=1e-6)


def test_a_search_config_is_refused(embedder, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(embedder, "search_config", object())
    with pytest.raises(MrlError, match="loaded with a search config"):
        embed_corpus(embedder, open_inputs(corpus), tmp_path / "out", EmbedConfig())


def test_recordings_are_grouped_by_what_fits_into_memory():
    assert run_module._groups([10.0, 3600.0, -1.0, 1000.0, float("inf"), 700.0]) == [
        [4],
        [1],
        [3, 5, 0, 2],
    ]
    many = run_module._groups([600.0] * 5 + [1.0] * 150)
    assert sorted(row for group in many for row in group) == list(range(155))
    assert max(map(len, many)) == run_module.SPEECH_GROUP
    assert many[0] == [0, 1, 2]


def test_texts_that_are_left_out_are_counted_once(model, tmp_path, capsys):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "a", "text": ""}\n{"id": "b", "text": "ba"}\n')
    assert "left out: 1 (" in run(capsys, model, path, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--dim", 64), "dim is 64"),
        (("--dim", 0), "dim"),
        (("--task", "sing"), "sing"),
        (("--task", "find", "--prompt", "x"), "task and prompt"),
        (("--part", "3/2"), "the part is 3 of 2"),
        (("--part", "half"), "expected I/N"),
        (("--shard-rows", 0), "shard_rows"),
        (("--batch-size", 0), "batch_size"),
        (("--modality", "speech"), "no column `audio`"),
    ],
)
def test_wrong_options_leave_nothing(options, expected, model, corpus, tmp_path, capsys):
    assert expected in run(capsys, model, corpus, tmp_path / "out", *options, status=2)
    assert not (tmp_path / "out").exists()


def test_wrong_folders_leave_nothing(model, corpus, clips, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    assert "empty" in run(capsys, model, tmp_path / "empty", out, status=2)
    assert "no such file" in run(capsys, model, tmp_path / "none.jsonl", out, status=2)
    assert "model" in run(capsys, clips, corpus, out, status=2)
    assert "replace its own source" in run(capsys, model, corpus, tmp_path, status=2)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("x")
    assert "holds files, and no _embed.json" in run(capsys, model, corpus, out, status=2)
    assert "s3" in run(capsys, model, corpus, "s3://bucket/x", status=2)


def test_an_id_twice(model, corpus, tmp_path, capsys):
    corpus.write_text('{"id": "a", "text": "ba"}\n' * 2)
    assert "own id" in run(capsys, model, corpus, tmp_path / "out", status=2)


def test_the_kind_of_an_input(clips, corpus, tmp_path):
    assert open_inputs(clips).modality == "speech"
    assert open_inputs(corpus).modality == "text"
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("ba ce\n\ndi")
    assert open_inputs(tmp_path / "texts").modality == "text"
    assert open_inputs(clips / "short.wav").modality == "speech"
    assert open_inputs(clips / "short.wav").count_and_digest()[0] == 1
    (tmp_path / "texts/a.flac").write_bytes((clips / "speaker0/00.flac").read_bytes())
    with pytest.raises(MrlError, match="holds recordings and texts"):
        open_inputs(tmp_path / "texts")
    assert open_inputs(tmp_path / "texts", "speech").count_and_digest()[0] == 1


def test_names_that_are_not_utf8(model, clips, tmp_path, capsys):
    folder = tmp_path / "clips"
    folder.mkdir()
    data = (clips / "speaker0/00.flac").read_bytes()
    Path(os.fsdecode(bytes(folder) + b"/\xff.flac")).write_bytes(data)
    run(capsys, model, folder, tmp_path / "out")
    assert read_vectors(tmp_path / "out")[0] == ["\\xff.flac"]


def test_an_input_may_be_at_another_place(model, clips, tmp_path, capsys):
    (tmp_path / "link").symlink_to(clips)
    run(capsys, model, clips, tmp_path / "out")
    said = run(capsys, model, tmp_path / "link", tmp_path / "out")
    assert "1 shards were there already" in said
