"""`mrl-jax eval transcribe` on a tiny recogniser."""

import json
from pathlib import Path

import jiwer
import pytest
from eval_reports import evaluate, json_lines, names_in, refused, report_transcribe
from tiny_cascade import QUERIES, copied, make_parts

import mrl_jax
from mrl_jax.checkpoints.towers import load_hubert_ctc
from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.decode import load_clip
from mrl_jax.evaluation.report.records import read_records


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_parts(tmp_path_factory.mktemp("cascade"))


def test_transcribe_writes_a_report(root, tmp_path, capsys):
    recogniser, data = root / "recogniser", root / "set"
    out = tmp_path / "out"
    assert evaluate("transcribe", "--model", recogniser, "--data", data, "--out", out) == 0
    assert "WER" in capsys.readouterr().out
    rows = json_lines(out / "transcripts.jsonl")
    references, hypotheses = ([row[key] for row in rows] for key in ("reference", "hypothesis"))
    records = {r.metric: r for r in read_records(out / "results.jsonl")}
    assert records["wer"].value == pytest.approx(jiwer.wer(references, hypotheses))
    assert records["cer"].value == pytest.approx(jiwer.cer(references, hypotheses))
    assert records["wer"].n == QUERIES
    assert {"report.md", "report.html", "errors.png"} <= names_in(out)
    # What one clip alone is decoded to.
    model = load_hubert_ctc(recogniser)
    clip = load_clip(data / "q0.wav", 16_000)
    alone = model.decode(model(*mrl_jax.pad_clips([clip], model.encoder.config)))
    assert hypotheses[0] == alone[0]
    assert len(set(hypotheses)) > 1


def test_transcribe_reads_a_manifest(root, tmp_path):
    recogniser, data = root / "recogniser", root / "set"
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


def test_transcribe_refuses(root, tmp_path, capsys):
    recogniser, text, data = (root / name for name in ("recogniser", "towers/text", "set"))
    nothing = copied(data, tmp_path / "copy", lambda row: {**row, "transcript": None})
    empty = tmp_path / "empty.jsonl"
    row = {"id": "e", "audio": str(data / "q0.wav"), "text": "x", "transcript": " "}
    empty.write_text(json.dumps(row) + "\n")
    for model, where, message in (
        (text, data, "is a qwen3 tower, expected a recogniser"),
        (
            recogniser,
            nothing,
            f"{QUERIES} of {QUERIES} recordings have no transcript",
        ),
        (recogniser, empty, "have an empty transcript, the first is 'e'"),
        (recogniser, tmp_path / "nowhere", "nowhere"),
    ):
        words = ("transcribe", "--model", model, "--data", where, "--out", tmp_path / "out")
        assert message in refused(capsys, *words)
    assert not (tmp_path / "out").exists()
