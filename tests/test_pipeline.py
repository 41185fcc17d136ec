"""`eval.py transcribe` and `eval.py pipeline`, end to end on tiny towers."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from mrl_jax.pipeline_report import report_pipeline

import mrl_jax
from mrl_jax.data.audio import load_clip
from mrl_jax.data.retrieval_set import read_query_column, read_retrieval_set
from mrl_jax.errors import MrlError, run_command
from mrl_jax.evaluation.records import read_records
from mrl_jax.evaluation.retrieval import judgements_of
from mrl_jax.evaluation.translate import Translator
from mrl_jax.models.ctc import CtcVocabulary
from mrl_jax.pipeline import answer_ranks, open_text_side, run_pipeline, transcripts_of
from mrl_jax.speech_tower_files import save_speech_tower
from mrl_jax.tower_folder import load_hubert_ctc, read_info
from mrl_jax.training.ctc_stage import initial_recogniser
from mrl_jax.transcribe_report import report_transcribe

QUERIES = 8


def rewrite(path: Path, change) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(row)) + "\n" for row in rows))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """(recogniser, text tower, set with transcripts and speakers)."""
    root = tmp_path_factory.mktemp("pipeline")
    speech, text = tiny_run.make_towers(root / "towers")
    vocabulary = CtcVocabulary(("<pad>", "|", *sorted(set("badiceofgu"))))
    recogniser = initial_recogniser(read_info(speech).config, vocabulary, 1)
    save_speech_tower(root / "recogniser", recogniser)
    data = tiny_run.make_retrieval_set(root / "set", queries=QUERIES)
    judged = {q: next(iter(d)) for q, d in read_retrieval_set(data).qrels.items()}
    texts = {d.id: d.text for d in read_retrieval_set(data).corpus}

    def spoken(row):
        said, number = texts[judged[row["_id"]]], int(row["_id"][1:])
        # Another recogniser's: right in every second query.
        other = said if number % 2 else "gu"
        return {**row, "transcript": said, "speaker": f"s{number % 3}", "whisper": other}

    rewrite(data / "queries.jsonl", spoken)
    return root / "recogniser", text, data


def evaluate(*words: object) -> int:
    return run_command(importlib.import_module("eval").main, [str(word) for word in words])


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def copied(data: Path, tmp_path: Path, change) -> Path:
    shutil.copytree(data, tmp_path / "copy")
    rewrite(tmp_path / "copy" / "queries.jsonl", change)
    return tmp_path / "copy"


def test_transcribe_writes_a_report(places, tmp_path, capsys):
    jiwer = pytest.importorskip("jiwer")
    recogniser, _, data = places
    out = tmp_path / "out"
    assert evaluate("transcribe", "--model", recogniser, "--data", data, "--out", out) == 0
    assert "WER" in capsys.readouterr().out
    rows = lines(out / "transcripts.jsonl")
    said, heard = [r["reference"] for r in rows], [r["hypothesis"] for r in rows]
    records = {r.metric: r for r in read_records(out / "results.jsonl")}
    assert records["wer"].value == pytest.approx(jiwer.wer(said, heard))
    assert records["cer"].value == pytest.approx(jiwer.cer(said, heard))
    assert records["wer"].n == QUERIES
    assert {"report.md", "report.html", "errors.png"} <= {path.name for path in out.iterdir()}
    # What one clip alone is decoded to.
    model = load_hubert_ctc(recogniser)
    clip = load_clip(data / "q0.wav", 16_000)
    alone = model.decode(model(*mrl_jax.pad_clips([clip], model.encoder.config)))
    assert heard[0] == alone[0]
    assert len(set(heard)) > 1


def test_transcribe_reads_a_manifest(places, tmp_path):
    recogniser, _, data = places
    manifest = tmp_path / "m.jsonl"
    rows = [
        {
            "id": f"e{i}",
            "audio": str(data / f"q{i}.wav"),
            "text": "x",
            "transcript": "Ba, CE!",
            "split": ["train", "test"][i % 2],
        }
        for i in range(4)
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = report_transcribe(recogniser, manifest, tmp_path / "a", split="test", plain=True)
    assert table.splitlines()[-1].endswith("| 2 |")
    assert "cannot write" not in (tmp_path / "a" / "report.md").read_text()
    report_transcribe(recogniser, manifest, tmp_path / "b")
    report = (tmp_path / "b" / "report.md").read_text()
    assert "cannot write '!', ',', 'B', 'C', 'E'" in report
    with pytest.raises(MrlError, match="no split 'dev'; there are: test, train"):
        report_transcribe(recogniser, manifest, tmp_path / "c", split="dev")


def test_transcribe_refuses(places, tmp_path, capsys):
    recogniser, text, data = places
    nothing = copied(data, tmp_path, lambda row: {**row, "transcript": None})
    empty = tmp_path / "empty.jsonl"
    row = {"id": "e", "audio": str(data / "q0.wav"), "text": "x", "transcript": " "}
    empty.write_text(json.dumps(row) + "\n")
    for model, where, told in (
        (text, data, "is a qwen3 tower, expected hubert_ctc"),
        (recogniser, nothing, f"{QUERIES} of {QUERIES} recordings have no transcript"),
        (recogniser, empty, "have an empty transcript, the first is 'e'"),
        (recogniser, tmp_path / "nowhere", "nowhere"),
    ):
        words = ("transcribe", "--model", model, "--data", where, "--out", tmp_path / "out")
        assert evaluate(*words) == 2
        errors = capsys.readouterr().err.strip().splitlines()
        assert len(errors) == 1
        assert told in errors[0]
    assert not (tmp_path / "out").exists()


def test_the_pipeline_keeps_every_stage(places, tmp_path, capsys):
    recogniser, text, data = places
    out = tmp_path / "out"
    words = ("pipeline", "--recogniser", recogniser, "--text", text, "--data", data, "--out", out)
    assert evaluate(*words) == 0
    assert "| 32 |" in capsys.readouterr().out
    rows = lines(out / "transcripts.jsonl")
    assert len(rows) == QUERIES
    for row in rows:
        assert row["translation"] == row["hypothesis"]
        assert row["ndcg@10"] == pytest.approx(
            1 / np.log2(row["rank"] + 1) if row["rank"] <= 10 else 0
        )
        # The corpus holds the very words: said, they are found.
        assert row["reference_rank"] == 1
    records = read_records(out / "results.jsonl")
    means = {(r.setting["queries_from"], r.dim): r.value for r in records if r.metric == "ndcg@10"}
    assert means["true transcripts", 32] == 1
    assert means["recogniser", 32] == pytest.approx(np.mean([row["ndcg@10"] for row in rows]))
    cost = {r.dim: r.value for r in records if r.metric.startswith("ndcg@10 less")}
    assert cost[32] == pytest.approx(means["recogniser", 32] - 1)
    assert {r.metric for r in records} >= {"wer", "cer", "ndcg@10 of chance"}
    report = (out / "report.md").read_text()
    assert "Queries by their word errors" in report
    assert "translator: none" in report


def test_a_column_stands_for_another_recogniser(places, tmp_path):
    _, text, data = places
    options = {"text": text, "transcripts": "whisper", "dims": (32, 8)}
    report_pipeline(None, data, tmp_path / "out", **options)
    rows = lines(tmp_path / "out" / "transcripts.jsonl")
    assert [row["hypothesis"] == row["reference"] for row in rows] == [False, True] * (QUERIES // 2)
    assert all(row["rank"] == 1 for row in rows[1::2])
    assert any(row["rank"] > 1 for row in rows[::2])
    assert "| 0 | 4 | 1.0000 | 1.0000 |" in (tmp_path / "out" / "report.md").read_text()
    # The set's own transcripts are what is measured: there is nothing to hold them against.
    own = report_pipeline(None, data, tmp_path / "own", text=text, transcripts="transcript")
    assert "| 32 | 1.0000 (1.00 to 1.00) |" in own
    assert "What recognition costs" not in (tmp_path / "own" / "report.md").read_text()


def test_a_translator_stands_between(places):
    _, text, data = places
    side, loaded = open_text_side(text, None), read_retrieval_set(data)

    class Backwards(Translator):
        def __init__(self):
            pass

        def translate(self, texts, *, progress=None):
            return [" ".join(reversed(said.split())) for said in texts]

    heard = transcripts_of(loaded, data, "transcript")
    run = run_pipeline(loaded, side, heard=heard, translator=Backwards())
    assert run.stages.translated == [" ".join(reversed(said.split())) for said in heard]
    plain = run_pipeline(loaded, side, heard=run.stages.translated)
    assert np.array_equal(plain.stages.ranks, run.stages.ranks)
    assert plain.true is not None
    assert not np.array_equal(plain.true.ranks, run.stages.ranks)
    prompted = run_pipeline(loaded, side, heard=heard, prompt="gu gu ")
    assert not np.array_equal(prompted.stages.results[0].scores, run.stages.results[0].scores)


def test_ranks_are_those_of_a_full_sort(places):
    loaded = read_retrieval_set(places[2])
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((QUERIES, 16)).astype(np.float32)
    documents = rng.standard_normal((25, 16)).astype(np.float32)
    judgements = judgements_of(loaded)
    found = answer_ranks(queries, documents, judgements, 8)
    unit = documents[:, :8] / np.linalg.norm(documents[:, :8], axis=1, keepdims=True)
    for row, key in enumerate(judgements.query_ids):
        order = np.argsort(-(unit @ queries[row, :8]))
        answer = judgements.document_ids.index(next(iter(judgements.qrels[key])))
        assert found[row] == 1 + int(np.flatnonzero(order == answer)[0])


def test_the_text_tower_embeds_as_in_a_model(places, tmp_path):
    folder = tiny_run.make_model(tmp_path)
    side, embedder = open_text_side(folder, None), mrl_jax.Embedder.load(folder)
    texts = ["ba ce", "", "gu di fo"]
    np.testing.assert_allclose(side.embed(texts), embedder.embed_text(texts), atol=1e-6)
    assert side.dims == (32, 16, 8)
    assert side.digest == embedder.info.text.digest
    assert open_text_side(places[1], None).dims == (32, 16, 8, 4)


def test_the_pipeline_refuses(places, tmp_path, capsys):
    recogniser, text, data = places
    empty = copied(data, tmp_path, lambda row: {**row, "whisper": ""})
    both = ["--recogniser", recogniser, "--transcripts", "whisper"]
    for words, told in (
        ([], "expected one of --recogniser and --transcripts"),
        (both, "expected one of --recogniser and --transcripts"),
        (["--recogniser", text], "is a qwen3 tower, expected hubert_ctc"),
        (["--transcripts", "wisper"], "did you mean whisper"),
        (["--transcripts", "text"], f"{QUERIES} of {QUERIES} recordings have no text"),
        (["--transcripts", "whisper", "--data", empty], "'whisper' of query 'q0' is empty"),
        (["--transcripts", "whisper", "--text", recogniser], "is a hubert_ctc tower"),
        (["--transcripts", "whisper", "--dims", "64"], "dimension 64"),
        (["--transcripts", "whisper", "--translator", tmp_path / "t"], "--source and --target"),
    ):
        defaults = ("--text", text, "--data", data, "--out", tmp_path / "out")
        assert evaluate("pipeline", *defaults, *words) == 2
        errors = capsys.readouterr().err.strip().splitlines()
        assert len(errors) == 1
        assert told.lower() in errors[0].lower()
    assert not (tmp_path / "out").exists()


def test_a_column_is_read_from_any_form(places, tmp_path):
    _, _, data = places
    found = read_query_column(data, "whisper")
    assert found["q0"] == "gu"
    assert set(found) == {f"q{number}" for number in range(QUERIES)}
    with pytest.raises(MrlError, match="has no column 'whisper' that could be read"):
        transcripts_of(read_retrieval_set(data), "fleurs:wo-fr", "whisper")
