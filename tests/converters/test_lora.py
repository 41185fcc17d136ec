"""LoRA adapters of PEFT merged into a Qwen3 tower, and all that is refused by name."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_cases import FIELDS, FILES, MERGED, Q0
from published import edit_json
from safetensors.numpy import load_file, save_file
from tiny_adapter import merged_tensors, save_adapter
from tiny_checkpoints import make_checkpoint

from converters.__main__ import main
from converters.convert import convert
from converters.export import export
from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A checkpoint, to be left as it is."""
    return make_checkpoint("qwen3", tmp_path_factory.mktemp("base") / "tiny")


def exported(base: Path, adapter: Path, place: Path, **options: Any) -> dict[str, np.ndarray]:
    """The tensors of the merged tower."""
    convert(str(base), place / "tower", family="qwen3", adapter=str(adapter), **options)
    export(place / "tower", place / "exported")
    return load_file(place / "exported" / "model.safetensors")


@pytest.mark.parametrize("case", MERGED)
def test_the_weights_are_the_sums(case, base, tmp_path):
    options, scale = MERGED[case]
    adapter = save_adapter(tmp_path / "adapter", **options)
    ours = exported(base, adapter, tmp_path)
    expected = merged_tensors(base, adapter, scale)
    assert sorted(ours) == sorted(expected)
    for key, tensor in expected.items():
        np.testing.assert_allclose(ours[key], tensor, atol=1e-6, err_msg=key)
    before = load_file(base / "model.safetensors")
    changed = {key for key in ours if not np.array_equal(ours[key], before[key])}
    layers = options.get("layers", 2)
    modules = options.get("modules", ("self_attn.q_proj", "mlp.down_proj"))
    assert changed == {f"layers.{n}.{m}.weight" for n in range(layers) for m in modules}
    wrong = merged_tensors(base, adapter, scale / 2)["layers.0.self_attn.q_proj.weight"]
    assert np.abs(ours["layers.0.self_attn.q_proj.weight"] - wrong).max() > 1e-2


def test_the_merged_tower_is_verified_against_torch(base, tmp_path, capsys):
    pytest.importorskip("transformers")
    adapter = save_adapter(tmp_path / "adapter", use_rslora=True)
    tower = tmp_path / "tower"
    assert main(["qwen3", str(base), str(tower), "--adapter", str(adapter)]) == 0
    out = capsys.readouterr().out
    assert "note: the adapter was made for org/tiny" not in out  # The folder is called tiny.
    assert main(["verify", str(tower), str(base), "--adapter", str(adapter)]) == 0
    # Without it, the tool says why, and with another it is not the same model.
    assert run_command(main, ["verify", str(tower), str(base)]) == 2
    assert f"was made with an adapter, {adapter}" in capsys.readouterr().err
    other = save_adapter(tmp_path / "other", seed=1)
    assert main(["verify", str(tower), str(base), "--adapter", str(other)]) == 1
    report = json.loads((tower / "report.json").read_text())
    assert report["adapter"]["scale"] == 3
    assert report["adapter"]["base"] == "org/tiny"
    assert list(report["adapter"]["source_digests"]) == ["adapter_model.safetensors"]


def test_an_adapter_beside_its_base_is_merged_only_if_it_is_named(base, tmp_path, capsys):
    beside = shutil.copytree(base, tmp_path / "beside")
    save_adapter(beside)
    command = ["qwen3", str(beside), str(tmp_path / "tower")]
    assert run_command(main, command) == 2
    line = capsys.readouterr().err
    assert "holds a LoRA adapter beside the weights, which would be left out" in line
    assert f"--adapter {beside}" in line
    assert not (tmp_path / "tower").exists()
    assert main([*command, "--adapter", str(beside)]) == 0
    # The merged tower goes back without the adapter, which would be added a second time.
    assert not (tmp_path / "tower" / "adapter_config.json").exists()
    other = save_adapter(tmp_path / "other")
    again = [*command[:2], str(tmp_path / "again"), "--adapter", str(other)]
    assert run_command(main, again) == 2
    assert "beside the weights" in capsys.readouterr().err
    pytest.importorskip("transformers")
    verify = ["verify", str(tmp_path / "tower"), str(beside), "--adapter", str(beside)]
    assert main(verify) == 0


def test_an_adapter_alone_is_refused_with_the_command_that_helps(tmp_path, capsys):
    adapter = save_adapter(tmp_path / "adapter")
    for family in ("qwen3", "hubert"):
        assert run_command(main, [family, str(adapter), str(tmp_path / "tower")]) == 2
        line = capsys.readouterr().err
        assert "is a LoRA adapter without its base model, org/tiny" in line
        helps = f"convert qwen3 org/tiny OUT --adapter {adapter}"
        assert (helps if family == "qwen3" else "merge_and_unload") in line


def test_bfloat16_sums_are_rounded_once_and_it_is_said(base, tmp_path, capsys):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    half = shutil.copytree(base, tmp_path / "half")
    tensors = load_file(base / "model.safetensors")
    narrow = {key: tensor.astype(ml_dtypes.bfloat16) for key, tensor in tensors.items()}
    save_file(narrow, half / "model.safetensors")
    adapter = save_adapter(tmp_path / "adapter")
    command = ["qwen3", str(half), "--adapter", str(adapter)]
    assert main([*command, str(tmp_path / "tower")]) == 0
    out = capsys.readouterr().out
    assert "rounded to bfloat16" in out
    assert "was made for org/tiny; that" in out
    expected = merged_tensors(half, adapter, 6 / 4)
    export(tmp_path / "tower", tmp_path / "exported")
    ours = load_file(tmp_path / "exported" / "model.safetensors")
    key = "layers.1.mlp.down_proj.weight"
    assert ours[key].dtype == ml_dtypes.bfloat16
    rounded = expected[key].astype(ml_dtypes.bfloat16)
    # Sums within an error of float32 from the middle between two numbers may go either way.
    assert np.mean(ours[key] == rounded) > 0.99
    np.testing.assert_allclose(ours[key].astype(np.float32), expected[key], rtol=2**-8)
    assert main([*command, str(tmp_path / "whole"), "--dtype", "float32"]) == 0
    assert "rounded to" not in capsys.readouterr().out
    export(tmp_path / "whole", tmp_path / "whole-exported")
    whole = load_file(tmp_path / "whole-exported" / "model.safetensors")
    np.testing.assert_allclose(whole[key], expected[key], atol=1e-6)


def test_a_pickled_adapter_is_read(base, tmp_path):
    torch = pytest.importorskip("torch")
    adapter = save_adapter(tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").rename(tmp_path / "kept.safetensors")
    torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, adapter / "adapter_model.bin")
    ours = exported(base, adapter, tmp_path)
    (tmp_path / "kept.safetensors").rename(adapter / "adapter_model.safetensors")
    expected = merged_tensors(base, adapter, 6 / 4)
    for key, tensor in expected.items():
        np.testing.assert_allclose(ours[key], tensor, atol=1e-6)


def refused(base: Path, adapter: object, place: Path, capsys: Any, parts: tuple[str, ...]) -> None:
    before = sorted(os.listdir(place))
    command = ["qwen3", str(base), str(place / "tower"), "--adapter", str(adapter)]
    assert run_command(main, command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in parts:
        assert part.lower() in line.lower(), line
    assert sorted(os.listdir(place)) == before


@pytest.mark.parametrize("case", FIELDS)
def test_what_is_not_merged_is_refused_by_its_field(case, base, tmp_path, capsys):
    changes, parts = FIELDS[case]
    adapter = save_adapter(tmp_path / "adapter")
    edit_json(adapter / "adapter_config.json", **changes)
    refused(base, adapter, tmp_path, capsys, parts)


LEFT_OUT: dict[str, dict[str, Any]] = {
    "a list": {"target_modules": ["q_proj"]},
    "a pattern": {"target_modules": r"(model\.)?layers\.\d+\.self_attn\.q_proj"},
    "excluded": {"exclude_modules": ["down_proj"]},
    "other layers": {"layers_to_transform": [0]},
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_pairs_that_peft_would_leave_out_are_refused(case, base, tmp_path, capsys):
    # PEFT makes the layers that the config names, and ignores the other tensors of the file.
    adapter = save_adapter(tmp_path / "adapter")
    edit_json(adapter / "adapter_config.json", **LEFT_OUT[case])
    parts = ("adapter_model.safetensors: is for layers.", "which adapter_config.json leaves out")
    refused(base, adapter, tmp_path, capsys, parts)


def test_layers_that_a_pattern_names_are_missed(base, tmp_path, capsys):
    adapter = save_adapter(tmp_path / "adapter", layers=1)
    edit_json(adapter / "adapter_config.json", target_modules=r".*(q|down)_proj")
    parts = ("the adapter has nothing for layers.1.mlp.down_proj",)
    refused(base, adapter, tmp_path, capsys, parts)
    edit_json(adapter / "adapter_config.json", target_modules="(q_proj")
    refused(base, adapter, tmp_path, capsys, ("'(q_proj' is no regular expression",))
    edit_json(adapter / "adapter_config.json", target_modules=7)
    refused(base, adapter, tmp_path, capsys, ("names layers by 7, expected a list or a text",))


@pytest.mark.parametrize("case", FILES)
def test_tensors_without_a_place_are_refused_by_name(case, base, tmp_path, capsys):
    change, parts = FILES[case]
    adapter = save_adapter(tmp_path / "adapter")
    change(adapter)
    refused(base, adapter, tmp_path, capsys, parts)


def test_an_adapter_of_whole_numbers_is_refused(base, tmp_path, capsys):
    adapter = save_adapter(tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    whole = {name: tensor.astype(np.int32) for name, tensor in load_file(file).items()}
    save_file(whole, file)
    command = ["qwen3", str(base), str(tmp_path / "tower"), "--adapter", str(adapter)]
    assert run_command(main, command) == 2
    assert "is of dtype I32, expected one of F32" in capsys.readouterr().err
    assert not (tmp_path / "tower").exists()


def test_an_adapter_of_another_base_is_refused(base, tmp_path, capsys):
    adapter = save_adapter(tmp_path / "adapter", layers=1)
    parts = ("is for another base: the adapter has nothing for layers.1.", "1 more like these")
    refused(base, adapter, tmp_path, capsys, parts[:1])
    wide = make_checkpoint("qwen3", tmp_path / "wide", num_attention_heads=8)
    adapter = save_adapter(tmp_path / "adapter")
    refused(wide, adapter, tmp_path, capsys, (f"{Q0} is (128, 32) in the base and (64, 32)",))
    # Of the same sizes, and with the true base still there to compare.
    other = make_checkpoint("qwen3", tmp_path / "other", seed=1)
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=str(base))
    parts = (f"was made for the base {base}", f"{other} has other weights", "pass the base that")
    refused(other, adapter, tmp_path, capsys, parts)
    copy = shutil.copytree(base, tmp_path / "copy")
    exported(copy, adapter, tmp_path)


@pytest.mark.parametrize(
    ("named", "passed", "same"),
    [
        ("org/tiny", "org/tiny", True),
        ("mirror/Tiny", "org/tiny", True),
        ("unsloth/tiny-unsloth-bnb-4bit", "org/tiny", True),
        ("org/tiny-base", "org/tiny", False),
        ("org/tiny", "org/tiny-base", False),
    ],
)
def test_a_base_from_the_hub_must_be_the_one_that_the_adapter_names(
    named, passed, same, base, tmp_path
):
    snapshot = tmp_path / f"models--{passed.replace('/', '--')}" / "snapshots" / ("0" * 40)
    shutil.copytree(base, snapshot)
    adapter = save_adapter(tmp_path / "adapter", base_model_name_or_path=named)
    if same:
        exported(snapshot, adapter, tmp_path)
        return
    with pytest.raises(MrlError, match=f"for the base {named}, and the base passed is {passed}"):
        exported(snapshot, adapter, tmp_path)


def test_what_the_adapters_folder_says_of_embedding_is_not_dropped_in_silence(
    base, tmp_path, capsys
):
    source = shutil.copytree(base, tmp_path / "tiny")
    adapter = save_adapter(tmp_path / "adapter")
    for folder, pooling in ((source, "lasttoken"), (adapter, "mean")):
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
        (folder / "tokenizer_config.json").write_text("{}")
    main(["qwen3", str(source), str(tmp_path / "tower"), "--adapter", str(adapter)])
    said = [line for line in capsys.readouterr().out.splitlines() if "adapter's folder" in line]
    assert len(said) == 1
    assert "1_Pooling/config.json" in said[0]
    assert "tokenizer_config.json" not in said[0]


def test_a_missing_adapter_is_one_line(base, tmp_path, capsys):
    gone = tmp_path / "gone"
    refused(base, gone, tmp_path, capsys, ("gone: no such folder", "a LoRA adapter"))
    speech = make_checkpoint("hubert", tmp_path / "speech")
    save_adapter(speech)
    assert run_command(main, ["hubert", str(speech), str(tmp_path / "tower")]) == 2
    assert "merge_and_unload" in capsys.readouterr().err
