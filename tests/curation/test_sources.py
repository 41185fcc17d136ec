"""Every kind of source, and what is broken in it."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.curation import sources
from mrl_jax.curation.config import SourceConfig
from mrl_jax.curation.probe import Probe, ProbeConfig
from mrl_jax.curation.rows import Row, read_rows, write_rows
from mrl_jax.curation.stage import BrokenRow
from mrl_jax.data.audio.encode import flac_bytes, wav_bytes


def tone(seconds: float = 0.5, rate: int = 16_000) -> bytes:
    times = np.arange(round(seconds * rate)) / rate
    return wav_bytes((0.3 * np.sin(2 * np.pi * 440 * times)).astype(np.float32), rate)


def rows_of(config: SourceConfig, folder: Path) -> tuple[Row, ...]:
    return sources.read_source(config, folder).rows


def test_recordings_of_a_folder_by_their_paths(tmp_path):
    for name in ("a/1.wav", "b/2.FLAC", "b/notes.txt", ".hidden/3.wav", "4.m4a"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tone())
    source = sources.RecordingsSource(name="r", path=str(tmp_path), language="wo")
    rows = rows_of(source, tmp_path)
    assert [row.id for row in rows] == ["r/4.m4a", "r/a/1.wav", "r/b/2.FLAC"]
    assert {row.language for row in rows} == {"wo"}
    named = sources.RecordingsSource(name="r", path=str(tmp_path), speaker_folders=True)
    assert [row.speaker for row in rows_of(named, tmp_path)] == [None, "a", "b"]
    [one] = rows_of(sources.RecordingsSource(name="r", path=str(tmp_path / "a/1.wav")), tmp_path)
    assert one.id == "r/1.wav"


def test_a_manifest_keeps_its_fields_and_its_splits_if_asked(tmp_path):
    fields = {"id": 7, "audio": "x.wav", "text": "doc", "transcript": "t", "speaker": "s"}
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({**fields, "split": "dev", "language": "wo"}) + "\n")
    [row] = rows_of(sources.ManifestSource(name="m", path=str(path), language="fr"), tmp_path)
    assert (row.id, row.audio, row.split) == ("m/7", str(tmp_path / "x.wav"), "dev")
    assert (row.text, row.transcript, row.speaker, row.language) == ("doc", "t", "s", "wo")
    path.write_text(json.dumps({**fields, "document_id": 3, "task": "find"}) + "\n")
    documents = set()
    for name in ("m", "n"):
        source = sources.ManifestSource(name=name, path=str(path), keep_split=False, split="test")
        [row] = rows_of(source, tmp_path)
        documents.add(row.document)
        assert (row.task, row.split) == ("find", "test")
    assert documents == {"m/3", "n/3"}
    with pytest.raises(MrlError, match=r"sources.m.split: 'a/b' is no name of a split"):
        sources.ManifestSource(name="m", path=str(path), split="a/b")
    free = sources.ManifestSource(name="m", path=str(path), keep_split=False)
    assert rows_of(free, tmp_path)[0].split is None


def test_recordings_inside_a_table_become_files_once(tmp_path):
    samples = (3000 * np.sin(np.arange(8000) / 5)).astype(np.int16)
    cells = [{"bytes": data, "path": None} for data in (tone(), flac_bytes(samples, 16_000), None)]
    table = pa.table({"audio": cells, "text": ["eins", "zwei", "drei"]})
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    source = sources.TableSource(name="t", path=str(tmp_path))
    out = tmp_path / "recordings"
    rows = rows_of(source, out)
    assert [row.text for row in rows] == ["eins", "zwei", "drei"]
    first, second, third = rows
    assert first.audio is not None
    assert Path(first.audio).read_bytes() == tone()
    assert second.audio is not None
    assert second.audio.endswith(".flac")
    assert third.dropped == "source: the row of the table holds no recording"
    times = [path.stat().st_mtime_ns for path in sorted(out.rglob("*"))]
    assert rows_of(source, out) == rows
    assert [path.stat().st_mtime_ns for path in sorted(out.rglob("*"))] == times


def test_texts_and_parallel_texts(tmp_path):
    (tmp_path / "news.txt").write_text("Eins.\n\nZwei.\n")
    texts = sources.TextSource(name="n", path=str(tmp_path / "news.txt"), text_language="de")
    rows = rows_of(texts, tmp_path)
    assert [row.text for row in rows] == ["Eins.", "Zwei."]
    assert {(row.text_language, row.language) for row in rows} == {("de", None)}
    (tmp_path / "a.txt").write_text("un\n\u2028deux\n\n")
    (tmp_path / "b.txt").write_text("one\ntwo\nthree\n")
    source = sources.ParallelSource(
        name="p", path=str(tmp_path / "a.txt"), second=str(tmp_path / "b.txt"), language="fr"
    )
    read = sources.read_source(source, tmp_path)
    assert [(row.transcript, row.text) for row in read.rows] == [("un", "one"), ("deux", "two")]
    assert read.issues == ("p: pairs with an empty side, left out: 1 ('line 3')",)
    (tmp_path / "t.tsv").write_text("fr\ten\nun\tone\n")
    table = sources.ParallelSource(name="p", path=str(tmp_path / "t.tsv"), columns=("fr", "en"))
    [row] = rows_of(table, tmp_path)
    assert (row.transcript, row.text) == ("un", "one")


def test_a_retrieval_set_gives_queries_with_their_documents(tmp_path):
    (tmp_path / "q.wav").write_bytes(tone())
    tables = {
        "queries": [{"_id": "q1", "audio": "q.wav", "transcript": "t", "speaker": "s"}],
        "corpus": [{"_id": "d1", "text": "eins"}, {"_id": "d2", "text": "zwei"}],
        "qrels": [
            {"query-id": "q1", "corpus-id": "d1", "score": 1},
            {"query-id": "q1", "corpus-id": "d2", "score": 2},
        ],
    }
    for name, lines in tables.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    [row] = rows_of(sources.NamedSource(name="s", path=str(tmp_path)), tmp_path)
    assert (row.id, row.text, row.document_id, row.transcript) == ("s/q1", "zwei", "s/d2", "t")


@pytest.mark.parametrize(
    ("kind", "path", "message"),
    [
        (sources.RecordingsSource, "nothing", r"nothing: no such file or folder"),
        (sources.RecordingsSource, "empty", r"source 's' \(.*empty\): holds nothing"),
        (sources.ManifestSource, "nothing", r"no such file"),
        (sources.TableSource, "empty", r"there is no .parquet file here"),
        (sources.NamedSource, "fleurs:wo-xx", r"has no language 'xx'"),
        (sources.TextSource, "nothing.txt", r"no such file or folder"),
        (sources.ParallelSource, "nothing.tsv", r"no such file"),
    ],
)
def test_a_source_that_is_not_there_is_one_line(kind, path, message, tmp_path):
    (tmp_path / "empty").mkdir()
    path = path if ":" in path else str(tmp_path / path)
    with pytest.raises(MrlError, match=message):
        sources.read_source(kind(name="s", path=path), tmp_path)


def test_a_named_set_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MrlError, match="the hub could not be reached"):
        sources.read_source(sources.NamedSource(name="s", path="kallaama"), tmp_path)


def test_lines_that_are_not_aligned_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("un\ndeux\n")
    (tmp_path / "b.txt").write_text("one\n")
    source = sources.ParallelSource(
        name="p", path=str(tmp_path / "a.txt"), second=str(tmp_path / "b.txt")
    )
    with pytest.raises(MrlError, match=r"b.txt: has 1 lines, and .*a.txt has 2"):
        sources.read_source(source, tmp_path)


def test_a_recording_is_measured_or_broken(tmp_path):
    (tmp_path / "good.wav").write_bytes(tone(0.75, 8000))
    [row] = Probe(ProbeConfig()).apply(Row(id="a", audio=str(tmp_path / "good.wav")))
    assert (row.measured["source.seconds"], row.measured["source.rate"]) == (0.75, 8000)
    (tmp_path / "cut.wav").write_bytes(tone()[:4000])
    (tmp_path / "silent.wav").write_bytes(wav_bytes(np.zeros(8000, np.float32), 8000))
    (tmp_path / "video.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + b"1" * 90)
    for name, words in {
        "cut.wav": "cannot be decoded",
        "silent.wav": "is silent",
        "video.m4a": "MPEG-4",
        "none.wav": "no such file",
    }.items():
        with pytest.raises(BrokenRow, match=words):
            Probe(ProbeConfig()).apply(Row(id="a", audio=str(tmp_path / name)))


@pytest.mark.parametrize(("out", "left"), [("runs/x", "r/clips/0.wav"), (".", "r/runs/x/a.wav")])
def test_what_the_run_wrote_is_no_recording_of_its_source(out, left, tmp_path):
    for name in ("1.wav", "clips/0.wav", "examples/a.flac", "runs/x/a.wav", "runs/x/clips/a.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(tone())
    source = sources.RecordingsSource(name="r", path=str(tmp_path))
    ids = [row.id for row in rows_of(source, tmp_path / out / "recordings")]
    assert "r/1.wav" in ids
    assert left in ids
    assert not [name for name in ids if name.startswith(f"r/{out}/clips".replace("/./", "/"))]


def test_a_file_whose_name_is_not_utf8_is_dropped_and_its_row_can_be_written(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    with open(path, "wb") as file:
        file.write(tone())
    (row,) = rows_of(
        sources.RecordingsSource(name="r", path=str(tmp_path)), tmp_path / "recordings"
    )
    assert (row.id, row.dropped) == (
        r"r/caf\xe9.wav",
        "source: the name of the file is not UTF-8",
    )
    write_rows(tmp_path / "rows.jsonl", [row])
    assert read_rows(tmp_path / "rows.jsonl") == [row]
