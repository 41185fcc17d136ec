"""The published speech model as one folder: every spelling, and everything that is refused."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from published import edit_json, save, save_oolel_embed
from safetensors.numpy import load_file, save_file
from torch_fusion import TorchFusion

from converters.__main__ import main
from converters.convert import convert
from converters.export import export
from converters.oolel_embed import convert_oolel_embed
from mrl_jax import load_hubert_ctc
from mrl_jax.checkpoints.models import load_model, read_model_info, save_model
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.nn import param_tree

SPELLINGS: dict[str, dict[str, Any]] = {
    "folders": {"speech": "audio_encoder.", "text": "llm.", "configs": None},
    "bare hubert": {"speech": "", "text": "language_model.model.", "projection": "proj"},
    "encoder": {
        "speech": "encoder.",
        "text": "model.",
        "conv": "head.pooling_parameters",
        "projection": "encoder.projection",
        "configs": ("encoder_config", "llm_config"),
    },
    "text model": {"text": "text_model.", "configs": ("audio_config", "text_config")},
}


@pytest.fixture(scope="module")
def reference() -> TorchFusion:
    return TorchFusion()


@pytest.fixture(scope="module")
def source(reference, tmp_path_factory) -> Path:
    """A published folder, to be left as it is."""
    return save_oolel_embed(reference, tmp_path_factory.mktemp("oolel") / "source")


@pytest.fixture(scope="module")
def model(source) -> Path:
    """That folder converted by the command, to be left as it is."""
    out = source.parent / "model"
    assert main(["oolel-embed", str(source), str(out)]) == 0
    return out


def without_output(folder: Path) -> Path:
    """The recogniser's output layer taken out of a published folder."""
    return rewrite(folder, lambda tensors: [tensors.pop(k) for k in [*tensors] if "lm_head" in k])


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_moved_model_folder_embeds_as_pytorch_does(model, reference, tmp_path):
    moved = shutil.copytree(model, tmp_path / "elsewhere")
    split = param_tree.split(load_model(moved, read_model_info(moved)))
    embed = jax.jit(
        lambda samples, lengths: split.rebuild(split.trained, split.frozen).embed_speech(
            samples, lengths
        ),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    samples = np.random.default_rng(0).normal(size=(2, 700)).astype(np.float32)
    samples[1, 500:] = 0
    ours = np.asarray(embed(samples, np.asarray([700, 500], np.int32)))
    np.testing.assert_allclose(ours, reference.embed(samples), atol=1e-5)
    assert np.abs(ours - reference.embed(samples[:, ::-1].copy())).max() > 1e-2


def test_the_model_is_described_as_the_published_head_was_trained(model, reference):
    info = read_model_info(model)
    assert (info.speech.path, info.text.path) == ("speech", "text")
    assert info.speech.digest == read_info(model / "speech", expected=("hubert_ctc",)).digest
    assert info.text.digest == read_info(model / "text", expected=("qwen3",)).digest
    assert (info.padding, info.fusion.end_token, info.prompts) == ("reference", None, {})
    assert info.dims == (32,)  # None of the published prefixes is in a width of 32.
    assert not info.fusion.learn_temperature
    head = param_tree.flat_weights(load_model(model, info).head)
    np.testing.assert_array_equal(
        np.asarray(head["frame_projection.kernel"]), reference.projection.weight.numpy().T
    )
    np.testing.assert_array_equal(
        np.asarray(head["frame_downsample.kernel"]),
        np.transpose(reference.conv.weight.numpy(), (2, 1, 0)),
    )
    np.testing.assert_array_equal(
        np.asarray(head["frame_downsample.bias"]), reference.conv.bias.numpy()
    )


def test_dims_are_the_published_ones_up_to_the_width(tmp_path, reference):
    source, out = save_oolel_embed(reference, tmp_path / "s"), tmp_path / "model"
    convert_oolel_embed(str(source), out, dims=(64, 32, 16))
    assert read_model_info(out).dims == (32, 16)


def test_towers_are_those_of_their_own_checkpoints(model, reference, tmp_path):
    for kind, name, tower in (
        ("hubert", "speech", reference.speech),
        ("qwen3", "text", reference.text),
    ):
        convert(str(save(tower, tmp_path / kind)), tmp_path / name, family=kind)
        alone = read_info(tmp_path / name)
        assert read_info(model / name).weights_digest == alone.weights_digest
        export(model / name, tmp_path / f"{name}-exported")
        exported = load_file(tmp_path / f"{name}-exported" / "model.safetensors")
        published = load_file(tmp_path / kind / "model.safetensors")
        assert sorted(exported) == sorted(published)
        for key, tensor in published.items():
            np.testing.assert_array_equal(exported[key], tensor)


def test_each_tower_has_its_own_files(model, reference):
    speech, text = model / "speech", model / "text"
    assert json.loads((speech / "config.json").read_text())["model_type"] == "hubert"
    assert json.loads((text / "config.json").read_text())["model_type"] == "qwen3"
    assert (speech / "preprocessor_config.json").is_file()
    assert (text / "tokenizer_config.json").is_file()
    assert not (text / "preprocessor_config.json").exists()
    # A vocab.json beside both towers is the text tokenizer's.
    assert (text / "vocab.json").is_file()
    assert not (speech / "vocab.json").exists()
    report = json.loads((model / "report.json").read_text())
    assert report["prefixes"] == {"speech": "speech_encoder.", "text": "text_encoder."}
    assert report["head_parameters"] == 3 * 32 * 32 + 2 * 32 * 32 + 32
    files = ["config.json", "tokenizer_config.json", "vocab.json"]
    assert report["towers"]["text"]["files"] == files


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_the_same_model(name, model, reference, tmp_path):
    options = SPELLINGS[name]
    source = save_oolel_embed(reference, tmp_path / "source", **options)
    digests = {n: read_info(model / n).weights_digest for n in ("speech", "text")}
    if name == "bare hubert":  # Without its output layer, whose name would bear no prefix.
        without_output(source)
        config = json.loads((source / "config.json").read_text())["speech_config"]
        bare = tmp_path / "bare"
        bare.mkdir()
        tensors = load_file(source / "model.safetensors")
        save_file(
            {k: v for k, v in tensors.items() if k.startswith("hubert.")},
            bare / "model.safetensors",
        )
        (bare / "config.json").write_text(json.dumps(config))
        convert(str(bare), tmp_path / "tower", family="hubert")
        digests["speech"] = read_info(tmp_path / "tower").weights_digest
    convert_oolel_embed(str(source), tmp_path / "model")
    info, expected = read_model_info(tmp_path / "model"), read_model_info(model)
    assert info.head_digest == expected.head_digest
    made = {n: read_info(tmp_path / "model" / n) for n in ("speech", "text")}
    assert {n: one.weights_digest for n, one in made.items()} == digests
    assert info.speech.digest == made["speech"].digest
    if name == "folders":
        assert load_hubert_ctc(tmp_path / "model" / "speech").vocabulary is not None


def test_dtype_is_that_of_the_towers(source, model, tmp_path):
    report = convert_oolel_embed(str(source), tmp_path / "model", dtype="bfloat16")
    assert [report["towers"][name]["dtype"] for name in ("speech", "text")] == ["bfloat16"] * 2
    info, before = read_model_info(tmp_path / "model"), read_model_info(model)
    assert info.head_digest == before.head_digest
    assert info.text.digest != before.text.digest


def test_overwriting_has_to_be_requested(source, model, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "old").touch()
    arguments = ["oolel-embed", str(source), str(tmp_path / "model")]
    assert run_command(main, arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run_command(main, [*arguments, "--overwrite"]) == 0
    out = capsys.readouterr().out
    assert "late_fusion" in out
    assert "there is no tokenizer.json" in out
    assert not (tmp_path / "model" / "old").exists()
    (tmp_path / "model" / "model.json").unlink()
    assert run_command(main, [*arguments, "--overwrite"]) == 2
    assert "there is no model.json" in capsys.readouterr().err
    assert run_command(main, [*arguments, "--revision", "main"]) == 2
    assert "has no revision 'main'" in capsys.readouterr().err


def rename(old: str, new: str) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        for key in [key for key in tensors if key.startswith(old)]:
            tensors[new + key.removeprefix(old)] = tensors.pop(key)

    return change


def drop(key: str) -> Callable[[dict[str, np.ndarray]], Any]:
    return lambda tensors: tensors.pop(key)


def add(key: str, *shape: int) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda tensors: tensors.update({key: np.zeros(shape, np.float32)})


LAYER = "text_encoder.layers.1.mlp.up_proj.weight"
REFUSED: dict[str, tuple[Callable[[dict[str, np.ndarray]], Any], tuple[str, ...]]] = {
    "no speech": (
        rename("speech_encoder.", "ears."),
        ("no speech tower", "speech_encoder.*, audio_encoder.*, hubert.*", "left over: ears."),
    ),
    "no text": (rename("text_encoder.", "t."), ("no text tower", "text_encoder.*", "t.layers")),
    "two texts": (
        rename("text_encoder.layers.1.", "llm.layers.1."),
        ("two text towers: text_encoder.", " and llm.layers.1."),
    ),
    "no projection": (
        drop("audio_projection.weight"),
        ("no frame_projection.kernel of the head", "(32, 96)"),
    ),
    "two projections": (
        add("other.weight", 32, 96),
        ("may be audio_projection.weight or other.weight", "(32, 96)"),
    ),
    "wide projection": (
        add("audio_projection.weight", 32, 128),
        ("no frame_projection.kernel", "left over: audio_projection.weight (32, 128)"),
    ),
    "no convolution": (
        drop("pooling_parameters.weight"),
        ("no frame_downsample.kernel", "(32, 32, 2)", "left over: pooling_parameters.bias (32,)"),
    ),
    "two convolutions": (
        add("x.weight", 32, 32, 2),
        ("frame_downsample.kernel may be pooling_parameters.weight or x.weight",),
    ),
    "no bias": (drop("pooling_parameters.bias"), ("no pooling_parameters.bias of (32,)",)),
    "projection with bias": (
        add("audio_projection.bias", 32),
        ("1 problem with the parts", "left over: audio_projection.bias (32,)"),
    ),
    "unknown in a tower": (
        add("text_encoder.layers.1.extra.weight", 2),
        ("left over: text_encoder.layers.1.extra.weight (2,)",),
    ),
    "tower lacks one": (drop(LAYER), ("(text tower, text_encoder.*)", "missing: layers.1.mlp.up")),
    "tower of other sizes": (
        add(LAYER, 47, 32),
        ("(text tower, text_encoder.*)", "is (47, 32), expected (48, 32)"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_parts_that_do_not_fit_are_refused(case, source, tmp_path, capsys):
    change, parts = REFUSED[case]
    spoiled = rewrite(shutil.copytree(source, tmp_path / "source"), change)
    refused(spoiled, tmp_path, capsys, parts)


def refused(source: Path, place: Path, capsys: Any, parts: tuple[str, ...]) -> None:
    """One line on stderr, status 2, and nothing left behind."""
    before = sorted(os.listdir(place))
    assert run_command(main, ["oolel-embed", str(source), str(place / "model")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in (str(source), *parts):
        assert part in line
    assert sorted(os.listdir(place)) == before


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"text_config": None}, ("no config of the text tower", "text_config or llm_config")),
        ({"speech_config": "a/b"}, ("speech_config is 'a/b', expected an object",)),
        ({"speech_config": {"model_type": "wavlm"}}, ("config.json: speech_config", "wavlm")),
        ({"llm_config": {}}, ("config.json: llm_config", "differs from", "text_config")),
    ],
)
def test_configs_that_do_not_fit_are_refused(changes, parts, source, tmp_path, capsys):
    spoiled = shutil.copytree(source, tmp_path / "source")
    edit_json(spoiled / "config.json", **changes)
    refused(spoiled, tmp_path, capsys, parts)


def test_a_folder_of_another_kind_is_refused(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    refused(tmp_path / "source", tmp_path, capsys, ("no config of the speech tower",))


def test_a_failed_write_leaves_nothing(source, tmp_path, monkeypatch):
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "x")

    # Called when both towers are written.
    monkeypatch.setattr("converters.oolel_model.save_model", full)
    with pytest.raises(MrlError, match=r"model: could not be written: No space left"):
        convert_oolel_embed(str(source), tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_a_head_that_cannot_be_written_is_refused(model, tmp_path):
    (tmp_path / "file").touch()
    info, folder = read_model_info(model), tmp_path / "file" / "model"
    fields = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
    del fields["head"], fields["head_digest"]
    with pytest.raises(MrlError, match="the model could not be written: Not a directory"):
        save_model(folder, fields, {"head.bias": np.zeros(3, np.float32)})
