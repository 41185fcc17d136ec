"""JSON descriptions of a wrong type, depth or size: read, or refused in one line."""

import dataclasses
import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import Outcomes, outcome
from mutate import mutate_json, scaled
from published import HUBERT, QWEN3
from tiny_run import make_model, make_towers

from converters.families import encoder_leaves, family
from mrl_jax.checkpoints.models import load_model, read_model_info
from mrl_jax.checkpoints.towers import load_hubert_ctc, load_qwen3
from mrl_jax.core.checksums import seal
from mrl_jax.core.npy import open_npy
from mrl_jax.data.build.info import BuildInfo, BuildOptions, SplitInfo, describe_build, read_build
from mrl_jax.data.cache.documents import open_document_cache, write_document_cache
from mrl_jax.inference.cascade_config import CascadeConfig, read_cascade, write_cascade
from mrl_jax.inference.search.config import SearchConfig, read_search_config, write_search_config

MUTATED = 240
KEY = {"texts": "a" * 64, "dtype": "float32"}
Reader = Callable[[Path], Any]


def _model(folder: Path) -> Any:
    return load_model(folder, read_model_info(folder), verify=False)


READERS: dict[str, tuple[str, Reader]] = {
    "text": ("towers/text/tower.json", lambda f: load_qwen3(f, verify=False)),
    "speech": ("towers/speech/tower.json", lambda f: load_hubert_ctc(f, verify=False)),
    "model": ("model/model.json", _model),
    "search": ("model/search.json", lambda f: read_search_config(f, read_model_info(f))),
    "build": ("data/build.json", read_build),
    "cascade": ("cascade/cascade.json", read_cascade),
    "cache": ("cache/cache.json", lambda f: open_document_cache(f, KEY, 5)),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one description of every kind."""
    root = tmp_path_factory.mktemp("described")
    make_model(root)
    info = read_model_info(root / "model")
    directions = np.eye(16, 4, dtype=np.float32)
    config = SearchConfig(dim=16, rank=4, prefix=2)
    write_search_config(root / "model", info, config, directions, {"why": "smallest"})
    parts = {"text_tower": "towers/text", "recogniser": "towers/speech"}
    places = {name: str(root / place) for name, place in parts.items()}
    cascade = dataclasses.replace(CascadeConfig(dims=(32, 16)), **places)
    write_cascade(cascade, root / "cascade", log=lambda line: None)
    write_document_cache(root / "cache", KEY, np.ones((5, 8), np.float32))
    (root / "data").mkdir()
    build = BuildInfo(
        digest="a" * 64,
        parts={"examples": "b" * 64},
        source="rows.jsonl",
        options=BuildOptions(),
        splits={"train": SplitInfo(examples=3, seconds=1.5)},
        skipped=(),
    )
    describe_build(root / "data", build)
    return root


def test_descriptions_are_read_or_refused_in_one_line(written, capsys):
    rng, found, kinds = random.Random(10), Outcomes(), list(READERS)
    values = np.random.default_rng(10)
    for number in range(scaled(MUTATED)):
        kind = kinds[number % len(kinds)]
        name, read = READERS[kind]
        path = written / name
        before = path.read_text()
        raw = json.loads(before)
        if kind in ("text", "speech") and rng.random() < 0.7:
            value = {**raw, "config": mutate_json(raw["config"], values)}
        else:
            value = mutate_json(raw, values)
        # With the right digest, as a hostile one has, and without, as an older one.
        style = rng.choice(("edited", "sealed", "older"))
        if style != "edited" and isinstance(value, dict):
            value.pop("sha256", None)
            if value.get("weights_digest"):
                value["weights_digest"] = ""
            value = seal(value) if style == "sealed" else value
        path.write_text(json.dumps(value), encoding="utf-8")
        where = f"{style} {number}: {json.dumps(value)[:300]}"
        found.add(kind, outcome(functools.partial(read, path.parent)), where)
        path.write_text(before)
    with capsys.disabled():
        print(f"\ndescriptions: {scaled(MUTATED)}: {dict(sorted(found.counts.items()))}")
    assert not found.bad, "\n".join(found.bad)
    assert any(word.endswith("told") for word in found.counts)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"format": 1, "format": 1}',
        b'{"format": ' + b"9" * 5000 + b"}",
        b"\xff\xfe{}",
        b"null",
        b"",
        b'{"format": 1, "kind": "\\ud800"}',
    ],
    ids=["deep", "twice", "number", "encoding", "null", "empty", "surrogate"],
)
def test_texts_that_are_no_description(written, text):
    for name, read in READERS.values():
        path = written / name
        before = path.read_bytes()
        path.write_bytes(text)
        assert outcome(functools.partial(read, path.parent)) == "told"
        path.write_bytes(before)


def test_npy_headers_are_read_or_refused_in_one_line(tmp_path, capsys):
    rng, found, path = random.Random(7), Outcomes(), tmp_path / "a.npy"
    np.save(path, np.arange(12, dtype=np.float32).reshape(3, 4), allow_pickle=False)
    whole = path.read_bytes()
    for number in range(scaled(MUTATED)):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(128)] = rng.choice((*range(256), *b"(){}[],'0123456789|OV<>"))
        path.write_bytes(bytes(data[: rng.choice((len(data), rng.randrange(len(data))))]))
        found.add("npy", outcome(lambda: np.array(open_npy(path, hint="x"))), f"{number}")
    with capsys.disabled():
        print(f"\n.npy headers: {dict(found.counts)}")
    assert not found.bad, "\n".join(found.bad)
    assert found.counts["npy: told"] > scaled(MUTATED) // 2


def test_published_configs_are_read_or_refused_in_one_line(tmp_path, capsys):
    rng, values, found = random.Random(11), np.random.default_rng(11), Outcomes()
    text = {**QWEN3, "model_type": "qwen3", "rms_norm_eps": 1e-6, "hidden_act": "silu"}
    speech = {**HUBERT, "model_type": "hubert", "conv_dim": [16] * 7}
    speech |= {"conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2]}
    for number in range(scaled(MUTATED) // 2):
        name, raw = rng.choice((("qwen3", text), ("hubert", speech)))
        value = mutate_json(raw, values)

        def read(name: str = name, value: Any = value) -> Any:
            config = family(name).parse_config(value, where="config.json")
            return len(encoder_leaves(name, config))

        found.add(name, outcome(read), f"{number}: {json.dumps(value)[:300]}")
    with capsys.disabled():
        print(f"\nconfig.json: {dict(found.counts)}")
    assert not found.bad, "\n".join(found.bad)


def test_sizes_of_another_tower_are_told(tmp_path):
    make_towers(tmp_path)
    path = tmp_path / "text" / "tower.json"
    whole = json.loads(path.read_text())
    for name, value in (("rope_theta", 1.0), ("norm_epsilon", 10.0), ("num_layers", 10**9)):
        edited = {**whole, "config": {**whole["config"], name: value}}
        path.write_text(json.dumps(edited))
        assert outcome(lambda: load_qwen3(tmp_path / "text")) == "told"
        path.write_text(json.dumps(seal(edited)))
        assert outcome(lambda: load_qwen3(tmp_path / "text")) == "told"
