"""Folders in other layouts and formats: found, or named as what they are."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_cases import FORMATS, QUANTISED, QUANTISED_TENSORS, old_layout
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import make_checkpoint, write_config

from converters.__main__ import main
from converters.convert import convert
from mrl_jax.core.cli import run_command


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_checkpoint("qwen3", tmp_path_factory.mktemp("formats") / "tiny")


@pytest.mark.parametrize("inner", ["0_Transformer", "0_TextTower", "by its name alone"])
@pytest.mark.parametrize("passed", ["whole", "inner", "subfolder"])
def test_the_tower_is_found_in_its_own_folder(inner, passed, checkpoint, tmp_path):
    named = "0_Transformer" if " " in inner else inner
    source = old_layout(checkpoint, tmp_path / "source", named)
    if " " in inner:
        (source / "modules.json").unlink()
    options: dict[str, Any] = {"subfolder": named} if passed == "subfolder" else {}
    place = source / named if passed == "inner" else source
    report = convert(str(place), tmp_path / "tower", family="qwen3", **options)
    plain = convert(str(checkpoint), tmp_path / "plain", family="qwen3")
    assert report["digest"] == plain["digest"]
    files = {"config.json", "tokenizer_config.json", "1_Pooling/config.json", "modules.json"}
    if " " in inner:
        files.remove("modules.json")
    assert set(report["files"]) == files
    if "modules.json" in files:
        # Its files lie beside modules.json from now on, and so does the export.
        written = json.loads((tmp_path / "tower" / "modules.json").read_text())
        assert [one["path"] for one in written] == ["", "1_Pooling"]


def test_a_folder_with_weights_is_read_itself(checkpoint, tmp_path):
    source = shutil.copytree(checkpoint, tmp_path / "source")
    old_layout(make_checkpoint("qwen3", tmp_path / "other", seed=1), source)
    (source / "modules.json").unlink()
    report = convert(str(source), tmp_path / "tower", family="qwen3")
    plain = convert(str(checkpoint), tmp_path / "plain", family="qwen3")
    assert report["digest"] == plain["digest"]
    inner = convert(str(source), tmp_path / "in", family="qwen3", subfolder="0_Transformer")
    assert inner["digest"] != plain["digest"]


def refused(source: object, place: Path, capsys: Any, *parts: str, more: tuple = ()) -> None:
    command = ["qwen3", str(source), str(place / "tower"), *more]
    assert run_command(main, command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in parts:
        assert part.lower() in line.lower(), line
    assert not (place / "tower").exists()


def test_a_subfolder_that_is_not_there_is_refused(checkpoint, tmp_path, capsys):
    source = old_layout(checkpoint, tmp_path / "source")
    more = ("--subfolder", "text")
    refused(source, tmp_path, capsys, "has no folder 'text'", "0_Transformer", more=more)
    more = ("--subfolder", "../source/0_Transformer/..")
    convert(str(source), tmp_path / "fine", family="qwen3", subfolder=more[1])
    more = ("--subfolder", "..")
    refused(source, tmp_path, capsys, "expected a folder inside the source", more=more)


@pytest.mark.parametrize(
    ("names", "part"),
    FORMATS,
)
@pytest.mark.parametrize("config", [True, False])
def test_other_formats_are_named(names, part, config, tmp_path, capsys):
    source = tmp_path / "source"
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"x")
    if config:
        write_config("qwen3", source / "config.json")
    (source / "README.md").write_text("---\nbase_model:\n- Qwen/Qwen3-Embedding-0.6B\n---\n# Q8\n")
    refused(source, tmp_path, capsys, part, "expected safetensors", "Qwen/Qwen3-Embedding-0.6B")
    # The file itself may be passed as well.
    if "/" not in names[0]:
        refused(source / names[0], tmp_path, capsys, part, "Qwen/Qwen3-Embedding-0.6B")


@pytest.mark.parametrize(
    ("changes", "part"),
    QUANTISED,
)
def test_quantised_weights_are_named_by_their_method(changes, part, checkpoint, tmp_path, capsys):
    source = shutil.copytree(checkpoint, tmp_path / "source")
    # Tensors of no float dtype, which must not be what is said.
    tensors = load_file(source / "model.safetensors") | {"layers.0.qweight": np.ones(3, np.int32)}
    save_file(tensors, source / "model.safetensors")
    base = {"_name_or_path": "Qwen/Qwen3-Embedding-4B"}
    write_config("qwen3", source / "config.json", **changes, **base)
    refused(source, tmp_path, capsys, part, "config.json", "Qwen/Qwen3-Embedding-4B")


@pytest.mark.parametrize(
    ("key", "dtype", "part"),
    QUANTISED_TENSORS,
)
def test_quantised_tensors_tell_where_the_config_does_not(
    key, dtype, part, checkpoint, tmp_path, capsys
):
    source = shutil.copytree(checkpoint, tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    save_file(tensors | {key: np.ones(3, dtype)}, source / "model.safetensors")
    refused(source, tmp_path, capsys, part, f"{key} is of dtype")


def test_a_pointer_of_git_lfs_is_named(checkpoint, tmp_path, capsys):
    source = shutil.copytree(checkpoint, tmp_path / "source")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (source / "model.safetensors").write_text(pointer)
    refused(source, tmp_path, capsys, "is a Git LFS pointer", "git lfs pull")


def test_a_weight_file_alone_names_its_folder(checkpoint, tmp_path, capsys):
    file = checkpoint / "model.safetensors"
    refused(file, tmp_path, capsys, "is a file, expected", f"pass its folder, {checkpoint}")
