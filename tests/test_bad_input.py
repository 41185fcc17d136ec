"""Wrong input ends in one line that says what is wrong and how to correct it, and status 2."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from descriptions import unsealed
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import make_checkpoint, make_tower

from converters.__main__ import main
from converters.convert import convert
from mrl_jax import load_hubert, load_hubert_ctc, load_qwen3
from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sound checkpoints and towers, to be copied before they are spoiled."""
    root = tmp_path_factory.mktemp("originals")
    for family in ("qwen3", "hubert"):
        make_tower(family, make_checkpoint(family, root / family), root / f"{family}-tower")
    recogniser = shutil.copytree(root / "hubert", root / "ctc")
    tensors = {f"hubert.{k}": v for k, v in load_file(recogniser / "model.safetensors").items()}
    tensors["lm_head.weight"] = np.ones((13, 32), np.float32)
    tensors["lm_head.bias"] = np.ones(13, np.float32)
    save_file(tensors, recogniser / "model.safetensors")
    vocabulary = {token: i for i, token in enumerate(["<pad>", "|", *"abcdefghijk"])}
    (recogniser / "vocab.json").write_text(json.dumps(vocabulary))
    make_tower("hubert", recogniser, root / "ctc-tower")
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Restores the signal handler of the test process, which the command replaces."""
    usual = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, usual)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder for outputs, so that whatever is left in it shows."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


Refused = Callable[..., str]


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Refused:
    """Run a command line that must be refused; every given part must be in its one line."""

    def run(*argv: object, parts: tuple[str, ...]) -> str:
        capfd.readouterr()
        status = run_command(main, [str(arg) for arg in argv])
        out, line = capfd.readouterr()
        check_line(status, out, line, parts)
        return line

    return run


def spoiled(original: Path, copy: Path, spoil: Callable[[Path], Any]) -> Path:
    shutil.copytree(original, copy)
    spoil(copy)
    return copy


def check_line(status: int, out: str, line: str, parts: tuple[str, ...]) -> None:
    assert status == 2, line
    assert out == ""
    assert line.startswith("error: ")
    assert line.endswith("\n")
    assert line.count("\n") == 1, line
    assert "Traceback" not in line
    assert len(line) < 1200, line
    for part in parts:
        assert part in line


def test_the_originals_are_sound(originals, tmp_path, capfd):
    """Each test below spoils one thing of these."""
    for source in ("qwen3", "hubert", "ctc"):
        family = "qwen3" if source == "qwen3" else "hubert"
        out = tmp_path / source
        assert run_command(main, [family, str(originals[source]), str(out)]) == 0
        assert run_command(main, ["export", str(out), str(tmp_path / f"{source}-back")]) == 0
    assert capfd.readouterr().err == ""
    assert load_hubert_ctc(originals["ctc-tower"]).vocabulary is not None


# Weights.


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def change(edit: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(weights(folder))
        edit(tensors)
        save_file(tensors, weights(folder))

    return spoil


def cut(share: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        whole = weights(folder).read_bytes()
        weights(folder).write_bytes(whole[: int(len(whole) * share)])

    return spoil


def written(data: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights(folder).write_bytes(data)

    return spoil


def grown(folder: Path) -> None:
    weights(folder).write_bytes(weights(folder).read_bytes() + b"more")


def sharded(spoil: Callable[[Path, dict[str, str], list[dict[str, np.ndarray]]], None]) -> Any:
    """Splits into two shards with an index, which `spoil` may change before it is written."""

    def run(folder: Path) -> None:
        tensors = load_file(weights(folder))
        weights(folder).unlink()
        names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
        shards = [dict(list(tensors.items())[i::2]) for i in (0, 1)]
        index = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        spoil(folder, index, shards)
        for name, shard in zip(names, shards, strict=True):
            save_file(shard, folder / name)
        text = json.dumps({"metadata": {}, "weight_map": index})
        (folder / "model.safetensors.index.json").write_text(text)

    return run


def test_a_sound_index_is_no_mistake(originals, tmp_path):
    source = shutil.copytree(originals["qwen3"], tmp_path / "source")
    sharded(lambda folder, index, shards: None)(source)
    report = convert(str(source), tmp_path / "out", family="qwen3")
    whole = json.loads((originals["qwen3-tower"] / "report.json").read_text())
    assert report["digest"] == whole["digest"]


def lost_shard(folder: Path) -> None:
    sharded(lambda folder, index, shards: None)(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def no_weight_map(folder: Path) -> None:
    weights(folder).rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"metadata": {}}')


SPOILED_WEIGHTS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "truncated": (cut(0.7), ("model.safetensors", "not a whole", "Download", "bytes")),
    "header cut": (cut(0.001), ("model.safetensors", "not a whole", "Download")),
    "too long": (grown, ("model.safetensors", "not a whole", "Download")),
    "empty": (written(b""), ("model.safetensors", "not a whole", "0 bytes", "Download")),
    "garbage": (written(b"\x89garbage" * 99), ("model.safetensors", "not a whole", "Download")),
    "html": (written(b"<!DOCTYPE html><html>" * 9), ("model.safetensors", "Download")),
    "lfs pointer": (
        written(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ("model.safetensors", "is a Git LFS pointer", "git lfs pull"),
    ),
    "long header": (
        written((10**6).to_bytes(8, "little") + b'{"a": 1}'),
        ("model.safetensors", "not a whole", "Download"),
    ),
    "no weights": (lambda f: weights(f).unlink(), ("has no weights", "expected model.safetensors")),
    "no index": (
        lambda f: weights(f).rename(f / "model-00001-of-00002.safetensors"),
        ("has no weights", "found model-00001-of-00002.safetensors without an index"),
    ),
    "no weight_map": (no_weight_map, ("index.json", "has no weight_map", "Download")),
    "missing shard": (
        lost_shard,
        ("index.json", "model-00002-of-00002.safetensors", "not there", "Download the missing"),
    ),
    "shard with a path": (
        sharded(lambda _, index, __: index.update({"norm.weight": "../secret.safetensors"})),
        ("index.json", "'../secret.safetensors'", "expected a plain file name"),
    ),
    "shard with an absolute path": (
        sharded(lambda _, index, __: index.update({"norm.weight": "/etc/passwd"})),
        ("index.json", "'/etc/passwd'", "expected a plain file name"),
    ),
    "indexed, not held": (
        sharded(lambda _, index, __: index.update({"x": "model-00002-of-00002.safetensors"})),
        ("model-00002-of-00002.safetensors", "does not hold x", "Download"),
    ),
    "in another shard": (
        sharded(
            lambda _, index, shards: index.update({next(iter(shards[0])): list(index.values())[-1]})
        ),
        ("model-00001-of-00002.safetensors: holds", "the index expects in model-00002"),
    ),
    "in two shards": (
        sharded(lambda _, __, shards: shards[1].update(list(shards[0].items())[:1])),
        ("model-00002-of-00002.safetensors: holds", "a second time, after model-00001"),
    ),
    "a key too many": (
        change(lambda t: t.update({"extra.weight": np.ones(3, np.float32)})),
        ("1 problem", "unknown: extra.weight", "Check that config.json"),
    ),
    "a key too few": (
        change(lambda t: t.pop("layers.1.mlp.down_proj.weight")),
        ("1 problem", "missing: layers.1.mlp.down_proj.weight"),
    ),
    "misshapen": (
        change(lambda t: t.update({"norm.weight": np.ones(31, np.float32)})),
        ("1 problem", "misshapen: norm.weight is (31,), expected (32,)"),
    ),
    "scalar": (
        change(lambda t: t.update({"norm.weight": np.ones((), np.float32)})),
        ("misshapen: norm.weight is (), expected (32,)",),
    ),
    "int8": (
        change(lambda t: t.update({"norm.weight": np.ones(32, np.int8)})),
        ("model.safetensors", "norm.weight is of dtype I8", "F32, F16, BF16", "quantised"),
    ),
    "float64": (
        change(lambda t: t.update({"norm.weight": np.ones(32, np.float64)})),
        ("norm.weight is of dtype F64", "expected one of F32"),
    ),
    "nothing": (lambda f: save_file({}, weights(f)), ("24 problems", "missing: embed_tokens")),
}


@pytest.mark.parametrize(("spoil", "parts"), SPOILED_WEIGHTS.values(), ids=SPOILED_WEIGHTS)
def test_spoiled_weights(spoil, parts, originals, place, tmp_path, refused):
    source = spoiled(originals["qwen3"], tmp_path / "source", spoil)
    refused("qwen3", source, place / "out", parts=(str(source), *parts))
    assert os.listdir(place) == []


def test_several_mistakes_are_reported_together(originals, place, tmp_path, refused):
    source = shutil.copytree(originals["hubert"], tmp_path / "source")

    def edit(tensors: dict[str, np.ndarray]) -> None:
        tensors["adapter.weight"] = np.ones(3, np.float32)
        tensors["encoder.layer_norm.bias"] = np.ones(3, np.float32)
        for layer in range(2):
            del tensors[f"encoder.layers.{layer}.final_layer_norm.weight"]

    change(edit)(source)
    refused(
        "hubert",
        source,
        place / "out",
        parts=(
            "4 problems",
            "unknown: adapter.weight",
            "misshapen: encoder.layer_norm.bias is (3,), expected (32,)",
            "missing: encoder.layers.0.final_layer_norm.weight and 1 like it",
        ),
    )


# config.json.

UNSUPPORTED: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("hubert", {"conv_pos_batch_norm": "no"}, ("conv_pos_batch_norm is 'no'", "true or false")),
    ("hubert", {"add_adapter": True}, ("add_adapter is True", "not supported")),
    ("hubert", {"hidden_act": "relu"}, ("hidden_act is 'relu'", "only 'gelu'")),
    ("hubert", {"feat_extract_activation": "relu"}, ("feat_extract_activation is 'relu'",)),
    (
        "hubert",
        {"feat_extract_norm": "batch"},
        ("feat_extract_norm is 'batch'", "'group' or 'layer'"),
    ),
    ("hubert", {"model_type": "wav2vec2"}, ("model_type is 'wav2vec2'", "only 'hubert'")),
    (
        "hubert",
        {"quantization_config": {"bits": 4}},
        ("quantization_config", "float weights"),
    ),
    ("qwen3", {"rope_scaling": {"type": "yarn", "factor": 4}}, ("rope_scaling is 'yarn'",)),
    (
        "qwen3",
        {"rope_scaling": {"rope_type": "linear"}},
        ("rope_scaling is 'linear'", "scaled rotary embedding", "without this option"),
    ),
    (
        "qwen3",
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}},
        ("rope_parameters is 'yarn'", "scaled rotary embedding"),
    ),
    ("qwen3", {"rope_parameters": "default"}, ("rope_parameters is 'default'",)),
    ("qwen3", {"rope_parameters": {"rope_theta": 1e4}}, ("rope_theta", "a second value")),
    ("qwen3", {"partial_rotary_factor": 0.5}, ("partial_rotary_factor is 0.5",)),
    ("qwen3", {"use_sliding_window": True}, ("use_sliding_window is True", "not supported")),
    (
        "qwen3",
        {"layer_types": ["full_attention", "sliding_attention"]},
        ("layer_types is 'sliding_attention'", "not supported"),
    ),
    ("qwen3", {"layer_types": 5}, ("layer_types is 5",)),
    ("qwen3", {"attention_bias": True}, ("attention_bias is True", "not supported")),
    ("qwen3", {"hidden_act": "gelu"}, ("hidden_act is 'gelu'", "only 'silu'")),
    ("qwen3", {"model_type": "bert"}, ("model_type is 'bert'", "only 'qwen3'")),
    ("qwen3", {"model_type": None}, ("model_type is missing",)),
]
WRONG: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("qwen3", {"hidden_size": ...}, ("hidden_size is missing", "checkpoint's own folder")),
    ("qwen3", {"rope_theta": ...}, ("rope_theta is missing",)),
    ("qwen3", {"rope_theta": None}, ("rope_theta is missing",)),
    ("qwen3", {"rope_theta": float("nan")}, ("rope_theta is nan", "positive number")),
    ("qwen3", {"rope_theta": float("inf")}, ("rope_theta is inf", "positive number")),
    ("qwen3", {"rms_norm_eps": "1e-6"}, ("rms_norm_eps is '1e-6'", "positive number")),
    ("qwen3", {"num_hidden_layers": "2"}, ("num_hidden_layers is '2'", "whole number")),
    ("qwen3", {"num_hidden_layers": -2}, ("num_hidden_layers is -2", "from 1 to")),
    ("qwen3", {"num_hidden_layers": 0}, ("num_hidden_layers is 0", "from 1 to")),
    ("qwen3", {"num_hidden_layers": 2.0}, ("num_hidden_layers is 2.0", "whole number")),
    ("qwen3", {"num_hidden_layers": True}, ("num_hidden_layers is True", "whole number")),
    ("qwen3", {"num_key_value_heads": 3}, ("num_heads is 4", "multiple of num_kv_heads, 3")),
    ("qwen3", {"head_dim": 15}, ("head_width is 15", "even number")),
    ("hubert", {"conv_dim": ...}, ("conv_dim is missing",)),
    ("hubert", {"conv_dim": 16}, ("conv_dim is 16", "list of whole numbers")),
    ("hubert", {"conv_dim": []}, ("conv_dim is []", "list of whole numbers")),
    ("hubert", {"conv_stride": [5, 2]}, ("one entry a convolution", "7, 7 and 2")),
    ("hubert", {"conv_kernel": [10, 3, 3, 3, 3, 2, "2"]}, ("conv_kernel is '2'",)),
    ("hubert", {"conv_bias": "no"}, ("conv_bias is 'no'", "true or false")),
    ("hubert", {"num_attention_heads": 5}, ("width is 32", "multiple of num_heads, 5")),
    ("hubert", {"num_conv_pos_embedding_groups": 5}, ("width is 32", "position_groups, 5")),
]


@pytest.mark.parametrize(("family", "changes", "parts"), UNSUPPORTED + WRONG, ids=repr)
def test_a_config_that_is_unsupported_or_wrong(
    family, changes, parts, originals, place, tmp_path, refused
):
    source = shutil.copytree(originals[family], tmp_path / "source")
    config = json.loads((source / "config.json").read_text()) | changes
    config = {name: value for name, value in config.items() if value is not ...}
    (source / "config.json").write_text(json.dumps(config))
    refused(family, source, place / "out", parts=(str(source / "config.json"), *parts))
    assert os.listdir(place) == []


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen3", {"rope_scaling": None, "layer_types": ["full_attention"] * 2}),
        ("qwen3", {"rope_scaling": {"type": "default"}, "use_sliding_window": False}),
        ("qwen3", {"sliding_window": None, "attention_bias": False, "layer_types": None}),
        ("hubert", {"conv_pos_batch_norm": False, "adapter_attn_dim": None}),
    ],
    ids=repr,
)
def test_an_option_that_is_switched_off_is_no_mistake(family, changes, originals, tmp_path):
    # Without this, a refusal of the mere name would pass every test above.
    source = shutil.copytree(originals[family], tmp_path / "source")
    config = json.loads((source / "config.json").read_text()) | changes
    (source / "config.json").write_text(json.dumps(config))
    assert convert(str(source), tmp_path / "out", family=family)["kind"] == family


def test_the_other_family_is_refused(originals, place, refused):
    parts = ("config.json", "model_type is 'hubert'", "only 'qwen3'")
    refused("qwen3", originals["hubert"], place / "out", parts=parts)
    parts = ("config.json", "model_type is 'qwen3'", "only 'hubert'")
    refused("hubert", originals["qwen3"], place / "out", parts=parts)
    assert os.listdir(place) == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            None,
            ("config.json: no such file", "Expected a Hugging Face checkpoint folder"),
        ),
        ("", ("is not JSON", "Download")),
        ('{"model_type": ', ("is not JSON", "Download")),
        ("\xff", ("is not JSON",)),
        ("[]", ("is not a JSON object",)),
        ('"qwen3"', ("is not a JSON object",)),
    ],
)
def test_a_config_that_is_no_config(text, parts, originals, place, tmp_path, refused):
    source = shutil.copytree(originals["qwen3"], tmp_path / "source")
    (source / "config.json").unlink()
    if text is not None:
        (source / "config.json").write_text(text, encoding="latin-1")
    refused("qwen3", source, place / "out", parts=(str(source / "config.json"), *parts))
    assert os.listdir(place) == []


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("preprocessor_config.json", "{", ("preprocessor_config.json: is not JSON",)),
        (
            "preprocessor_config.json",
            '{"sampling_rate": 0}',
            ("preprocessor_config.json: sampling_rate is 0", "Take preprocessor_config.json"),
        ),
        ("preprocessor_config.json", '{"do_normalize": "yes"}', ("do_normalize is 'yes'",)),
        ("vocab.json", "[]", ("vocab.json: is not a JSON object",)),
        ("vocab.json", '{"a": 0}', ("has 1 tokens, expected the ids 0 to 12",)),
        (
            "vocab.json",
            # Digits as text sort 0, 1, 10, 11, 2: they must not pass for numbers.
            json.dumps({chr(97 + i): str(i) for i in range(13)}),
            ("vocab.json", "expected the ids 0 to 12"),
        ),
        ("vocab.json", json.dumps({chr(97 + i): i + 1 for i in range(13)}), ("ids 0 to 12",)),
        ("added_tokens.json", '{"<s>": 12}', ("has 14 tokens, expected the ids 0 to 12",)),
        ("tokenizer_config.json", "x", ("tokenizer_config.json: cannot be read as a tokenizer's",)),
    ],
)
def test_spoiled_small_files(name, text, parts, originals, place, tmp_path, refused):
    source = shutil.copytree(originals["ctc"], tmp_path / "source")
    (source / name).write_text(text)
    refused("hubert", source, place / "out", parts=(str(source), *parts))
    assert os.listdir(place) == []


def test_a_blank_that_is_no_output_is_refused(originals, place, tmp_path, refused):
    source = shutil.copytree(originals["ctc"], tmp_path / "source")
    (source / "tokenizer_config.json").write_text('{"pad_token": "[PAD]"}')
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "pad_token_id": 13}))
    parts = ("config.json", "pad_token_id is 13", "expected an id from 0 to 12")
    refused("hubert", source, place / "out", parts=parts)
    (source / "config.json").write_text(json.dumps({**config, "pad_token_id": 12}))
    convert(str(source), place / "out", family="hubert")
    vocabulary = load_hubert_ctc(place / "out").vocabulary
    assert vocabulary is not None
    assert vocabulary.blank == 12


@pytest.mark.parametrize("shape", [(), (13,), (13, 31), (13, 32, 1)])
def test_a_misshapen_output_layer_is_refused(shape, originals, place, tmp_path, refused):
    source = shutil.copytree(originals["ctc"], tmp_path / "source")
    change(lambda t: t.update({"lm_head.weight": np.ones(shape, np.float32)}))(source)
    refused("hubert", source, place / "out", parts=(f"lm_head.weight is {shape}", "32)"))
    assert os.listdir(place) == []


# Places.


def test_a_source_that_is_not_there(place, tmp_path, refused):
    missing = tmp_path / "missing"
    parts = (f"{missing}: no such folder", "Pass a checkpoint folder, or a hub id")
    refused("qwen3", missing, place / "out", parts=parts)
    refused("hubert", "../missing", place / "out", parts=("../missing: no such folder",))
    refused("hubert", "missing", place / "out", parts=("missing: no such folder",))
    assert os.listdir(place) == []


@pytest.mark.parametrize("name", ["a/b.git", "a--b/c", "a/b..c", "-a/b", "a/" + "b" * 97])
def test_a_source_that_cannot_be_a_hub_id(name, place, refused):
    refused("qwen3", "--revision=main", "--", name, place / "out", parts=(name, "hub id"))
    assert os.listdir(place) == []


def test_a_source_that_is_a_file(originals, place, refused):
    source = originals["qwen3"] / "model.safetensors"
    parts = (f"{source}: is a file", "expected a checkpoint folder")
    refused("qwen3", source, place / "out", parts=parts)
    assert os.listdir(place) == []


def test_a_source_that_is_empty(place, tmp_path, refused):
    (tmp_path / "source").mkdir()
    refused("qwen3", tmp_path / "source", place / "out", parts=("config.json: no such file",))


def test_an_output_that_exists(originals, place, refused):
    source, out = originals["qwen3"], place / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    parts = (f"{out}: the output exists already", "--overwrite")
    refused("qwen3", source, out, parts=parts)
    refused("export", originals["qwen3-tower"], out, parts=parts)
    config = source / "config.json"
    refused("random-init", "qwen3", config, out, parts=parts)
    assert [path.name for path in place.rglob("*")] == ["out", "mine"]
    # --overwrite is no leave to delete what is no tower.
    refused("qwen3", source, out, "--overwrite", parts=(f"{out}: holds something else",))
    assert (out / "mine").read_text() == "mine"
    tower = shutil.copytree(originals["hubert-tower"], place / "tower")
    assert run_command(main, ["qwen3", str(source), str(tower), "--overwrite"]) == 0
    assert load_qwen3(tower).config.width == 32


def test_an_overwrite_that_fails_leaves_the_old_one_whole(
    originals, place, tmp_path, refused, monkeypatch
):
    out = shutil.copytree(originals["qwen3-tower"], place / "out")
    source = shutil.copytree(originals["qwen3"], tmp_path / "source")
    cut(0.7)(source)
    refused("qwen3", source, out, "--overwrite", parts=("not a whole safetensors file",))
    # And one that fails while it writes, not before.
    monkeypatch.setattr(
        "converters.convert.save_tower", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "x"))
    )
    parts = (f"{out}: could not be written: No space left",)
    refused("qwen3", originals["qwen3"], out, "--overwrite", parts=parts)
    monkeypatch.undo()
    assert os.listdir(place) == ["out"]
    before, after = (
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (originals["qwen3-tower"], out)
    )
    assert before == after


def test_an_output_below_a_file(originals, place, refused):
    (place / "file").write_text("mine")
    out = place / "file" / "out"
    parts = (f"{out}: could not be written", "Check that the place exists")
    refused("qwen3", originals["qwen3"], out, parts=parts)
    assert os.listdir(place) == ["file"]


def test_an_output_that_may_not_be_written(originals, place, refused):
    if os.geteuid() == 0:  # No permission stops root, but the kernel's own folders do.
        out = Path("/proc/mrl_jax/out")
    else:
        place.chmod(0o500)
        out = place / "out"
    parts = (f"{out}: could not be written", "Check that the place exists")
    refused("qwen3", originals["qwen3"], out, parts=parts)
    assert not out.exists()


# The command line.


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ((), ("COMMAND", "--help")),
        (("convert", "a", "b"), ("'convert'", "qwen3", "--help")),
        (("qwen3", "a"), ("required: out", "--help")),
        (("qwen3", "a", "b", "--fast"), ("--fast", "--help")),
        (("qwen3", "a", "b", "--over"), ("--over", "--help")),
        (("qwen3", "a", "b", "--dtype", "int8"), ("--dtype", "'int8'", "bfloat16", "--help")),
        (("export", "a", "b", "--max-shard-gb", "x"), ("--max-shard-gb", "'x'")),
        (("export", "a", "b", "--max-shard-gb", "0"), ("--max-shard-gb is 0.0", "positive")),
        (("export", "a", "b", "--max-shard-gb", "nan"), ("--max-shard-gb is nan", "positive")),
        (("export", "a", "b", "--max-shard-gb", "inf"), ("--max-shard-gb is inf", "positive")),
        (("verify", "a", "b", "--tolerance", "-1"), ("--tolerance is -1.0", "positive")),
        (("verify", "a", "b", "--tolerance", "nan"), ("--tolerance is nan", "positive")),
        (("random-init", "bert", "a", "b"), ("'bert'", "qwen3", "hubert")),
        (("random-init", "qwen3", "a", "b", "--seed", "-1"), ("--seed is -1",)),
        (("random-init", "qwen3", "/no/config.json", "b"), ("/no/config.json: no such file",)),
        (("random-init", "qwen3", "/", "b"), ("/: is a folder, expected a file",)),
    ],
)
def test_a_wrong_command_line(argv, parts, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(*argv, parts=parts)
    assert os.listdir(tmp_path) == []


# Towers.


def data_files(folder: Path) -> list[Path]:
    return sorted(
        (path for path in (folder / "weights").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )


def cut_data(folder: Path) -> None:
    largest = data_files(folder)[-1]
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def edit_tower(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "tower.json"
        path.write_text(unsealed(path, **changes))

    return spoil


def drop_field(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "tower.json"
        raw = json.loads(unsealed(path))
        del raw[name]
        path.write_text(json.dumps(raw))

    return spoil


def wider(folder: Path) -> None:
    path = folder / "tower.json"
    raw = json.loads(unsealed(path))
    raw["config"]["mlp_width"] = 50
    path.write_text(json.dumps(raw))


SPOILED_TOWERS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "no tower.json": (lambda f: (f / "tower.json").unlink(), ("tower.json: no such file", "Make")),
    "cut": (
        lambda f: (f / "tower.json").write_text('{"format": 1, '),
        ("cannot be read as a tower",),
    ),
    "a list": (lambda f: (f / "tower.json").write_text("[]"), ("cannot be read as a tower",)),
    "binary": (
        lambda f: (f / "tower.json").write_bytes(b"\xff\xfe"),
        ("cannot be read as a tower",),
    ),
    "of another format": (edit_tower(format=2), ("cannot be read as a tower", "format is not 1")),
    "of another kind": (edit_tower(kind="bert"), ("cannot be read as a tower",)),
    "without config": (drop_field("config"), ("cannot be read as a tower", "config")),
    "without digest": (drop_field("digest"), ("cannot be read as a tower", "digest")),
    "with a strange field": (edit_tower(extra=1), ("cannot be read as a tower", "extra")),
    "without weights": (
        lambda f: shutil.rmtree(f / "weights"),
        ("weights/encoder", "Convert the checkpoint again"),
    ),
    "with empty weights": (
        lambda f: [path.unlink() for path in data_files(f)],
        ("weights/encoder", "Convert the checkpoint again"),
    ),
    "with cut weights": (cut_data, ("weights/encoder", "Convert")),
}


@pytest.mark.parametrize(("spoil", "parts"), SPOILED_TOWERS.values(), ids=SPOILED_TOWERS)
def test_a_spoiled_tower(spoil, parts, originals, place, tmp_path, refused):
    tower = spoiled(originals["qwen3-tower"], tmp_path / "tower", spoil)
    refused("export", tower, place / "out", parts=(str(tower), *parts))
    assert os.listdir(place) == []
    with pytest.raises(MrlError) as error:
        load_qwen3(tower)
    for part in parts:
        assert part in str(error.value)


def test_a_tower_of_other_sizes_than_its_weights(originals, tmp_path):
    tower = shutil.copytree(originals["qwen3-tower"], tmp_path / "tower")
    wider(tower)
    with pytest.raises(MrlError, match=r"its digest is not that of its weights and sizes"):
        load_qwen3(tower)


def test_a_tower_is_loaded_by_its_own_function(originals):
    with pytest.raises(MrlError, match=r"hubert-tower: is a hubert tower, expected qwen3\. Pass"):
        load_qwen3(originals["hubert-tower"])
    with pytest.raises(MrlError, match="is a qwen3 tower, expected a speech tower"):
        load_hubert(originals["qwen3-tower"])
    with pytest.raises(MrlError, match="is a hubert tower, expected a recogniser"):
        load_hubert_ctc(originals["hubert-tower"])
    assert (
        load_hubert(originals["ctc-tower"]).config == load_hubert(originals["hubert-tower"]).config
    )


def test_an_export_of_altered_weights(originals, place, tmp_path, refused):
    """Another tower's weights of the same shapes: only the digest differs."""
    other = make_checkpoint("qwen3", tmp_path / "other", seed=1)
    make_tower("qwen3", other, tmp_path / "other-tower")
    tower = shutil.copytree(originals["qwen3-tower"], tmp_path / "tower")
    shutil.rmtree(tower / "weights")
    shutil.copytree(tmp_path / "other-tower" / "weights", tower / "weights")
    parts = (f"{tower}/weights/encoder", "Convert")
    refused("export", tower, place / "out", parts=parts)
    assert os.listdir(place) == []


def test_an_export_without_its_config(originals, place, tmp_path, refused):
    tower = shutil.copytree(originals["qwen3-tower"], tmp_path / "tower")
    (tower / "config.json").unlink()
    parts = (f"{tower / 'config.json'}: no such file", "Convert")
    refused("export", tower, place / "out", parts=parts)
    assert os.listdir(place) == []


def test_an_export_of_a_checkpoint(originals, place, refused):
    parts = ("tower.json: no such file", "mrl-jax convert")
    refused("export", originals["qwen3"], place / "out", parts=parts)
    assert os.listdir(place) == []


# The same through a real process, where logging and threads have their own way to stderr.


def test_a_real_process_says_no_more(originals, place, tmp_path):
    source = shutil.copytree(originals["qwen3"], tmp_path / "source")
    cut(0.7)(source)
    tower = shutil.copytree(originals["qwen3-tower"], tmp_path / "tower")
    cut_data(tower)
    cases = [
        (("qwen3", source, place / "out"), ("model.safetensors", "not a whole", "Download")),
        (("export", tower, place / "out"), ("weights/encoder", "Convert")),
        (("hubert", "some/model", place / "out"), ("some/model", "hub", "network")),
    ]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "converters", *map(str, argv)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for argv, _ in cases
    ]
    outputs = [process.communicate(timeout=120) for process in running]
    for process, (out, line), (_, parts) in zip(running, outputs, cases, strict=True):
        check_line(process.returncode, out, line, parts)
    assert os.listdir(place) == []
