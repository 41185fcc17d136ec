"""Damaged tables of every form, and command lines: each is read or refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutate import counted, json_text, mutate_bytes, mutate_json, scaled

from mrl_jax.core.cli import run_command
from mrl_jax.core.config import override, to_json
from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.digests import digest_intent_set, digest_retrieval_set
from mrl_jax.data.sets.intent_set import read_intent_labels, read_intent_set
from mrl_jax.data.sets.manifest import read_manifest
from mrl_jax.data.sets.named_sets import load_intent_set, load_retrieval_set
from mrl_jax.data.sets.retrieval_set import read_retrieval_set
from mrl_jax.data.sets.text_pairs import pairs_digest, read_pairs
from mrl_jax.evaluation.command import main as evaluate
from mrl_jax.evaluation.report.records import read_records
from mrl_jax.training.contrastive.config import ExperimentConfig
from mrl_jax.training.ctc.config import CtcExperiment
from mrl_jax.training.metrics_log import read_metrics
from mrl_jax.training.text_tower.config import TextStageExperiment

PEAK_MB = 150
SMALL = 60
"""Inputs of a reader in `make test`."""
PAIRS = [
    {"query": "ñaata la", "document": "Combien ?", "task_type": "x", "query_id": "1"},
    {"query": "lii lan la", "document": "Qu'est-ce ?", "task_type": "y", "query_id": 2},
]
MANIFEST = [
    {"id": f"e{n}", "audio": f"{n}.wav", "text": "bu yàgg", "speaker": n, "split": "train"}
    for n in range(3)
]
INTENTS = [
    {"split": "test", "text": "naka la", "label": "a", "id": "1", "label_text": "one"},
    {"split": "train", "text": "fan la", "label": 3, "speaker": "s"},
]
LABELS = [{"label": "a", "label_text": ["one", "first"], "unseen": True}, {"label": 3}]
QUERIES = [{"_id": f"q{n}", "text": "fan la", "task": "find", "speaker": "s"} for n in range(3)]
CORPUS = [{"_id": f"d{n}", "title": "T", "text": "où est-ce"} for n in range(3)]
QRELS = [{"query-id": f"q{n}", "corpus-id": f"d{n}", "score": 1} for n in range(3)]
RECORDS = [
    {
        **{"metric": "ndcg@10", "dim": 8, "value": 0.5, "n": 3, "low": None, "high": 1.0},
        **{"data": "a", "data_digest": "b", "model": "c", "model_digest": "d", "commit": ""},
    }
]
METRICS = [{"kind": "train", "step": n, "loss": 0.5, "loss_per_dim": [1.0, 2.0]} for n in (1, 2)]
Rows = list[dict[str, Any]]


def jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def delimited(rows: Rows, mark: str) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([str(row.get(name, "")) for name in names] for row in rows)]
    return "".join(mark.join(line) + "\n" for line in lines).encode()


def write_set(folder: Path, **tables: bytes) -> None:
    whole = {"queries.jsonl": jsonl(QUERIES), "corpus.jsonl": jsonl(CORPUS)}
    whole |= {"qrels.jsonl": jsonl(QRELS)} if "qrels.tsv" not in tables else {}
    for name, data in (whole | tables).items():
        (folder / name).write_bytes(data)


def read_set(file: Path) -> Any:
    others = {} if file.suffix == ".jsonl" else {"qrels.tsv": b""}
    damaged = file.read_bytes()
    write_set(file.parent, **{**others, file.name: damaged})
    return digest_retrieval_set(read_retrieval_set(file.parent))


def read_labels(file: Path) -> Any:
    return read_intent_labels(file.parent)


READERS: dict[str, tuple[str, bytes, Rows | None, Callable[[Path], Any]]] = {
    "manifest": ("m.jsonl", jsonl(MANIFEST), MANIFEST, read_manifest),
    "text pairs jsonl": (
        "pairs.jsonl",
        jsonl(PAIRS),
        PAIRS,
        lambda file: pairs_digest(read_pairs(file)),
    ),
    "text pairs csv": ("pairs.csv", delimited(PAIRS, ","), None, read_pairs),
    "text pairs tsv": ("pairs.tsv", delimited(PAIRS, "\t"), None, read_pairs),
    "intent set jsonl": (
        "i.jsonl",
        jsonl(INTENTS),
        INTENTS,
        lambda file: digest_intent_set(read_intent_set(file)),
    ),
    "intent set csv": ("i.csv", delimited(INTENTS, ","), None, read_intent_set),
    "intent set tsv": ("i.tsv", delimited(INTENTS, "\t"), None, read_intent_set),
    "intent labels": ("labels.jsonl", jsonl(LABELS), LABELS, read_labels),
    "queries": ("queries.jsonl", jsonl(QUERIES), QUERIES, read_set),
    "corpus": ("corpus.jsonl", jsonl(CORPUS), CORPUS, read_set),
    "qrels jsonl": ("qrels.jsonl", jsonl(QRELS), QRELS, read_set),
    "qrels tsv": ("qrels.tsv", delimited(QRELS, "\t"), None, read_set),
    "report records": ("results.jsonl", jsonl(RECORDS), RECORDS, read_records),
    "metrics": ("metrics.jsonl", jsonl(METRICS), METRICS, read_metrics),
}


@pytest.mark.parametrize("name", READERS)
def test_sound_tables_are_read(name, tmp_path):
    """Each test below damages these."""
    file, data, _, read = READERS[name]
    (tmp_path / file).write_bytes(data)
    assert read(tmp_path / file)


@pytest.mark.parametrize("name", READERS)
def test_damaged_tables(name, tmp_path):
    file, data, rows, read = READERS[name]
    with counted(name, peak_mb=PEAK_MB) as ask:
        for seed in range(scaled(SMALL)):
            rng = np.random.default_rng((18, seed))
            damaged = mutate_bytes(data, rng)
            if rows is not None and seed % 2:
                changed = mutate_json(rows, rng)
                changed = changed if isinstance(changed, list) else [changed]
                damaged = "".join(json_text(row) + "\n" for row in changed).encode()
            folder = tmp_path / "set"
            folder.mkdir()
            (folder / file).write_bytes(damaged)
            ask(seed, lambda folder=folder: read(folder / file))
            shutil.rmtree(folder)


def fields_of(config: Any, prefix: str = "") -> list[str]:
    """Dotted names of all fields of a config, as JSON has them."""
    names = []
    for name, value in to_json(config).items():
        names.append(f"{prefix}{name}")
        if isinstance(value, dict):
            names += [f"{prefix}{name}.{inner}" for inner in value]
    return names


VALUES = ("", "none", "true", "-1", "0", "1", "1e999", "nan", "-inf", "0.5", "9" * 400)
VALUES += ("[]", "[1,2]", "(1,", "{}", "[" * 300, "x", "\udcff", "a\0b", "é" * 50, "[None]", "'")
VALUES += ("[1e400]", "lambda: 0", "__import__('os')", "1_000", "0x10", "256,128", "[[1]]", "b'a'")
CONFIGS = (ExperimentConfig, TextStageExperiment, CtcExperiment)


@pytest.mark.parametrize("kind", CONFIGS)
def test_overrides(kind):
    config = kind(name="x")
    names = [*fields_of(config), "", ".", "nope", "model.", "data.batch.prompts.x", "optim.rates.x"]
    with counted(f"overrides of {kind.__name__}", peak_mb=PEAK_MB) as ask:
        for seed in range(scaled(2 * SMALL)):
            rng = np.random.default_rng((19, seed))
            words = [
                f"{names[rng.integers(len(names))]}{'=' if rng.integers(20) else ''}"
                f"{VALUES[rng.integers(len(VALUES))]}"
                for _ in range(rng.integers(1, 4))
            ]
            ask(words, lambda words=words: override(config, words))


REPORTS = ("retrieval", "intent", "spectrum", "tradeoff", "robustness", "compare", "transcribe")
OPTIONS = ("--model", "--models", "--data", "--out", "--dims", "--task", "--prompt", "--shots")
OPTIONS += ("--overwrite", "--nope", "--", "-x", "--budget", "--snr", "--columns", "--help-me")


def test_command_lines(tmp_path, capsys, monkeypatch):
    """Of `mrl-jax eval`; nothing is there, so every line is refused."""
    monkeypatch.chdir(tmp_path)
    with counted("command lines", peak_mb=PEAK_MB) as ask:
        for seed in range(scaled(SMALL)):
            rng = np.random.default_rng((20, seed))
            words = [REPORTS[rng.integers(len(REPORTS))]] if rng.integers(10) else []
            for _ in range(rng.integers(0, 6)):
                words.append(OPTIONS[rng.integers(len(OPTIONS))])
                if rng.integers(4):
                    words.append(VALUES[rng.integers(len(VALUES))])
            assert ask(words, lambda words=words: run_command(evaluate, words)) == 2, words
            lines = capsys.readouterr().err.splitlines()
            assert len([line for line in lines if line.startswith("error: ")]) == 1, (words, lines)
            lines[-1].encode()


@pytest.mark.parametrize("load", [load_retrieval_set, load_intent_set])
def test_names_of_sets(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    @settings(max_examples=scaled(SMALL), deadline=None, database=None, derandomize=True)
    @given(st.one_of(st.text(max_size=40), st.text("fleurswokamb:-@./~\0\ud800", max_size=20)))
    def ask_name(name):
        if name.split(":")[0] not in ("kallaama", "fleurs", "wolbanking77"):  # May want the net.
            ask(name, lambda: load(name))

    with counted(f"{load.__name__} by name", peak_mb=400) as ask:
        ask_name()


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader[2]])
def test_any_value_in_any_field(name, tmp_path):
    """Hypothesis' values in the fields of a table's first row."""
    file, _, rows, read = READERS[name]
    assert rows is not None
    scalars = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters(exclude_categories=()), max_size=8),
    )
    values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=4)

    @settings(max_examples=scaled(SMALL // 5), deadline=None, database=None, derandomize=True)
    @given(st.dictionaries(st.sampled_from(sorted(rows[0])), values, min_size=1, max_size=3))
    def ask_row(changes):
        (tmp_path / file).write_text("".join(map(line_of, [rows[0] | changes, *rows[1:]])))
        ask(changes, lambda: read(tmp_path / file))

    with counted(f"{name}, any values", peak_mb=PEAK_MB) as ask:
        ask_row()


def line_of(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def test_a_reader_that_fails_is_found():
    """The harness itself: other exceptions, long lines and two lines fail."""
    with counted("x") as ask:
        with pytest.raises(KeyError, match="y"):
            ask(1, lambda: {}["y"])

        def two_lines():
            error = MrlError("a")
            error.args = ("a\nb",)
            raise error

        with pytest.raises(AssertionError, match="more than a line"):
            ask(2, two_lines)
        assert ask(3, lambda: 5) == 5
