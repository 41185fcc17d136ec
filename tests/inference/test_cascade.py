"""Cascades in `eval.py compare`, end to end on tiny towers, and `eval.py transcribe`."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import tiny_run
from descriptions import unsealed
from eval_reports import report_compare
from flax import nnx
from tiny_cascade import (
    QUERIES,
    copied,
    lines,
    make_recogniser,
    records_of,
    refused,
    rewrite,
    run,
    write_config,
    written,
)

import mrl_jax
from mrl_jax.checkpoints.towers import load_hubert_ctc
from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.decode import load_clip
from mrl_jax.data.sets.retrieval_set import Query, read_retrieval_set, write_retrieval_set
from mrl_jax.evaluation.compare.stages import BUCKETS, answer_rank
from mrl_jax.evaluation.retrieval.report import run_retrieval
from mrl_jax.inference.cascade import Cascade
from mrl_jax.inference.cascade_config import (
    read_cascade,
    translator_config,
)
from mrl_jax.inference.encoder import Encoder
from mrl_jax.inference.translation import Translator

CASCADE = "mrl_jax.inference.cascade_command"


@pytest.mark.slow
def test_a_cascade_stands_beside_models(root, tmp_path, monkeypatch, capsys):
    corpora = []
    monkeypatch.setattr(Encoder, "text", counted(Encoder.text, corpora))
    config = write_config(tmp_path / "tiny_config.py", root)
    cascade, out = tmp_path / "runs" / "cascade", tmp_path / "out"
    assert run(CASCADE, "--config", config, "--out", cascade, "max_text_tokens=64") == 0
    assert str(root) not in (cascade / "cascade.json").read_text()
    models = (f"late={root / 'model'}", f"pipe={cascade}")
    words = ("compare", "--models", *models, "--data", root / "set", "--out", out)
    assert run("eval", *words) == 0
    assert corpora == [25]  # The cascade searches what the model had encoded.
    table = capsys.readouterr().out
    records, rows = records_of(out), lines(out / "stages.jsonl")
    assert [row["query"] for row in rows] == [f"q{i}" for i in range(QUERIES)]
    scores = [row["ndcg@10"] for row in rows]
    assert records["pipe", "ndcg@10", 32, None].value == pytest.approx(np.mean(scores))
    assert f"| pipe | {np.mean(scores):.4f} (" in table
    differences = [r for r in records.values() if r.metric == "ndcg@10 difference"]
    pairs = [r.setting["other_system"] for r in differences]
    assert pairs == ["pipe"] * 3
    # What each stage makes of one clip alone.
    model = load_hubert_ctc(root / "recogniser")
    clip = load_clip(root / "set" / "q3.wav", tiny_run.RATE)
    alone = model.decode(model(*mrl_jax.pad_clips([clip], model.encoder.config)))[0]
    assert rows[3]["recognised"] == rows[3]["translation"] == alone
    assert len({row["recognised"] for row in rows}) > 1
    # The corpus holds the true transcripts: as queries they come first.
    assert all(row["reference_rank"] == 1 for row in rows)
    assert all((row["ndcg@10"] == 1) == (row["rank"] == 1) for row in rows)
    references, hypotheses = ([r[key] for r in rows] for key in ("reference", "recognised"))
    wer, cer = jiwer.wer(references, hypotheses), jiwer.cer(references, hypotheses)
    assert records["pipe", "wer", None, None].value == pytest.approx(wer)
    assert records["pipe", "cer", None, None].value == pytest.approx(cer)
    lost = records["pipe", "ndcg@10 less that from true transcripts", 32, None].value
    assert lost == pytest.approx(np.mean(scores) - 1)
    embedder = mrl_jax.Embedder.load(root / "model")
    parts = (embedder.model.text, model)
    whole = sum(x.size for part in parts for x in flat(part))
    assert records["pipe", "parameters", None, None].value == whole
    assert records["pipe", "trained parameters", None, None].value == 0
    assert records["pipe", "seconds a query", None, None].value > 0
    # A text and a clip go through two towers in both, the speech without a decoder.
    flops = {name: records[name, "flops a query", None, None].value for name in ("late", "pipe")}
    assert 0.5 < flops["pipe"] / flops["late"] < 1.5
    report = (out / "report.md").read_text()
    for message in ("pipe: recognition", "pipe: what recognition costs", "cascade: recogniser |"):
        assert message in report


def translating(folder: Path) -> dict[str, Any]:
    languages = {"source_language": "wol_Latn", "target_language": "fra_Latn"}
    return {"translator": str(folder), **languages, "max_translation_tokens": 24}


def flat(module: nnx.Module):
    return [leaf for leaf in nnx.to_flat_state(nnx.state(module)).leaves if leaf.ndim]


def counted(embed, rows: list[int]):
    def call(self, items: Sequence, **options):
        rows.append(len(items))
        return embed(self, items, **options)

    return call


def test_a_column_stands_for_another_recogniser(root, tmp_path):
    names = ("whisper", "transcript")
    models = [f"{n}={written(root, tmp_path / n, transcripts=n)}" for n in names]
    report_compare(models, root / "set", tmp_path / "out")
    records, rows = records_of(tmp_path / "out"), lines(tmp_path / "out" / "stages.jsonl")
    rows = [row for row in rows if row["system"] == "whisper"]
    assert [row["wer"] for row in rows[:4]] == [1, 0, 0.5, 0]
    scores = np.asarray([row["ndcg@10"] for row in rows])
    rates = np.asarray([row["wer"] for row in rows])
    for bucket, chosen in zip(
        BUCKETS, (rates == 0, rates < 0, (rates > 0.25) & (rates <= 0.5), rates > 0.5), strict=True
    ):
        key = ("whisper", "ndcg@10, by wer", 32, bucket)
        assert (key in records) == bool(chosen.any())
        if chosen.any():
            assert records[key].value == pytest.approx(scores[chosen].mean())
            assert records[key].n == chosen.sum()
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| 0 % | 4 | 1.0000 | 1.0000 | +0.0000 |" in report
    assert "0 to 25 %" not in report
    assert "transcript: recognition errors are not counted, as its transcripts are the true" in (
        report
    )
    assert "transcript: what recognition costs" not in report
    assert "cascade: column whisper" in report
    # From the true words, both ways: as a system, and as what a recogniser is compared with.
    true = records["transcript", "ndcg@10", 16, None].value
    assert records["whisper", "ndcg@10 from true transcripts", 16, None].value == true
    text = mrl_jax.load_qwen3(root / "towers" / "text")
    assert records["whisper", "parameters", None, None].value == sum(x.size for x in flat(text))


def test_a_column_is_as_written_queries(root, tmp_path):
    """Embedded directly, by the model's own text path."""
    data = read_retrieval_set(root / "set")
    queries = [Query(id=q.id, text=f"{q.transcript} gu") for q in data.queries]
    write_retrieval_set(tmp_path / "set", queries, data.corpus, data.qrels)
    embedder = mrl_jax.Embedder.load(root / "model")
    direct = run_retrieval(embedder, read_retrieval_set(tmp_path / "set"), ks=(5, 10)).results
    change = lambda row: {**row, "other": f"{row['transcript']} gu"}  # noqa: E731
    copied(root / "set", tmp_path / "spoken", change)
    for place, column in ((tmp_path / "spoken", "other"), (tmp_path / "set", "text")):
        folder = written(root, tmp_path / column, transcripts=column)
        out = tmp_path / f"{column} report"
        report_compare([f"p={folder}"], place, out)
        records = records_of(out)
        for result in direct:
            for metric in ("ndcg@5", "ndcg@10"):
                assert records["p", metric, result.dim, None].value == result.means[metric]
    assert "some queries have no transcript" in (out / "report.md").read_text()
    # A prompt before the queries is read: must differ.
    prompted = written(root, tmp_path / "prompted", transcripts="text", prompts={"": "di fo"})
    cascades = [Cascade(f, read_cascade(f)) for f in (folder, prompted)]
    vectors = [
        p.embed(["ba"], prompts=[p.prompt_of(Query(id="q"))], progress="queries") for p in cascades
    ]
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    np.testing.assert_allclose(vectors[0], embedder.embed_text(["ba"]), atol=1e-6)
    np.testing.assert_allclose(vectors[1], embedder.embed_text(["di fo\nQuery:ba"]), atol=1e-6)


def test_a_translator_stands_between(root, nllb, tmp_path):
    folder = shutil.copytree(nllb[2], tmp_path / "ct2")
    fields = translating(folder)
    names = {"french": fields, "english": {**fields, "target_language": "eng_Latn"}, "none": {}}
    models = [f"{n}={written(root, tmp_path / n, **f)}" for n, f in names.items()]
    report_compare(models, root / "set", tmp_path / "out")
    records, rows = records_of(tmp_path / "out"), lines(tmp_path / "out" / "stages.jsonl")
    by_name = {n: [row for row in rows if row["system"] == n] for n in names}
    transcripts = [row["recognised"] for row in by_name["none"]]
    assert [row["translation"] for row in by_name["none"]] == transcripts
    info = read_cascade(tmp_path / "french")
    translator = Translator(translator_config(info.config, tmp_path / "french"))
    assert [row["recognised"] for row in by_name["french"]] == transcripts
    assert [row["translation"] for row in by_name["french"]] == translator.translate(transcripts)
    references = [row["reference"] for row in by_name["french"]]
    true = [row["reference_translation"] for row in by_name["french"]]
    assert true == translator.translate(references)
    assert [row["translation"] for row in by_name["english"]] != true
    parameters = {n: records[n, "parameters", None, None].value for n in names}
    assert np.isnan(parameters["french"])  # CTranslate2 does not count them.
    assert parameters["none"] > 0
    assert np.isnan(records["french", "flops a query", None, None].value)
    assert records["none", "flops a query", None, None].value > 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert "cascade: recogniser, translator wol_Latn to fra_Latn" in report
    assert "| unknown |" in report
    # Another translator than the one it was written with.
    with (tmp_path / "ct2" / "tokenizer.json").open("a") as file:
        file.write("\n")
    with pytest.raises(MrlError, match="is not the translator that the cascade was written"):
        read_cascade(tmp_path / "french")


def test_transcripts_may_be_empty(root, nllb, tmp_path):
    make_recogniser(root / "towers" / "speech", tmp_path / "silent", silent=True)
    fields = {**translating(nllb[2]), "recogniser": str(tmp_path / "silent")}
    folder = written(root, tmp_path / "p", **fields)
    report_compare([f"p={folder}"], root / "set", tmp_path / "out")
    rows = lines(tmp_path / "out" / "stages.jsonl")
    assert all(row["recognised"] == row["translation"] == "" for row in rows)
    assert all((row["wer"], row["deletions"]) == (1, 2) for row in rows)
    assert len({row["found"] for row in rows}) == 1  # Empty texts are all the same.
    report = (tmp_path / "out" / "report.md").read_text()
    assert f"p: the transcript of {QUERIES} queries is empty" in report
    cascade = Cascade(folder, read_cascade(folder))
    vector = cascade.alone(np.zeros(4000, np.float32))()
    embedder = mrl_jax.Embedder.load(root / "model")
    np.testing.assert_allclose(vector, embedder.embed_text([""]), atol=1e-6)


def test_what_a_cascade_does_not_go_with_is_refused(root, tmp_path, capsys, monkeypatch):
    good = written(root, tmp_path / "good")
    narrow = written(root, tmp_path / "narrow", dims=(32, 8))
    column = written(root, tmp_path / "column", transcripts="whisper")
    absent = written(root, tmp_path / "absent", transcripts="wisper")
    tasks = written(root, tmp_path / "tasks", prompts={"find": "ba ce"})
    tiny_run.make_towers(tmp_path / "towers", seed=5)
    foreign = written(root, tmp_path / "foreign", text_tower=str(tmp_path / "towers" / "text"))
    stale = shutil.copytree(good, tmp_path / "stale")
    raw = json.loads((good / "cascade.json").read_text())
    digests = {**raw["digests"], "recogniser": "0" * 64}
    (stale / "cascade.json").write_text(unsealed(good / "cascade.json", digests=digests))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "cascade.json").write_text(unsealed(good / "cascade.json", config={"beams": 2}))
    data = root / "set"
    change = lambda row: {**row, "whisper": "" if row["_id"] > "q4" else "x"}  # noqa: E731
    empty = copied(data, tmp_path / "copy", change)
    with_tasks, text = tmp_path / "with_tasks", tmp_path / "written"
    copied(data, with_tasks, lambda row: {**row, "task": "seek"})
    queries = [Query(id=f"q{i}", text="ba") for i in range(QUERIES)]
    loaded = read_retrieval_set(data)
    write_retrieval_set(text, queries, loaded.corpus, loaded.qrels)

    def never(self, *items, **options):
        raise AssertionError("loaded in vain")

    monkeypatch.setattr(Cascade, "__init__", never)
    monkeypatch.setattr(Encoder, "text", never)
    model = root / "model"
    for models, place, message in (
        ([model, narrow], data, "model has the dimensions 32,16,8 and narrow has 32,8"),
        ([narrow, good], data, "narrow has the dimensions 32,8 and good has 32,16,8"),
        ([good, foreign], data, "good and foreign have different text towers"),
        ([stale], data, "is not the recogniser that the cascade was written with"),
        ([damaged], data, "cascade.json: cannot be read as a cascade"),
        ([tmp_path], data, "model.json: no such file"),
        ([absent], data, "did you mean whisper"),
        ([column], empty, "the 'whisper' of query 'q5' is empty"),
        ([column], text, "query 'q0' has no 'whisper'"),
        ([good], text, "8 of 8 queries have no recording, the first is 'q0'"),
        ([tasks], with_tasks, "query 'q0': the task 'seek' has no prompt, expected one of"),
    ):
        words = ("compare", "--models", *models, "--data", place, "--out", tmp_path / "out")
        assert message.lower() in refused(capsys, "eval", *words).lower()
    words = ("--models", narrow, "--data", data, "--out", tmp_path / "out", "--dims", "16")
    message = refused(capsys, "eval", "compare", *words)
    assert "narrow has the dimensions 32, 8, not 16" in message
    monkeypatch.setitem(sys.modules, "jiwer", None)
    words = ("compare", "--models", good, "--data", data, "--out", tmp_path / "out")
    assert "jiwer, which is not installed" in refused(capsys, "eval", *words)
    assert not (tmp_path / "out").exists()


def test_plain_errors_leave_out_case_and_punctuation(root, tmp_path):
    data = copied(
        root / "set",
        tmp_path / "copy",
        lambda row: {**row, "whisper": row["transcript"].upper() + "!"},
    )
    for plain, expected in ((False, 1), (True, 0)):
        folder = written(root, tmp_path / str(plain), transcripts="whisper", plain_errors=plain)
        report_compare([f"p={folder}"], data, tmp_path / f"{plain} out")
        assert records_of(tmp_path / f"{plain} out")["p", "wer", None, None].value == expected
    rewrite(data / "queries.jsonl", lambda row: {**row, "transcript": "?!"})
    with pytest.raises(MrlError, match="empty plain transcript, the first is 'q0'"):
        report_compare([f"p={folder}"], data, tmp_path / "out")


def test_other_reports_are_of_models(root, tmp_path, capsys):
    words = (
        "retrieval",
        "--model",
        written(root, tmp_path / "p"),
        "--data",
        root / "set",
    )
    assert "p: is a cascade, expected a trained model" in refused(capsys, "eval", *words)


def test_the_first_relevant_document_counts():
    assert answer_rank([4, 2, 7], [7, 2]) == 2
    assert answer_rank([4, 2, 7], [9]) is None
