"""The spectrum report and the rotation from end to end, on a random head."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from eval_reports import json_lines, names_in, report_spectrum

import mrl_jax
from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.data.build.builder import BuildOptions, build_dataset
from mrl_jax.data.sets.digests import digest_retrieval_set
from mrl_jax.data.sets.retrieval_set import read_retrieval_set
from mrl_jax.evaluation.report.records import read_records
from mrl_jax.evaluation.scoring import Judgements, evaluate_retrieval
from mrl_jax.evaluation.spectrum import fit_rotation as rotate
from mrl_jax.inference.search.rotation import (
    ROTATION_FILE,
    apply_rotation,
    fit_rotation,
    read_rotation,
)

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture
def model(two_dims, tmp_path) -> Path:
    """A copy, which may be given a rotation."""
    shutil.copytree(two_dims.parent, tmp_path / "models")
    return tmp_path / "models" / two_dims.name


@pytest.fixture
def embedder(two_dims, compiled):
    return mrl_jax.Embedder.load(two_dims)


def counts(encoded: dict[str, list]) -> dict[str, int]:
    """How often the encoder was called."""
    return {kind: len(calls) for kind, calls in encoded.items()}


def test_a_report_with_and_without_a_rotation(model, embedder, six_queries, tmp_path, encoded):
    plain = tmp_path / "plain"
    table = report_spectrum(model, six_queries, plain, seeds=2)
    assert counts(encoded) == {"speech": 1, "text": 1}
    assert names_in(plain) == {
        "blocks.png",
        "report.html",
        "report.md",
        "results.jsonl",
        "sizes.png",
        "spectra.jsonl",
        "spectra.png",
    }
    assert "rotated prefix" not in table
    assert table.splitlines()[0].startswith("| size | prefix | directions of documents |")
    assert [row.split()[1] for row in table.splitlines()[2:]] == ["1", "2", "4", "8", "16", "32"]
    report = (plain / "report.md").read_text("utf-8")
    assert table in report
    assert "6 spoken queries and 25 documents, model of step 7" in report
    for name in ("sizes.png", "spectra.png", "blocks.png"):
        assert (plain / name).read_bytes().startswith(b"\x89PNG")
        assert f"({name})" in report
    records = read_records(plain / "results.jsonl")
    data = read_retrieval_set(six_queries)
    documents = embedder.embed_text([d.text for d in data.corpus])
    singular = np.linalg.svd(documents - documents.mean(axis=0), compute_uv=False)
    (stable,) = (
        r.value
        for r in records
        if r.metric == "stable rank" and r.setting == {"vectors": "text", "centred": "true"}
    )
    assert stable == pytest.approx((singular**2).sum() / singular[0] ** 2, rel=1e-3)
    assert {r.dim for r in records if r.metric == "cosine of means"} == {8, 32}
    assert sum(r.metric == "ndcg@10 of a block alone" for r in records) == 8
    prefixes = {r.dim: r.value for r in records if r.setting.get("kept") == "prefix"}

    message = rotate.fit_model_rotation(model, six_queries, fit="joint")
    assert "the first 32 coordinates keep 100.0% of the energy as they are" in message
    rotation = read_rotation(model, head_digest=embedder.info.head_digest)
    assert rotation is not None
    assert rotation.data_digest == digest_retrieval_set(data)
    assert (rotation.rows, rotation.fitted_on) == (31, "joint")
    both = tmp_path / "both"
    table = report_spectrum(model, six_queries, both, seeds=2)
    assert "| prefix | rotated prefix |" in table
    message = (both / "report.md").read_text("utf-8")
    assert "25 of this set's 25 documents were among what it was fitted on" in message
    rows = json_lines(both / "spectra.jsonl")
    assert len(rows) == 2 * (6 + 25 + 31)
    kept = [row for row in rows if row["vectors"] == "text" and row["centred"]]
    np.testing.assert_allclose([row["singular_value"] for row in kept], singular, atol=1e-4)
    energy = np.cumsum(singular**2) / (singular**2).sum()
    np.testing.assert_allclose([row["cumulative_energy"] for row in kept], energy, atol=1e-5)
    records = read_records(both / "results.jsonl")
    clips = [query.audio for query in data.queries]
    rotated_queries = apply_rotation(embedder.embed_speech(clips), rotation)
    judgements = Judgements([q.id for q in data.queries], [d.id for d in data.corpus], data.qrels)
    rotated = {r.dim: r.value for r in records if r.setting.get("kept") == "rotated prefix"}
    for result in evaluate_retrieval(
        rotated_queries, apply_rotation(documents, rotation), judgements, dims=[4, 32]
    ):
        assert rotated[result.dim] == pytest.approx(result.means["ndcg@10"])
    assert rotated[32] == pytest.approx(prefixes[32])
    assert rotated != prefixes
    gains = {r.dim: r.value for r in records if r.metric == "ndcg@10 that the rotation adds"}
    assert gains == pytest.approx({dim: rotated[dim] - prefixes[dim] for dim in (8, 32)})
    assert "## The rotation (nDCG@10)" in (both / "report.md").read_text("utf-8")
    with pytest.raises(MrlError, match="exists already"):
        report_spectrum(model, six_queries, both)
    # A model that was trained on has another head.
    path = model / ROTATION_FILE
    path.write_bytes(path.read_bytes().replace(rotation.head_digest.encode(), b"c" * 64))
    with pytest.raises(MrlError, match=r"the rotation of another model.*mrl-jax rotate"):
        report_spectrum(model, six_queries, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_written_queries(model, tmp_path, encoded):
    folder = tiny_run.make_retrieval_set(tmp_path / "set", queries=4)
    rows = json_lines(folder / "queries.jsonl")
    written = [{"_id": row["_id"], "text": f"ba {tiny_run.WORDS[i]}"} for i, row in enumerate(rows)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    report_spectrum(model, folder, tmp_path / "out", dims=[8], seeds=1)
    assert counts(encoded) == {"speech": 0, "text": 2}
    assert "written queries, centred" in (tmp_path / "out" / "report.md").read_text("utf-8")


def test_a_rotation_is_fitted_on_a_manifest(model, embedder, tmp_path, encoded, capsys):
    manifest = tiny_run.make_manifest(tmp_path / "train", examples=12)
    words = ["--model", str(model), "--data", str(manifest)]
    assert run_command(rotate.main, [*words, "--examples", "9"]) == 0
    assert counts(encoded) == {"speech": 0, "text": 1}
    assert "fitted on 9 vectors (documents)" in capsys.readouterr().out
    rotation = read_rotation(model, head_digest=embedder.info.head_digest)
    assert rotation is not None
    rows = [row["text"] for row in json_lines(manifest)]
    chosen = [rows[place * 12 // 9] for place in range(9)]
    expected = fit_rotation(embedder.embed_text(chosen))
    # What they span is theirs; the directions that complete it are any.
    np.testing.assert_allclose(np.abs(rotation.matrix[:, :6]), np.abs(expected[:, :6]), atol=1e-3)
    assert run_command(rotate.main, words) == 2
    assert "exists already. Pass --overwrite" in capsys.readouterr().err
    assert run_command(rotate.main, [*words, "--fit", "speech", "--uncentred", "--overwrite"]) == 0
    assert counts(encoded) == {"speech": 1, "text": 2}  # One text call was this test's own.
    again = read_rotation(model, head_digest=embedder.info.head_digest)
    assert again is not None
    assert (again.fitted_on, again.centred, again.rows) == ("speech", False, 12)
    for wrong, message in (
        (["--split", "validation"], "has no example of the split 'validation'"),
        (["--examples", "1"], "--examples: 1, expected 2 or more"),
        (["--data", str(tmp_path / "none")], "no such folder"),
    ):
        assert run_command(rotate.main, [*words, "--overwrite", *wrong]) == 2
        assert message in capsys.readouterr().err


def test_a_rotation_is_fitted_on_a_built_data_set(model, embedder, tmp_path):
    manifest = tiny_run.make_manifest(tmp_path / "train", examples=7)
    build_dataset(manifest, tmp_path / "built", workers=1)
    rotate.fit_model_rotation(model, tmp_path / "built", fit="joint")
    built = read_rotation(model, head_digest=embedder.info.head_digest)
    rotate.fit_model_rotation(model, manifest, fit="joint", overwrite=True)
    plain = read_rotation(model, head_digest=embedder.info.head_digest)
    assert built is not None
    assert plain is not None
    assert (built.rows, built.fitted_on) == (plain.rows, plain.fitted_on) == (7 + 7, "joint")
    # Records hold samples of 16 bits, as the recordings do.
    np.testing.assert_allclose(built.matrix[:, :3], plain.matrix[:, :3], atol=1e-3)
    with pytest.raises(MrlError, match="no split 'test'; there are: train"):
        rotate.fit_model_rotation(model, tmp_path / "built", split="test", overwrite=True)
    build_dataset(manifest, tmp_path / "slow", options=BuildOptions(sample_rate=8000), workers=1)
    with pytest.raises(MrlError, match="has 8000 samples a second, and the model takes 16000"):
        rotate.fit_model_rotation(model, tmp_path / "slow", fit="speech", overwrite=True)
    # Recordings do not count where only documents do.
    rotate.fit_model_rotation(model, tmp_path / "slow", overwrite=True)


def test_bad_dims_and_sets(model, six_queries, tmp_path):
    with pytest.raises(MrlError, match="the dimension 64 is not of this model, expected 1 to 32"):
        report_spectrum(model, six_queries, tmp_path / "out", dims=[64])
    with pytest.raises(MrlError, match="would replace its own source"):
        report_spectrum(model, six_queries, model)
    empty = tiny_run.make_retrieval_set(tmp_path / "empty", queries=2)
    (empty / "corpus.jsonl").write_text("")
    with pytest.raises(MrlError, match="table `corpus` is empty"):
        report_spectrum(model, empty, tmp_path / "out")
    with pytest.raises(MrlError, match="expected one of documents, speech, joint"):
        rotate.fit_model_rotation(model, six_queries, fit="words")
    assert not (tmp_path / "out").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="dim 4 is not among those trained: 32, 8"):
            report_spectrum(model, six_queries, tmp_path / "out", dims=[4])
