"""A tiny model, a recogniser of its tower, a spoken set with transcripts, and cascades of them."""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from flax import nnx

from mrl_jax.checkpoints.new_towers import save_speech_tower
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.cli import run_command
from mrl_jax.data.sets.retrieval_set import read_retrieval_set
from mrl_jax.evaluation.report.records import Record, read_records
from mrl_jax.inference.cascade_config import CascadeConfig, write_cascade
from mrl_jax.models.ctc import CtcVocabulary, HubertCtc
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.init import initial_recogniser

QUERIES = 8
DIMS = (32, 16, 8)
Row = dict[str, Any]


def rewrite(path: Path, change: Callable[[Row], Row]) -> None:
    """Change every row of a JSON Lines file."""
    path.write_text("".join(json.dumps(change(row)) + "\n" for row in lines(path)))


def lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def make_recogniser(speech: Path, folder: Path, *, silent: bool = False) -> HubertCtc:
    """A random one that writes the tones' letters; a silent one writes nothing."""
    vocabulary = CtcVocabulary(("<pad>", "|", *sorted(set("badiceofgu"))))
    config = read_info(speech).config
    assert isinstance(config, HubertConfig)
    recogniser = initial_recogniser(config, vocabulary, 1)
    if silent:
        bias = np.zeros(len(vocabulary.tokens), np.float32)
        bias[vocabulary.blank] = 1e6
        recogniser.lm_head.bias = nnx.Param(jnp.asarray(bias))
    save_speech_tower(folder, recogniser)
    return recogniser


def make_set(folder: Path) -> Path:
    """Spoken queries with transcripts, speakers, and a column of another recogniser."""
    data = tiny_run.make_retrieval_set(folder, queries=QUERIES)
    judged = {q: next(iter(d)) for q, d in read_retrieval_set(data).qrels.items()}
    texts = {d.id: d.text for d in read_retrieval_set(data).corpus}

    def spoken(row: Row) -> Row:
        true, number = texts[judged[row["_id"]]], int(row["_id"][1:])
        # Right in every second query, else half or all of it wrong.
        half = f"{true[:2]} {'ba' if true[3:] == 'ce' else 'ce'}"
        other = true if number % 2 else half if number % 4 else "xx xx"
        return {**row, "transcript": true, "speaker": f"s{number % 3}", "whisper": other}

    rewrite(data / "queries.jsonl", spoken)
    return data


def make_parts(root: Path) -> Path:
    """root/model and root/towers, root/recogniser, root/set; gives `root`."""
    tiny_run.make_model(root)
    make_recogniser(root / "towers" / "speech", root / "recogniser")
    make_set(root / "set")
    return root


def fields_of(root: Path, **changes: Any) -> dict[str, Any]:
    """Of the config of a cascade of `make_parts`."""
    fields = {
        "text_tower": str(root / "towers" / "text"),
        "recogniser": str(root / "recogniser"),
        "dims": DIMS,
        "max_text_tokens": 64,
    }
    return {**fields, **changes}


def write_config(path: Path, root: Path) -> Path:
    """A config file for `mrl-jax cascade`."""
    path.write_text(
        "from mrl_jax.inference.cascade_config import CascadeConfig\n"
        f"def get_config():\n    return CascadeConfig(**{fields_of(root)!r})\n"
    )
    return path


def written(root: Path, folder: Path, **changes: Any) -> Path:
    """The folder of a cascade of `make_parts`."""
    write_cascade(CascadeConfig(**fields_of(root, **changes)), folder, log=lambda _: None)
    return folder


def copied(data: Path, folder: Path, change: Callable[[Row], Row]) -> Path:
    """A copy of a retrieval set with other queries."""
    shutil.copytree(data, folder)
    rewrite(folder / "queries.jsonl", change)
    return folder


def records_of(out: Path) -> dict[tuple, Record]:
    """Of a report of `compare`, by system, metric, dim and bucket of error rates."""
    rows = read_records(out / "results.jsonl")
    return {(r.setting.get("system"), r.metric, r.dim, r.setting.get("wer")): r for r in rows}


def run(module: str, *words: object) -> int:
    """The exit status of a command."""
    return run_command(importlib.import_module(module).main, [str(word) for word in words])


def refused(capsys: pytest.CaptureFixture[str], module: str, *words: object) -> str:
    """The one line of a command that ends with status 2."""
    assert run(module, *words) == 2
    message = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert len(message) == 1
    return message[0]
