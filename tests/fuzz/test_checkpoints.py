"""Damaged files of published checkpoints, read as `mrl-jax convert` reads them."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutate import counted, json_text, mutate_bytes, mutate_json, scaled
from tiny_checkpoints import make_checkpoint

from converters.convert import open_source, prepare
from converters.families import find_family
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.demo.towers import make_tokenizer

PEAK_MB = 300
SMALL = 40
SAFETENSORS = "model.safetensors"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("originals")
    folders = {name: make_checkpoint(name, root / name) for name in ("qwen3", "hubert")}
    small = {"pad_token": "<pad>", "word_delimiter_token": "|", "do_lower_case": False}
    audio = {"do_normalize": True, "feature_size": 1, "sampling_rate": 16000}
    (folders["hubert"] / "preprocessor_config.json").write_text(json.dumps(audio))
    (folders["hubert"] / "tokenizer_config.json").write_text(json.dumps(small))
    for name, data in make_tokenizer(["ba ce", "di fo gu"]).items():
        data = data if isinstance(data, bytes) else data.encode()
        (folders["qwen3"] / name).write_bytes(data)
    return folders


def read_checkpoint(folder: Path, family: str) -> Any:
    """Everything of a conversion before it writes."""
    checkpoint = open_source(str(folder), family=family)
    published = find_family(family, checkpoint.config, checkpoint.folder / "config.json")
    return prepare(checkpoint, published.describe(checkpoint))


def read_tokenizer(folder: Path, family: str) -> Any:
    tokenizer = TextTokenizer(folder)
    tokenizer.encode(["ba ce", "", "x é"])
    tokenizer.unknown_parts("ba q")
    return tokenizer


FILES = {
    "config of qwen3": ("qwen3", "config.json", read_checkpoint),
    "config of hubert": ("hubert", "config.json", read_checkpoint),
    "preprocessor_config.json": ("hubert", "preprocessor_config.json", read_checkpoint),
    "tokenizer_config.json": ("hubert", "tokenizer_config.json", read_checkpoint),
    "tokenizer.json": ("qwen3", "tokenizer.json", read_tokenizer),
    "tokenizer_config.json of text": ("qwen3", "tokenizer_config.json", read_tokenizer),
}


def damaged(data: bytes, rng: np.random.Generator, *, as_json: bool) -> bytes:
    if as_json:
        return json_text(mutate_json(json.loads(data), rng)).encode()
    return mutate_bytes(data, rng)


@pytest.mark.parametrize("name", FILES)
def test_damaged_json_files(name, originals, tmp_path):
    family, file, read = FILES[name]
    folder = shutil.copytree(originals[family], tmp_path / "checkpoint")
    original = (folder / file).read_bytes() if (folder / file).is_file() else b"{}"
    read(folder, family)  # The original is sound.
    with counted(name, peak_mb=PEAK_MB) as ask:
        for seed in range(scaled(SMALL)):
            rng = np.random.default_rng((21, seed))
            (folder / file).write_bytes(damaged(original, rng, as_json=seed % 3 > 0))
            ask(seed, lambda: read(folder, family))


@pytest.mark.parametrize("family", ["qwen3", "hubert"])
def test_damaged_safetensors_headers(family, originals, tmp_path):
    folder = shutil.copytree(originals[family], tmp_path / "checkpoint")
    original = (folder / SAFETENSORS).read_bytes()
    (size,) = struct.unpack("<Q", original[:8])
    header, body = original[8 : 8 + size], original[8 + size :]
    with counted(f"safetensors of {family}", peak_mb=PEAK_MB) as ask:
        for seed in range(scaled(SMALL)):
            rng = np.random.default_rng((22, seed))
            changed = damaged(header, rng, as_json=seed % 3 > 0)
            claimed = len(changed)
            if rng.integers(8) == 0:
                claimed = int(rng.choice([0, 1, 2**31, 2**62, len(changed) + 7]))
            (folder / SAFETENSORS).write_bytes(struct.pack("<Q", claimed) + changed + body)
            ask(seed, lambda: read_checkpoint(folder, family))
