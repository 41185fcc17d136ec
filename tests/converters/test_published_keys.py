"""Full-size checkpoints from names, shapes and dtypes alone: each tensor has its place."""

import dataclasses
import math

import numpy as np
import published_keys
import pytest
from published_keys import MODELS, checkpoint_of, read
from tiers import mostly_slow

from converters.checkpoints import Checkpoint
from converters.convert import Conversion, prepare
from converters.families import family_of, find_family
from converters.rules import published_names
from mrl_jax.core.errors import MrlError
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.qwen3 import Qwen3Config

EXPECTED = {
    "Qwen3-Embedding-0.6B": ("qwen3", 595.8),
    "Qwen3-Embedding-4B": ("qwen3", 4021.8),
    "Qwen3-Embedding-8B": ("qwen3", 7567.3),
    "hubert-base-ls960": ("hubert", 94.4),
    "hubert-large-ll60k": ("hubert", 315.4),
    "hubert-large-ls960-ft": ("hubert_ctc", 315.5),
    "mHuBERT-147": ("hubert", 94.4),
    "wav2vec2-base": ("wav2vec2", 95.0),
    "wav2vec2-xls-r-300m": ("wav2vec2", 317.4),
    "mms-1b": ("wav2vec2", 965.5),
    "mms-1b-all": ("wav2vec2_ctc", 964.85),
    "wavlm-large": ("wavlm", 315.5),
}
"""Kind of tower, and millions of weights with those that no encoder computes with."""
PRESETS = {
    "Qwen3-Embedding-0.6B": Qwen3Config.embedding_0_6b(),
    "Qwen3-Embedding-4B": Qwen3Config.embedding_4b(),
    "Qwen3-Embedding-8B": Qwen3Config.embedding_8b(),
    "hubert-base-ls960": HubertConfig.base(),
    "hubert-large-ll60k": HubertConfig.large(),
    "wav2vec2-xls-r-300m": HubertConfig.large(),
}


def prepared(checkpoint: Checkpoint) -> Conversion:
    model_type = checkpoint.config["model_type"]
    name = "qwen3" if model_type == "qwen3" else "speech"
    return prepare(checkpoint, find_family(name, checkpoint.config, "here").describe(checkpoint))


def test_the_files_are_those_of_the_list():
    assert {path.stem for path in published_keys.FOLDER.glob("*.json")} == set(MODELS)
    assert set(EXPECTED) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_the_file_is_what_transformers_has(name):
    """A tensor that another version of it names otherwise fails here."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    config, lines = read(name)
    assert config == MODELS[name][2]
    assert sorted(lines) == sorted(published_keys.of_transformers(name))
    assert len({key for _, _, key in lines}) == len(lines)


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_has_its_place(name, tmp_path):
    config, lines = read(name)
    conversion = prepared(checkpoint_of(config, lines, tmp_path))
    kind, millions = EXPECTED[name]
    assert conversion.description.kind == kind
    if name in PRESETS:
        assert conversion.description.config == PRESETS[name]
    shapes = conversion.plan.shapes
    # All weights of the checkpoint, none twice; in the dtype that they are published in.
    assert len(conversion.plan.assignments) == len(lines)
    weights = sum(math.prod(shape) for _, shape, _ in lines)
    assert sum(map(math.prod, shapes.values())) == weights
    assert weights / 1e6 == pytest.approx(millions, abs=0.1)
    floats = {str(dtype) for dtype in conversion.dtypes.values()} - {"int64"}
    assert floats == {"bfloat16" if MODELS[name][1] == "BF16" else "float32"}
    table = family_of(kind).table
    back = published_names(table, shapes, conversion.plan.naming)
    assert {item.key for item in back} == {key for _, _, key in lines}


@pytest.mark.parametrize("name", mostly_slow(MODELS, quick=4))
def test_a_renamed_a_missing_and_a_transposed_tensor_are_noticed(name, tmp_path):
    config, lines = read(name)
    checkpoint = checkpoint_of(config, lines, tmp_path)
    rng = np.random.default_rng(0)
    used = [key for key, info in checkpoint.tensors.items() if len(info.shape) == 2]
    used = [key for key in used if ".layers." in key or key.startswith("layers.")]
    for number in rng.choice(len(used), 3):
        key = used[number]
        rest = {k: info for k, info in checkpoint.tensors.items() if k != key}
        info = checkpoint.tensors[key]
        faults = {
            "unknown": rest | {key.replace("weight", "kernel"): info},
            "missing": rest,
            "misshapen": rest | {key: dataclasses.replace(info, shape=(info.shape[0] + 1, 3))},
        }
        for problem, tensors in faults.items():
            with pytest.raises(MrlError, match=rf"{problem}: .*{key.split('.')[-2]}"):
                prepared(dataclasses.replace(checkpoint, tensors=tensors))


WEIGHT_NORMED = [
    name for name in MODELS if any("weight.original0" in key for _, _, key in read(name)[1])
]


@pytest.mark.parametrize("name", WEIGHT_NORMED)
def test_the_spelling_of_older_files_is_read_as_well(name, tmp_path):
    """As the hub's own files have the weight norm, which were saved before torch 2."""
    config, lines = read(name)
    old = [
        (
            dtype,
            shape,
            key.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ),
        )
        for dtype, shape, key in lines
    ]
    assert old != lines
    conversion = prepared(checkpoint_of(config, old, tmp_path))
    assert conversion.plan.naming["spellings"] == ["weight_g"]
    back = published_names(
        family_of(conversion.description.kind).table, conversion.plan.shapes, conversion.plan.naming
    )
    assert {item.key for item in back} == {key for _, _, key in old}
