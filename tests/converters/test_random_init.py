"""Random checkpoints: like published ones to convert and to transformers, and repeatable."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_checkpoints import CONFIGS

from converters.convert import convert
from converters.random_init import random_init
from mrl_jax.core.errors import MrlError

ROPE = {"rope_type": "default", "rope_theta": 1e6}
QWEN3: dict[str, Any] = {
    **{name: value for name, value in CONFIGS["qwen3"].items() if name != "rope_theta"},
    "architectures": ["Qwen3Model"],
    "num_hidden_layers": 3,
    "rope_parameters": ROPE,
}
HUBERT: dict[str, Any] = {
    **CONFIGS["hubert"],
    "architectures": ["HubertModel"],
    "num_hidden_layers": 3,
    "mask_time_prob": 0.0,
}
LARGE = {**HUBERT, "feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
CASES = {"qwen3": QWEN3, "hubert": HUBERT, "hubert large": LARGE}


def make(name: str, out: Path, **options: Any) -> dict[str, Any]:
    config = out.with_suffix(".json")
    config.write_text(json.dumps(CASES[name]))
    return random_init(name.split()[0], config, out, **options)


@pytest.mark.parametrize("name", CASES)
def test_it_loads_strictly_in_transformers(name, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    make(name, tmp_path / "made")
    kind = getattr(transformers, CASES[name]["architectures"][0])
    model, info = kind.from_pretrained(tmp_path / "made", output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[problem], problem
    with torch.no_grad():
        inputs = torch.arange(9)[None] if name == "qwen3" else torch.randn(1, 1600)
        states = model.eval()(inputs).last_hidden_state
    assert torch.isfinite(states).all()
    assert states.std() > 0.1


@pytest.mark.parametrize("name", CASES)
def test_it_converts(name, tmp_path):
    made = make(name, tmp_path / "made")
    report = convert(str(tmp_path / "made"), tmp_path / "tower", family=name.split()[0])
    assert (
        report["tensors"]
        == made["tensors"]
        == len(load_file(tmp_path / "made" / "model.safetensors"))
    )
    assert report["dtype"] == "float32"


@pytest.mark.parametrize("name", CASES)
def test_a_seed_gives_its_bytes_and_another_gives_others(name, tmp_path):
    for out, seed in (("a", 7), ("b", 7), ("c", 8)):
        make(name, tmp_path / out, seed=seed)
    a, b, c = ((tmp_path / out / "model.safetensors").read_bytes() for out in "abc")
    assert a == b
    assert a != c
    tensors, others = (load_file(tmp_path / out / "model.safetensors") for out in "ac")
    for key in tensors:
        assert (tensors[key] != others[key]).any(), key


def test_no_two_tensors_are_alike(tmp_path):
    # Equal layers would hide a converter that mixes them up.
    make("qwen3", tmp_path / "made")
    tensors = load_file(tmp_path / "made" / "model.safetensors")
    norms = [value.tobytes() for key, value in tensors.items() if key.endswith("layernorm.weight")]
    assert len(norms) == 6
    assert len(set(norms)) == 6


def test_it_has_the_requested_dtype_and_says_so(tmp_path):
    made = make("hubert", tmp_path / "made", dtype="bfloat16")
    assert made["dtype"] == "bfloat16"
    tensors = load_file(tmp_path / "made" / "model.safetensors")
    assert {value.dtype for value in tensors.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert json.loads((tmp_path / "made" / "config.json").read_text())["dtype"] == "bfloat16"
    make("hubert", tmp_path / "wide")
    wide = load_file(tmp_path / "wide" / "model.safetensors")
    for key, value in tensors.items():
        assert value.tobytes() == wide[key].astype(ml_dtypes.bfloat16).tobytes()


def test_large_weights_are_split(tmp_path):
    made = make("qwen3", tmp_path / "made", shard_bytes=20_000)
    assert len(made["files"]) > 3
    make("qwen3", tmp_path / "whole")
    parts: dict[str, np.ndarray] = {}
    for name in made["files"]:
        parts |= load_file(tmp_path / "made" / name)
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert set(parts) == set(whole)
    assert all((parts[key] == whole[key]).all() for key in whole)


def test_the_familys_own_config_is_required(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(HUBERT))
    with pytest.raises(MrlError, match="model_type is 'hubert', and only 'qwen3'"):
        random_init("qwen3", tmp_path / "config.json", tmp_path / "made")
    assert not (tmp_path / "made").exists()
