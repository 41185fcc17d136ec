"""The folder that the paper's own code saves: its oracles, its way back, and what is refused."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from descriptions import unsealed
from oolel_cases import DIMS, ERRORS, KINDS, PUBLISHED, REFUSED, oracle, rewrite
from published import edit_json
from safetensors.numpy import load_file, save_file

from converters.__main__ import main
from converters.oolel_embed import convert_oolel_embed
from mrl_jax.checkpoints.checksum_command import main as checksum
from mrl_jax.checkpoints.models import read_model_info, save_model
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.inference.embedder import Embedder

pytestmark = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="needs the published folders")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Both folders converted by the command, to be left as they are."""
    root = tmp_path_factory.mktemp("models")
    for mode in KINDS:
        assert main(["oolel-embed", str(PUBLISHED / mode), str(root / mode)]) == 0
    return {mode: root / mode for mode in KINDS}


@pytest.mark.parametrize("mode", KINDS)
def test_what_the_published_code_computed_comes_out(mode, models):
    info = read_model_info(models[mode])
    assert (info.kind, info.padding, info.dims) == (KINDS[mode], "reference", DIMS)
    wave, expected = oracle(mode)
    assert ERRORS[mode](models[mode], wave, expected) < 1e-4
    assert ERRORS[mode](models[mode], wave[::-1].copy(), expected) > 1e-2


@pytest.mark.parametrize("mode", KINDS)
def test_the_model_embeds_a_raw_clip_and_texts(mode, models):
    embedder = Embedder.load(models[mode])
    wave, expected = oracle(mode)
    row = expected[0 if mode == "lf" else 2, :256]
    speech = embedder.embed_speech([(wave * 0.1, 16_000)], dim=256)
    np.testing.assert_allclose(speech[0], row / np.linalg.norm(row), atol=1e-4)
    text = embedder.embed_text(["fan la dugub di jaaye", "dugub"], dim=256)
    assert text.shape == (2, 256)
    assert np.abs(text[0] - text[1]).max() > 1e-3


@pytest.mark.parametrize("mode", KINDS)
def test_export_gives_every_file_back_to_the_byte(mode, models, tmp_path):
    out = tmp_path / "out"
    assert main(["export", str(models[mode]), str(out)]) == 0
    for name in ("hubert_mrl", "oolel_mrl"):
        before, after = files(PUBLISHED / mode / name), files(out / name)
        assert sorted(before) == sorted(after)
        assert [key for key in before if before[key] != after[key]] == []
    again = convert_oolel_embed(str(out), tmp_path / "again")
    info = read_model_info(models[mode])
    assert again["head_digest"] == f"sha256:{info.head_digest}"
    assert read_model_info(tmp_path / "again").digest == info.digest


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_bfloat16_head_comes_back_in_bfloat16(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    source = shutil.copytree(PUBLISHED / "lf", tmp_path / "source")
    for name in ("hubert_mrl", "oolel_mrl"):
        rewrite(source / name, lambda t: {k: v.astype(ml_dtypes.bfloat16) for k, v in t.items()})
        edit_json(source / name / "config.json", dtype="bfloat16")
    convert_oolel_embed(str(source), tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out")]) == 0
    before = (source / "hubert_mrl" / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "hubert_mrl" / "model.safetensors").read_bytes() == before
    # A head that bfloat16 does not hold stays in float32, whatever its tower is.
    convert_oolel_embed(str(PUBLISHED / "lf"), tmp_path / "cut", dtype="bfloat16")
    assert main(["export", str(tmp_path / "cut"), str(tmp_path / "cut-out")]) == 0
    head = load_file(tmp_path / "cut-out" / "hubert_mrl" / "model.safetensors")
    original = load_file(PUBLISHED / "lf" / "hubert_mrl" / "model.safetensors")
    np.testing.assert_array_equal(head["projector.weight"], original["projector.weight"])
    assert head["hubert.encoder.layer_norm.bias"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("order", ["speech first", "text first"])
def test_the_two_folders_may_be_named_and_called_anything(order, models, tmp_path):
    shutil.copytree(PUBLISHED / "clip" / "hubert_mrl", tmp_path / "ears")
    shutil.copytree(PUBLISHED / "clip" / "oolel_mrl", tmp_path / "pages" / "text")
    pair = [str(tmp_path / "ears"), str(tmp_path / "pages" / "text")]
    named = pair if order == "speech first" else pair[::-1]
    assert main(["oolel-embed", *named, str(tmp_path / "model")]) == 0
    assert read_model_info(tmp_path / "model").digest == read_model_info(models["clip"]).digest
    report = json.loads((tmp_path / "model" / "report.json").read_text())
    assert report["source"] == " and ".join(named)
    assert sorted(report["source_digests"]) == ["ears/model.safetensors", "text/model.safetensors"]
    assert report["prefixes"] == {"speech": "hubert.", "text": ""}


def test_the_text_tower_may_lie_in_a_folder_of_its_own(models, tmp_path):
    source = shutil.copytree(PUBLISHED / "lf", tmp_path / "source")
    text = source / "oolel_mrl"
    (text / "0_Transformer").mkdir()
    for path in [p for p in text.iterdir() if p.is_file() and "sentence_tr" not in p.name]:
        if path.name != "modules.json":
            path.rename(text / "0_Transformer" / path.name)
    modules = json.loads((text / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (text / "modules.json").write_text(json.dumps(modules))
    convert_oolel_embed(str(source), tmp_path / "model")
    assert read_model_info(tmp_path / "model").digest == read_model_info(models["lf"]).digest
    assert json.loads((tmp_path / "model/text/modules.json").read_text())[0]["path"] == ""


@pytest.mark.parametrize("case", REFUSED)
def test_folders_that_do_not_fit_are_refused(case, tmp_path, capsys):
    source = shutil.copytree(PUBLISHED / "lf", tmp_path / "source")
    change, parts = REFUSED[case]
    change(source)
    refused([source], tmp_path, capsys, parts)


@pytest.mark.parametrize("mode", KINDS)
def test_the_speech_half_is_no_tower_alone(mode, tmp_path, capsys):
    source = PUBLISHED / mode / "hubert_mrl"
    assert run_command(main, ["hubert", str(source), str(tmp_path / "tower")]) == 2
    line = capsys.readouterr().err
    assert f"is the speech half of a {KINDS[mode]} model" in line
    assert "convert oolel-embed SPEECH TEXT OUT" in line
    assert not (tmp_path / "tower").exists()


@pytest.mark.parametrize("mode", KINDS)
def test_both_towers_are_verified_against_their_own_folders(mode, models):
    for name, half in (("speech", "hubert_mrl"), ("text", "oolel_mrl")):
        tower, source = models[mode] / name, PUBLISHED / mode / half
        assert main(["verify", str(tower), str(source)]) == 0
    with pytest.raises(MrlError, match="is a whole model, expected one of its towers"):
        main(["verify", str(models[mode]), str(PUBLISHED / mode)])


@pytest.mark.parametrize("half", ["hubert_mrl", "oolel_mrl"])
def test_one_half_alone_is_refused(half, tmp_path, capsys):
    kind = {"hubert_mrl": "speech", "oolel_mrl": "text"}[half]
    parts = (f"is the {kind} tower's folder alone", "the folder above", "SPEECH TEXT OUT")
    refused([PUBLISHED / "lf" / half], tmp_path, capsys, parts)


def test_pairs_that_are_none_are_refused(tmp_path, capsys):
    lf = PUBLISHED / "lf"
    text = [lf / "oolel_mrl", PUBLISHED / "clip" / "oolel_mrl"]
    refused(text, tmp_path, capsys, ("both folders are text towers", "one of speech"))
    refused([lf / "hubert_mrl", lf], tmp_path, capsys, ("neither a speech tower's nor a text",))
    three = [lf / "hubert_mrl", *text]
    refused(three, tmp_path, capsys, ("3 sources are named, expected one folder or two",))


def test_a_dense_layer_of_the_text_half_narrows_the_vectors(tmp_path, capsys):
    for mode in ("lf", "clip"):
        text = tmp_path / mode / "oolel_mrl"
        shutil.copytree(PUBLISHED / mode, tmp_path / mode, copy_function=shutil.copyfile)
        width = json.loads((text / "config.json").read_text())["hidden_size"]
        (text / "2_Dense").mkdir()
        fields = {"in_features": width, "out_features": 200, "bias": False}
        fields["activation_function"] = "torch.nn.modules.linear.Identity"
        (text / "2_Dense" / "config.json").write_text(json.dumps(fields))
        kernel = np.random.default_rng(0).normal(size=(200, width)).astype(np.float32)
        save_file({"linear.weight": kernel}, text / "2_Dense" / "model.safetensors")
        modules = json.loads((text / "modules.json").read_text())
        dense = {**modules[1], "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
        (text / "modules.json").write_text(json.dumps([*modules[:2], dense, *modules[2:]]))
    assert convert_oolel_embed(str(tmp_path / "lf"), tmp_path / "model")["dims"] == [128]
    embedder = Embedder.load(tmp_path / "model")
    clip = np.random.default_rng(1).normal(size=8000).astype(np.float32)
    assert (
        embedder.embed_speech([(clip, 16_000)]).shape
        == embedder.embed_text(["mil"]).shape
        == (1, 200)
    )
    parts = ("layers.1024 gives 1024 numbers", "1 to 200, the width of the text tower's vectors")
    refused([tmp_path / "clip"], tmp_path, capsys, parts)


def test_what_is_assumed_of_its_audio_is_said(tmp_path, capsys):
    source = shutil.copytree(PUBLISHED / "lf", tmp_path / "source", copy_function=shutil.copyfile)
    for path in source.glob("hubert_mrl/*processor_config.json"):
        path.unlink()
    said = "the checkpoint says nothing of its audio: clips are normalised, at 16 kHz"
    assert run_command(main, ["oolel-embed", str(source), str(tmp_path / "model")]) == 0
    assert said in capsys.readouterr().out
    fields = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True}
    (source / "hubert_mrl" / "preprocessor_config.json").write_text(json.dumps(fields))
    assert run_command(main, ["oolel-embed", str(source), str(tmp_path / "other")]) == 0
    assert said not in capsys.readouterr().out


def test_a_folder_of_several_models_names_them(tmp_path, capsys):
    refused([PUBLISHED], tmp_path, capsys, ("holds several models, clip and lf", "pass one"))


def refused(sources: list[Path], place: Path, capsys: Any, parts: tuple[str, ...]) -> None:
    """One line on stderr, status 2, and nothing left behind."""
    before = sorted(os.listdir(place))
    command = ["oolel-embed", *map(str, sources), str(place / "model")]
    assert run_command(main, command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in parts:
        assert part.lower() in line.lower(), line
    assert sorted(os.listdir(place)) == before


@pytest.mark.parametrize(
    ("mode", "fusion", "part"),
    [
        ("lf", {"end_token": 1}, "pools the end token 1 behind the speech"),
        ("clip", {"nested": True}, "is a dual encoder with one nested layer"),
    ],
)
def test_a_model_that_the_published_code_cannot_run_is_not_exported(
    mode, fusion, part, models, tmp_path, capsys
):
    model = shutil.copytree(models[mode], tmp_path / "model")
    raw = json.loads((model / "model.json").read_text())
    changed = unsealed(model / "model.json", fusion={**raw["fusion"], **fusion})
    (model / "model.json").write_text(changed)
    assert run_command(main, ["export", str(model), str(tmp_path / "out")]) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_speech_tower_of_another_family_is_not_exported(models, tmp_path, capsys):
    model = shutil.copytree(models["lf"], tmp_path / "model")
    tower = model / "speech" / "tower.json"
    tower.write_text(unsealed(tower, kind="wav2vec2"))
    assert checksum(["--update", str(tower.parent)]) == 0
    speech = {"path": "speech", "digest": read_info(tower.parent).digest}
    (model / "model.json").write_text(unsealed(model / "model.json", speech=speech))
    assert run_command(main, ["export", str(model), str(tmp_path / "out")]) == 2
    assert "reads speech by wav2vec2, which the paper's own code" in capsys.readouterr().err


def test_a_trained_model_is_exported_with_its_new_head(models, tmp_path, capsys):
    """Towers from elsewhere, a learned temperature, prompts: the head is what counts."""
    model = shutil.copytree(models["lf"], tmp_path / "model")
    info = read_model_info(model)
    shapes = {
        "head.frame_projection.kernel": (576, 1024),
        "head.frame_downsample.kernel": (2, 1024, 1024),
        "head.frame_downsample.bias": (1024,),
        "log_temperature": (),
    }
    rng = np.random.default_rng(0)
    head = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    fields = {
        name: getattr(info, name)
        for name in ("kind", "speech", "text", "padding", "dims", "max_text_tokens", "step")
    }
    fusion = dataclasses.replace(info.fusion, learn_temperature=True)
    save_model(model, {**fields, "fusion": fusion, "prompts": {"qa": "Answer"}, "scores": {}}, head)
    edit_json(model / "speech" / "config.json", architectures=["HubertModel"])
    assert checksum(["--update", str(model / "speech")]) == 0
    assert run_command(main, ["export", str(model), str(tmp_path / "out")]) == 0
    assert "nothing of the prompts of qa" in capsys.readouterr().out
    speech = tmp_path / "out" / "hubert_mrl"
    written = load_file(speech / "model.safetensors")
    np.testing.assert_array_equal(
        written["projector.weight"], head["head.frame_projection.kernel"].T
    )
    assert "log_temperature" not in written
    assert json.loads((speech / "config.json").read_text())["architectures"] == ["HubertMatryoshka"]
