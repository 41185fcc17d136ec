"""What would be uploaded: files, left-out files, and a card made from the records."""

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from damage import damaged
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from tiny_run import make_model

from converters.__main__ import build_parser
from mrl_jax.checkpoints.checksum_command import main as checksum
from mrl_jax.checkpoints.head_file import HEAD_FILE
from mrl_jax.checkpoints.models import read_model_info
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.errors import MrlError
from mrl_jax.evaluation.report.records import Record, Source, write_records
from mrl_jax.inference.embedder import Embedder
from mrl_jax.publishing.command import main
from mrl_jax.publishing.metadata import card_data
from mrl_jax.publishing.provenance import Evaluation, Provenance, TowerSource, public_name

TONE = (np.sin(np.arange(8000, dtype=np.float32) / 9), 16000)
RUN = {"name": "late_fusion", "data": {"train": "/home/me/mine.jsonl"}, "data_digest": "ab" * 32}


def write_report(folder: Path, digest: str, *records: Record, data: str = "fleurs:wo-fr") -> None:
    folder.mkdir()
    source = Source(
        data=data, data_digest="cd" * 32, model="runs/mine", model_digest=digest, commit="ef" * 20
    )
    write_records(folder / "results.jsonl", records, source)


def score(metric: str, dim: int, value: float, **fields: float | None) -> Record:
    setting = {"ties": "trec", "relevance": "graded", "queries": 50, "documents": 40}
    setting |= {"prompt": "ask: "}
    return Record(metric=metric, value=value, dim=dim, n=50, setting=setting, **fields)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("model"))
    digest = read_model_info(folder).digest
    shots = {"shots": 5, "method": "centroid", "features": "pooled"}
    write_report(
        folder / "eval-fleurs-wo-fr",
        digest,
        score("ndcg@10", 32, 0.5, low=0.4, high=0.625),
        score("ndcg@10", 8, 0.25),
        score("accuracy@1", 32, 0.375, low=0.25, high=0.5),
        score("ndcg@10 over ties, worst", 32, 0.1),
    )
    intent = Record(metric="accuracy", value=0.75, dim=32, n=20, low=0.5, high=0.9, setting=shots)
    write_report(folder / "intent-local", digest, intent, data="/home/me/banking")
    write_report(folder / "eval-older", "00" * 32, score("ndcg@10", 32, 0.99), data="older")
    (folder / "experiment.json").write_text(json.dumps(RUN))
    (folder / "notes.py").write_text("raise SystemExit(99)")
    return folder


@pytest.fixture(scope="module")
def written(model, tmp_path_factory) -> Path:
    """What `--dry-run` wrote, in a folder that is named as the model will be."""
    root = tmp_path_factory.mktemp("written")
    command = ["push", str(model), "me/tiny", "--language", "sw", "--license", "cc-by-4.0"]
    assert main([*command[1:], "--dry-run", str(root / "me" / "tiny")]) == 0
    return root / "me" / "tiny"


def test_the_folder_holds_the_model_and_nothing_else(model, written, capsys):
    main([str(model), "me/tiny", "--dry-run", str(written.parent / "again")])
    printed = capsys.readouterr()
    names = {p.relative_to(written).as_posix() for p in written.rglob("*") if p.is_file()}
    assert names >= {"README.md", "model.json", HEAD_FILE, "speech/tower.json", "text/tower.json"}
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"README.md", "model.json", HEAD_FILE, "speech", "text"}
    for name in names - {"README.md"}:
        assert re.search(rf"^ *{(written / name).stat().st_size:,}  {name}$", printed.out, re.M)
    (left_out,) = (line for line in printed.err.splitlines() if "left out" in line)
    assert "notes.py" in left_out
    assert "experiment.json" in left_out
    assert "head-" not in left_out
    assert "about another model: eval-older" in printed.err
    assert "no licence" in printed.err


def test_it_is_loaded_alone_and_is_the_same_model(model, written):
    local, alone = Embedder.load(model), Embedder.load(written)
    assert alone.info.digest == local.info.digest
    assert alone.info.head == HEAD_FILE
    assert alone.embed_speech([TONE]).tobytes() == local.embed_speech([TONE]).tobytes()
    assert alone.embed_text(["ba"]).tobytes() == local.embed_text(["ba"]).tobytes()
    assert alone.embed_text(["ba"]).tobytes() != alone.embed_text(["di"]).tobytes()


def test_metadata_has_the_scores_with_intervals(written):
    data: Any = ModelCard.load(written / "README.md").data
    assert (data.library_name, data.license, data.pipeline_tag) == (
        "mrl_jax",
        "cc-by-4.0",
        "feature-extraction",
    )
    assert data.language == ["sw", "wo", "fr"]
    assert data.datasets == ["google/fleurs"]
    assert data.get("base_model") is None
    rows = {(r.dataset_name, r.metric_type, r.metric_args["dim"]): r for r in data.eval_results}
    assert {(key, row.metric_value) for key, row in rows.items()} == {
        (("fleurs:wo-fr", "ndcg_at_10", 32), 0.5),
        (("fleurs:wo-fr", "ndcg_at_10", 8), 0.25),
        (("fleurs:wo-fr", "accuracy_at_1", 32), 0.375),
        (("banking", "accuracy", 32), 0.75),
    }
    fleurs = rows["fleurs:wo-fr", "ndcg_at_10", 32]
    assert (fleurs.dataset_type, fleurs.dataset_config) == ("google/fleurs", "wo-fr")
    assert fleurs.metric_args == {"dim": 32, "n": 50, "confidence_interval_95": [0.4, 0.625]}
    assert rows["fleurs:wo-fr", "ndcg_at_10", 8].metric_args == {"dim": 8, "n": 50}


def test_the_page_says_what_is_on_record_and_no_place_of_this_machine(model, written):
    text = (written / "README.md").read_text()
    assert "| 32 | 0.500 (0.400 to 0.625) | 0.375 (0.250 to 0.500) |" in text
    assert "| 8 | 0.250 |  |" in text
    assert "mrl-jax train --config late_fusion" in text
    assert "mine.jsonl" in text
    assert "0.99" not in text
    assert "/home/me" not in text
    assert str(model.parent) not in text
    for heading in ("Use", "Results", "Training", "Limits", "Citation"):
        assert f"\n## {heading}\n" in text
    assert "means over 50 queries" in text
    assert '50 queries, 40 documents, graded relevance, prompt "ask: ", data digest' in text


def test_its_snippet_runs(written, tmp_path, monkeypatch):
    (snippet,) = re.findall(r"```python\n(.*?)```", (written / "README.md").read_text(), re.S)
    assert 'Embedder.load("me/tiny")' in snippet
    monkeypatch.chdir(written.parents[1])  # A folder of that name wins over the hub.
    soundfile.write("question.wav", *TONE)
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert np.shape(names["scores"]) == (1, 2)


def test_a_model_without_records_has_an_honest_card(tmp_path):
    bare = make_model(tmp_path)
    main([str(bare), "me/bare", "--dry-run", str(tmp_path / "out")])
    text = (tmp_path / "out" / "README.md").read_text()
    for words in (
        "No evaluation of this model is on record",
        "how well it works is not known",
        "What it was trained on is not on record",
    ):
        assert words in text
    assert ModelCard(text).data.get("eval_results") is None


def published(model: Path, **changes: object) -> None:
    """As if both towers had been converted from the hub."""
    for side, kind in (("speech", "hubert"), ("text", "qwen3")):
        report = {"kind": kind, "source": f"org/{side}", "revision": "ab" * 20, "dtype": "float32"}
        path = model.parent / "towers" / side / "report.json"
        path.write_text(json.dumps({**report, "parameters": 1000, **changes}))


def test_published_towers_may_be_left_out_and_are_put_back(tmp_path, capsys):
    model, out = make_model(tmp_path), tmp_path / "out"
    command = [str(model), "me/tiny", "--without-towers", "--dry-run", str(out)]
    published(model, adapter={"source": "x"})
    with pytest.raises(MrlError, match="its speech tower was not converted from a checkpoint"):
        main(command)
    assert not out.exists()
    published(model)
    main(command)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", HEAD_FILE, "model.json"]
    card = ModelCard.load(out / "README.md")
    assert card.data["base_model"] == ["org/speech", "org/text"]
    lines = [x for x in card.text.splitlines() if x.startswith(("hf download", "mrl-jax convert"))]
    assert lines[0] == "hf download me/tiny --local-dir tiny"
    for line, side in zip(lines[1:], ("speech", "text"), strict=True):
        args = build_parser("convert").parse_args(shlex.split(line)[2:])
        assert (args.source, args.revision) == (f"org/{side}", "ab" * 20)
        assert args.out == Path("tiny") / side
    with pytest.raises(MrlError, match=r"speech/tower\.json: no such file"):
        Embedder.load(out)
    for side in ("speech", "text"):
        (out / side).symlink_to(model.parent / "towers" / side)
    again = Embedder.load(out).embed_text(["ba"])
    assert again.tobytes() == Embedder.load(model).embed_text(["ba"]).tobytes()


def test_a_damaged_model_is_not_pushed(tmp_path):
    model, out = make_model(tmp_path), tmp_path / "out"
    command = [str(model), "me/tiny", "--dry-run", str(out)]
    weights = max((tmp_path / "towers/text/weights/encoder").rglob("d/*"), key=len_of)
    whole = weights.read_bytes()
    weights.write_bytes(damaged(whole))
    with pytest.raises(MrlError, match="is not the file that was written"):
        main(command)
    weights.write_bytes(whole)
    (model / "search.json").write_text("{}")
    (model / "experiment.json").write_text("[]")
    with pytest.raises(MrlError, match=r"experiment\.json: cannot be read as a record"):
        main(command)
    (model / "experiment.json").unlink()
    assert not out.exists()
    main(command)
    assert not (out / "search.json").exists()


def test_what_would_not_be_loaded_or_says_where_its_author_worked_is_not_pushed(tmp_path):
    model, out = make_model(tmp_path), tmp_path / "out"
    towers, command = tmp_path / "towers", [str(model), "me/tiny", "--dry-run", str(out)]
    notes, config = towers / "text/notes.csv", towers / "speech/config.json"
    notes.write_text("who,said")
    checksum(["--update", str(towers / "text")])
    with pytest.raises(
        MrlError, match=r"notes\.csv: is no file of a model, and would not be fetch"
    ):
        main(command)
    notes.unlink()
    checksum(["--update", str(towers / "text")])
    whole = json.loads(config.read_text())
    for place in (f"{Path.home()}/gone/checkpoint-9", str(tmp_path)):
        config.write_text(json.dumps({**whole, "inner": [{"_name_or_path": place}]}))
        checksum(["--update", str(towers / "speech")])
        with pytest.raises(MrlError, match=f"config.json: holds a path of this machine, {place}"):
            main(command)
    assert not out.exists()
    config.write_text(json.dumps({**whole, "_name_or_path": "/of/somebody/else", "kind": "/"}))
    checksum(["--update", str(towers / "speech")])
    main(command)
    assert (out / "model.json").is_file()


def test_what_is_there_already_and_empty_options_are_refused(model, written):
    with pytest.raises(MrlError, match=r"exists already\. Choose another folder, or remove"):
        main([str(model), "me/tiny", "--dry-run", str(written)])
    for option in ("--message", "--revision"):
        with pytest.raises(MrlError, match=f"{option}: is empty"):
            main([str(model), "me/tiny", option, " ", "--dry-run", str(written.parent / "new")])


def test_a_tower_that_was_changed_since_its_conversion_is_not_called_published(tmp_path):
    model, out = make_model(tmp_path), tmp_path / "out"
    command = [str(model), "me/tiny", "--without-towers", "--dry-run", str(out)]
    published(model, digest="sha256:" + "0" * 64)
    with pytest.raises(MrlError, match="its speech tower was not converted from a checkpoint"):
        main(command)
    published(model)
    for side in ("speech", "text"):
        path = tmp_path / "towers" / side
        report = json.loads((path / "report.json").read_text())
        digest = f"sha256:{read_info(path).digest}"
        (path / "report.json").write_text(json.dumps({**report, "digest": digest}))
    main(command)


def evaluation(data: str, digest: str, value: float, **setting: str) -> Evaluation:
    source = Source(data=data, data_digest=digest, model="m", model_digest="m", commit="")
    setting = {"ties": "trec", "relevance": "graded", **setting}
    record = Record(metric="ndcg@10", value=value, dim=8, n=5, setting=setting)
    return Evaluation("eval", source, (record,))


def test_sets_are_named_as_the_hub_takes_them_and_kept_apart():
    evaluations = (
        evaluation("demo/world/test", "aa" * 32, 0.1),
        evaluation("/home/me/first/test", "bb" * 32, 0.2, split="dev"),
        evaluation("/home/me/second/test", "cc" * 32, 0.3, split="dev"),
        evaluation("fleurs:wo-fr:validation", "dd" * 32, 0.4),
        evaluation("fleurs:wo-fr:text", "ee" * 32, 0.5),
        evaluation("données à moi", "ff" * 32, math.nan),
    )
    towers = {"speech": TowerSource(), "text": TowerSource()}
    known = Provenance(towers, None, None, evaluations, ())
    data = card_data("tiny", known, licence=None, languages=())
    index = yaml.safe_load(data.to_yaml())["model-index"]
    _, rows = model_index_to_eval_results(index)
    assert [(r.dataset_type, r.dataset_config, r.dataset_split, r.metric_value) for r in rows] == [
        ("demo-world-test", None, None, 0.1),
        ("test-bbbbbbbb", None, "dev", 0.2),
        ("test-cccccccc", None, "dev", 0.3),
        ("google/fleurs", "wo-fr", "validation", 0.4),
        ("google/fleurs", "wo-fr:text", "test", 0.5),
    ]
    for row, one in zip(rows, evaluations, strict=False):
        assert row.dataset_args == {"sha256": one.source.data_digest}
        # The pattern by which the hub refuses a card: huggingface.co/api/validate-yaml.
        assert re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", row.dataset_type, re.ASCII)


def len_of(path: Path) -> int:
    return path.stat().st_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/data/test", "test"),
        ("~/test/", "test"),
        ("fleurs:wo-fr", "fleurs:wo-fr"),
        ("fleurs:wo-fr@/data/fleurs", "fleurs:wo-fr"),
        ("fleurs:wo-fr@/home/me@work/fleurs", "fleurs:wo-fr"),
        ("fleurs:wo-fr@s3://private/fleurs", "fleurs:wo-fr"),
        ("s3://private-bucket/corpora/train.jsonl", "train.jsonl"),
        ("../../me/secret/train.jsonl", "train.jsonl"),
        ("demo/world/test", "demo/world/test"),
        ("owner/name@main", "owner/name@main"),
    ],
)
def test_names_of_this_machine_are_cut(text, expected):
    assert public_name(text) == expected
