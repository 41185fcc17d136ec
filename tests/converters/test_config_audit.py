"""Nothing of a checkpoint is ignored unknowingly: classes, config fields, dtypes and values."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published import QWEN3, edit_json, save, torch_hubert, torch_qwen3
from safetensors.numpy import load_file, save_file
from speech_families import CASES, make_model

from converters.__main__ import main
from converters.convert import convert
from converters.families import family
from converters.harmless_fields import HARMLESS
from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
MODELS: dict[str, Callable[[], Any]] = {
    "qwen3": torch_qwen3,
    "hubert": torch_hubert,
    "wav2vec2": lambda: make_model(CASES["wav2vec2-large"]),
    "unispeech-sat": lambda: make_model(CASES["unispeech-sat-base"]),
    "wavlm": lambda: make_model(CASES["wavlm-large"]),
}
"""A small model of each family, by the model type of its config.json."""


def command(name: str) -> str:
    """What converts a family."""
    return name if name == "qwen3" else "speech"


def stock_fields(name: str) -> dict[str, Any]:
    """Every field that transformers' own config has."""
    sizes = QWEN3 if name == "qwen3" else {}
    config = transformers.AutoConfig.for_model(name, **sizes)
    return json.loads(config.to_json_string(use_diff=False))


@pytest.fixture(params=sorted(MODELS))
def source(request, tmp_path):
    """The command that converts a checkpoint, and its folder."""
    return command(request.param), save(MODELS[request.param](), tmp_path / "source")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["PPLXQwen3Model"]}, "architectures names PPLXQwen3Model, expected"),
        ({"architectures": "Own"}, "architectures names Own, expected"),
        (
            {"auto_map": {"AutoModel": "modeling.Own"}},
            "auto_map names code of its own, modeling.Own, which is never run",
        ),
    ],
)
def test_another_class_is_refused(changes, words, source, tmp_path, capsys):
    name, folder = source
    edit_json(folder / "config.json", **changes)
    capsys.readouterr()
    assert run_command(main, [name, str(folder), str(tmp_path / "tower")]) == 2
    err = capsys.readouterr().err
    assert f"{folder / 'config.json'}: {words}" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "tower").exists()


def test_a_folder_without_classes_converts(source, tmp_path):
    name, folder = source
    edit_json(folder / "config.json", architectures=None)
    convert(str(folder), tmp_path / "tower", family=name)


def test_a_classifier_is_refused_as_one(tmp_path):
    model = transformers.Qwen3ForSequenceClassification(
        transformers.Qwen3Config(**QWEN3, num_labels=1)
    )
    folder = save(model, tmp_path / "source")
    with pytest.raises(MrlError, match="architectures names Qwen3ForSequenceClassification"):
        convert(str(folder), tmp_path / "tower", family="qwen3")


def test_stock_configs_have_no_field_that_is_not_known(source, tmp_path, capsys):
    name, folder = source
    raw = json.loads((folder / "config.json").read_text())
    fields = stock_fields(raw["model_type"])
    (folder / "config.json").write_text(json.dumps({**fields, **raw}))
    capsys.readouterr()
    assert run_command(main, [name, str(folder), str(tmp_path / "tower")]) == 0
    assert "not read" not in capsys.readouterr().out
    assert json.loads((tmp_path / "tower" / "report.json").read_text())["unread_config"] == {}


def test_fields_that_nothing_reads_are_named(source, tmp_path, capsys):
    name, folder = source
    edit_json(folder / "config.json", residual_scale=0.5, attn_logit_cap=30, nothing=None)
    if name == "qwen3":
        rope = {"rope_type": "default", "rope_theta": 1e6, "attention_factor": 2.0}
        edit_json(folder / "config.json", rope_parameters=rope)
    capsys.readouterr()
    assert run_command(main, [name, str(folder), str(tmp_path / "tower")]) == 0
    out = capsys.readouterr().out
    assert "note: config.json has fields that are not read" in out
    assert "residual_scale (0.5)" in out
    unread = json.loads((tmp_path / "tower" / "report.json").read_text())["unread_config"]
    expected = {"residual_scale": 0.5, "attn_logit_cap": 30}
    expected |= {"rope_parameters.attention_factor": 2.0} if name == "qwen3" else {}
    assert unread == expected


@pytest.mark.parametrize("name", sorted(MODELS))
def test_no_field_is_both_read_and_called_harmless(name):
    from converters.config_audit import WatchedConfig

    watched = WatchedConfig(stock_fields(name))
    family(name).parse_config(watched, where="config.json")
    assert watched.read & (HARMLESS | family(name).harmless) <= {"model_type"}
    assert "hidden_size" in watched.read


def _edit_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})


def test_the_config_is_judged_before_dtypes(tmp_path):
    folder = save(torch_hubert(), tmp_path / "source")
    _edit_tensors(folder, lambda tensors: {k: v.astype(np.int32) for k, v in tensors.items()})
    with pytest.raises(MrlError, match="is of dtype I32, expected one of F32"):
        convert(str(folder), tmp_path / "tower", family="hubert")
    edit_json(folder / "config.json", add_adapter=True)
    with pytest.raises(MrlError, match=r"config.json: add_adapter is True"):
        convert(str(folder), tmp_path / "tower", family="hubert")


def test_float64_is_told_as_what_it_is(source, tmp_path):
    name, folder = source
    _edit_tensors(folder, lambda tensors: {k: v.astype(np.float64) for k, v in tensors.items()})
    with pytest.raises(MrlError, match="is of dtype F64, expected one of F32, F16") as caught:
        convert(str(folder), tmp_path / "tower", family=name)
    assert "Save the weights in float32" in str(caught.value)


def test_an_output_layer_without_its_embeddings_is_told_so(tmp_path):
    folder = save(torch_qwen3(causal_lm=True), tmp_path / "source")

    def only_head(tensors):
        table = tensors.pop("model.embed_tokens.weight")
        return {**tensors, "lm_head.weight": table}

    _edit_tensors(folder, only_head)
    with pytest.raises(MrlError, match=r"has lm_head.weight and no embed_tokens.weight"):
        convert(str(folder), tmp_path / "tower", family="qwen3")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_told(value, source, tmp_path, capsys):
    name, folder = source
    key = {"qwen3": "norm.weight", "speech": "encoder.layer_norm.bias"}[name]

    def spoil(tensors):
        spoilt = tensors[key].copy()
        spoilt[[3, 5]] = value
        return {**tensors, key: spoilt}

    assert run_command(main, [name, str(folder), str(tmp_path / "whole")]) == 0
    assert "NaN" not in capsys.readouterr().out
    _edit_tensors(folder, spoil)
    assert run_command(main, [name, str(folder), str(tmp_path / "tower")]) == 0
    assert f"note: NaN or infinite values in {key} (2)" in capsys.readouterr().out
    assert json.loads((tmp_path / "tower" / "report.json").read_text())["not_finite"] == {key: 2}
