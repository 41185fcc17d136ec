"""Every family of speech checkpoints: recognised, verified, and exported to the byte."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speech_families
from published import edit_json, save, torch_qwen3
from speech_families import CASES, assert_same_tensors, read_tensors
from tiers import mostly_slow

from converters.__main__ import main
from converters.convert import convert
from converters.export import export
from mrl_jax.checkpoints.towers import read_checked_weights, read_info
from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """root/source, root/tower and root/exported by name, made when first asked for."""

    @functools.cache
    def make(name: str) -> Path:
        root = tmp_path_factory.mktemp("family")
        speech_families.make_checkpoint(name, root / "source")
        assert run_command(main, ["speech", str(root / "source"), str(root / "tower")]) == 0
        export(root / "tower", root / "exported")
        return root

    return make


@pytest.mark.parametrize("name", CASES)
def test_export_gives_back_every_byte(name, made):
    assert_same_tensors(read_tensors(made(name) / "exported"), read_tensors(made(name) / "source"))


@pytest.mark.parametrize("name", CASES)
def test_the_family_and_what_no_encoder_computes_with_are_found(name, made):
    case, info = CASES[name], read_info(made(name) / "tower")
    kind = {"Wav2Vec2": "wav2vec2", "UniSpeechSat": "unispeech_sat"}.get(case.name)
    assert info.kind == (kind or case.name.lower()) + ("_ctc" if case.ctc else "")
    unused = {path.split(".")[0] for path in info.groups.get("unused_tensors", {})}
    batch_norm = {"position_norm"} if case.fields.get("conv_pos_batch_norm") else set()
    assert unused - {"masked_spec_embed"} == set(case.heads) | batch_norm
    assert info.dtype == "float32"


@pytest.mark.parametrize("name", [name for name in CASES if name != "contentvec"])
def test_an_export_loads_in_transformers_and_computes_the_same(name, made):
    model_type = getattr(transformers, CASES[name].name + CASES[name].head)
    model, info = model_type.from_pretrained(made(name) / "exported", output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[problem], problem
    original = model_type.from_pretrained(made(name) / "source")
    clip = torch.randn((1, 4000), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = (m.eval().base_model(clip)[0] for m in (model, original))
    assert torch.equal(ours, theirs)


VERIFIED = [
    "wav2vec2-base",
    "wav2vec2-base pre-trained",
    "xlsr-53 ctc",
    "mms-1b-all",
    "mms-lid",
    "unispeech-sat pre-trained",
    "unispeech-sat ctc",
    "wavlm-large",
    "wavlm ctc",
    "hubert batch norm, ctc",
    "hubert emotions",
]


@pytest.mark.parametrize("name", mostly_slow(VERIFIED, quick=3))
def test_the_certificate_holds(name, made, tmp_path, capfd):
    root = made(name)
    tower = shutil.copytree(root / "tower", tmp_path / "tower")
    assert run_command(main, ["verify", str(tower), str(root / "source")]) == 0
    certificate = json.loads((tower / "verification.json").read_text())
    last = "logits" if CASES[name].ctc else "output"
    states = ["samples", "input", "layer 1", "layer 2", "layer 3", last]
    assert list(certificate["errors"]) == states
    assert 0 < max(certificate["errors"].values()) <= 1e-5


@pytest.mark.parametrize("name", mostly_slow(["wavlm-base", "mhubert-147"]))
def test_a_bfloat16_tower_is_held_against_bfloat16_weights(name, made, tmp_path):
    source = made(name) / "source"
    convert(str(source), tmp_path / "tower", family="speech", dtype="bfloat16")
    info = read_info(tmp_path / "tower")
    assert info.dtype == "bfloat16"
    assert run_command(main, ["verify", str(tmp_path / "tower"), str(source)]) == 0
    counter = read_checked_weights(tmp_path / "tower", info)["unused_tensors"]
    if name == "mhubert-147":
        assert counter["position_norm.num_batches_tracked"] == 2**40 + 3


@pytest.mark.slow
def test_changed_tensors_of_a_family_are_found(made, tmp_path, capfd):
    """A few changed numbers of the gate, the bias, the statistics and the adapter each."""
    for name, part in (
        ("wavlm-large", "layers.1.attention.gru_rel_pos_const"),
        ("wavlm-large", "rel_attn_embed.weight"),
        ("mhubert-147", "batch_norm.running_var"),
        ("mms-1b-all", "layers.1.adapter_layer.linear_1.bias"),
    ):
        source = shutil.copytree(made(name) / "source", tmp_path / name, dirs_exist_ok=True)
        tensors = read_tensors(source)
        key = next(key for key in tensors if key.endswith(part))
        # A bias that moves for every distance alike would leave the softmax as it is.
        tensors[key].reshape(-1)[:3] += 0.5
        speech_families.save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
        tower = shutil.copytree(made(name) / "tower", tmp_path / "tower", dirs_exist_ok=True)
        capfd.readouterr()
        assert run_command(main, ["verify", str(tower), str(source)]) == 1, part
        assert "not the model of" in capfd.readouterr().err
        shutil.rmtree(tower)


@pytest.mark.parametrize(
    "name", mostly_slow(["wav2vec2-base", "mms-1b-all", "unispeech-sat-large", "wavlm-base"])
)
def test_random_weights_load_in_transformers(name, made, tmp_path):
    """By the family's name and by "speech"; the seed says the bytes."""
    raw = json.loads((made(name) / "source" / "config.json").read_text()) | {"mask_time_prob": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    argv = ["random-init", "speech", str(tmp_path / "config.json"), str(tmp_path / "made")]
    assert run_command(main, argv) == 0
    model_type = getattr(transformers, f"{CASES[name].name}Model")
    _, info = model_type.from_pretrained(tmp_path / "made", output_loading_info=True)
    # A vector for masked frames, which this class has whatever the config says of masks.
    assert info["missing_keys"] <= ({"masked_spec_embed"} if "unispeech" in name else set())
    assert not info["unexpected_keys"]
    convert(str(tmp_path / "made"), tmp_path / "tower", family="speech")
    assert run_command(main, ["verify", str(tmp_path / "tower"), str(tmp_path / "made")]) == 0


# Refusals.


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    capsys.readouterr()
    assert run_command(main, [str(word) for word in argv]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_another_family_is_refused_with_the_command_that_finds_it(made, tmp_path, capsys):
    err = refused(capsys, "hubert", made("wavlm-base") / "source", tmp_path / "tower")
    assert "model_type is 'wavlm', and only 'hubert' is supported here" in err
    assert "mrl-jax convert speech" in err
    text = save(torch_qwen3(), tmp_path / "text")
    err = refused(capsys, "speech", text, tmp_path / "tower")
    assert "model_type is 'qwen3'" in err
    assert "mrl-jax convert qwen3" in err
    assert not (tmp_path / "tower").exists()


@pytest.mark.parametrize("model_type", ["data2vec-audio", "wav2vec2-conformer", None, ["hubert"]])
def test_what_is_no_family_here_is_refused(model_type, made, tmp_path, capsys):
    source = shutil.copytree(made("wav2vec2-base") / "source", tmp_path / "source")
    edit_json(source / "config.json", model_type=model_type)
    err = refused(capsys, "speech", source, tmp_path / "tower")
    assert f"model_type is {model_type!r}, and the speech towers supported here are hubert" in err
    for known in ("XLS-R, MMS", "unispeech-sat", "wavlm"):
        assert known in err


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("wav2vec2-base", {"add_adapter": True}, "add_adapter is True"),
        ("wavlm-base", {"num_buckets": 2}, "position_buckets is 2"),
        ("wavlm-base", {"max_bucket_distance": 1}, "position_distance is 1"),
        ("mms-1b-all", {"adapter_attn_dim": 0}, "adapter_attn_dim is 0"),
        ("mms-1b-all", {"adapter_attn_dim": None}, "unknown: wav2vec2.encoder.layers.0.adapter"),
        ("mms-1b-all", {"adapter_attn_dim": 16}, "misshapen"),
        ("mhubert-147", {"conv_pos_batch_norm": False}, "unknown: encoder.pos_conv_embed.batch"),
        ("wav2vec2-base", {"conv_pos_batch_norm": True}, None),
        ("wav2vec2-base", {"feat_proj_layer_norm": False}, None),
        ("wav2vec2-base", {"adapter_attn_dim": 8}, None),
    ],
)
def test_fields_of_a_config(name, changes, message, made, tmp_path, capsys):
    """Refused by name, or as transformers' class of that family reads them: not at all."""
    source = shutil.copytree(made(name) / "source", tmp_path / "source")
    edit_json(source / "config.json", **changes)
    if message is None:
        report = convert(str(source), tmp_path / "tower", family="speech")
        assert report["digest"] == f"sha256:{read_info(made(name) / 'tower').digest}"
        return
    assert message in refused(capsys, "speech", source, tmp_path / "tower")
    assert not (tmp_path / "tower").exists()


def test_whole_numbers_are_no_weights(made, tmp_path):
    source = shutil.copytree(made("mhubert-147") / "source", tmp_path / "source")
    tensors = read_tensors(source)
    tensors["encoder.layer_norm.bias"] = tensors["encoder.layer_norm.bias"].astype(np.int64)
    speech_families.save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MrlError, match=r"encoder\.layer_norm\.bias is of dtype I64"):
        convert(str(source), tmp_path / "tower", family="speech")


def test_a_pickled_batch_norm_is_the_same_tower(made, tmp_path):
    source = shutil.copytree(made("mhubert-147") / "source", tmp_path / "source")
    tensors: dict[str, Any] = {k: torch.from_numpy(v) for k, v in read_tensors(source).items()}
    (source / "model.safetensors").unlink()
    torch.save(tensors, source / "pytorch_model.bin")
    report = convert(str(source), tmp_path / "tower", family="speech")
    assert report["digest"] == f"sha256:{read_info(made('mhubert-147') / 'tower').digest}"
