"""The certificate: it holds for what was converted, and only for that."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published import HUBERT_LARGE, edit_json, save, torch_hubert, torch_qwen3
from safetensors.numpy import load_file, save_file

from converters.__main__ import main
from converters.convert import convert
from mrl_jax.checkpoints.towers import read_checked_weights, read_info
from mrl_jax.core.cli import run_command

pytest.importorskip("torch")
pytest.importorskip("transformers")

LAYERS = ["layer 1", "layer 2"]
SMALL: dict[str, Any] = {"num_hidden_layers": 2}
MODELS: dict[str, tuple[str, Callable[[], Any], list[str]]] = {
    "qwen3": ("qwen3", lambda: torch_qwen3(**SMALL), ["input", *LAYERS, "output"]),
    "hubert": ("hubert", lambda: torch_hubert(**SMALL), ["samples", "input", *LAYERS, "output"]),
    "ctc": (
        "hubert",
        lambda: torch_hubert(ctc=True, **{**HUBERT_LARGE, **SMALL}),
        ["samples", "input", *LAYERS, "logits"],
    ),
}


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    usual = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, usual)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """A checkpoint and its tower by name, made when first asked for."""
    root = tmp_path_factory.mktemp("models")

    def make(name: str) -> tuple[Path, Path]:
        source, tower = root / name, root / f"{name}-tower"
        if not tower.exists():
            save(MODELS[name][1](), source)
            convert(str(source), tower, family=MODELS[name][0])
        return source, tower

    return make


def verify(*argv: object) -> int:
    return run_command(main, ["verify", *(str(arg) for arg in argv)])


@pytest.mark.parametrize("name", MODELS)
def test_the_certificate_holds_at_every_layer(name, models, tmp_path, capfd):
    source, original = models(name)
    tower = shutil.copytree(original, tmp_path / "tower")
    capfd.readouterr()  # transformers tells of its own savings.
    assert verify(tower, source) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "the same model: every state within 1e-05" in out
    certificate = json.loads((tower / "verification.json").read_text())
    assert certificate["holds"] is True
    assert list(certificate["errors"]) == MODELS[name][2]
    assert all(0 <= error <= 1e-5 for error in certificate["errors"].values())
    assert max(certificate["errors"].values()) > 0  # Two implementations, not one twice.
    assert all(state in out for state in certificate["errors"])
    assert certificate["tolerance"] == 1e-5
    assert certificate["digest"] == json.loads((tower / "report.json").read_text())["digest"]
    assert set(certificate["versions"]) == {"mrl_jax", "jax", "torch", "transformers"}
    assert not list(tower.glob(".*"))
    # A tolerance that no rounding meets: the same figures, and no certificate.
    if name == "qwen3":
        assert verify(tower, source, "--tolerance", "1e-12") == 1
        assert json.loads((tower / "verification.json").read_text())["holds"] is False


@pytest.mark.parametrize("name", ["qwen3", "ctc"])
def test_a_bfloat16_tower_is_held_against_bfloat16_weights(name, models, tmp_path):
    source, _ = models(name)
    tower = tmp_path / "tower"
    convert(str(source), tower, family=MODELS[name][0], dtype="bfloat16")
    assert verify(tower, source) == 0
    errors = json.loads((tower / "verification.json").read_text())["errors"]
    assert max(errors.values()) <= 1e-5


def test_one_changed_weight_is_found_and_its_layer_named(models, tmp_path, capfd):
    source, tower = models("hubert")
    changed = shutil.copytree(source, tmp_path / "changed")
    tensors = load_file(changed / "model.safetensors")
    tensors["encoder.layers.1.feed_forward.output_dense.weight"][3, 5] += 1.0
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    tower = tmp_path / "tower"
    convert(str(changed), tower, family="hubert")
    capfd.readouterr()
    assert verify(tower, source) == 1
    out, err = capfd.readouterr()
    assert err.count("\n") == 1
    assert err.startswith(f"error: {tower}: not the model of {source}: ")
    assert "layer 2" in err or "output" in err
    assert "layer 2" in out
    assert "too large" in out
    certificate = json.loads((tower / "verification.json").read_text())
    assert certificate["holds"] is False
    errors = certificate["errors"]
    # Below the changed layer everything agrees; from it on, nothing does.
    assert max(errors["input"], errors["layer 1"]) <= 1e-5 < errors["layer 2"]
    assert errors["output"] > 1e-5


def refused(capfd: pytest.CaptureFixture[str], *argv: object, parts: tuple[str, ...]) -> None:
    capfd.readouterr()
    status = verify(*argv)
    out, err = capfd.readouterr()
    assert (status, out) == (2, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def test_a_checkpoint_of_something_else_is_refused(models, tmp_path, capfd):
    source, tower = models("qwen3")
    speech, speech_tower = models("hubert")
    parts = (str(tower), "is a qwen3 tower", "model type 'hubert'", "Pass the checkpoint")
    refused(capfd, tower, speech, parts=parts)
    parts = (str(speech_tower), "is a hubert tower", "model type 'qwen3'")
    refused(capfd, speech_tower, source, parts=parts)
    other = shutil.copytree(source, tmp_path / "other")
    edit_json(other / "config.json", rms_norm_eps=1e-5)
    parts = ("has norm_epsilon 1e-06, and the checkpoint has 1e-05", "Pass the checkpoint")
    refused(capfd, tower, other, parts=parts)
    refused(capfd, source, source, parts=("tower.json: no such file", "Make a tower"))
    refused(capfd, tower, tmp_path / "missing", parts=("missing: no such folder",))
    assert not (tower / "verification.json").exists()


# Recordings.


def test_real_recordings_are_run_and_named(models, tmp_path, capfd):
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("librosa")
    source, original = models("hubert")
    tower = shutil.copytree(original, tmp_path / "tower")
    rng = np.random.default_rng(0)
    paths = [tmp_path / "a.wav", tmp_path / "b.flac"]
    soundfile.write(paths[0], rng.uniform(-0.5, 0.5, 5000), 16000)
    soundfile.write(paths[1], rng.uniform(-0.5, 0.5, (3000, 2)), 8000)  # Resampled and mixed.
    assert verify(tower, source, "--audio", *paths) == 0
    assert str(paths[1]) in capfd.readouterr().out
    certificate = json.loads((tower / "verification.json").read_text())
    assert certificate["inputs"] == f"{paths[0]}, {paths[1]}"
    assert max(certificate["errors"].values()) <= 1e-5


def test_recordings_that_cannot_be_embedded_are_refused(models, tmp_path, capfd):
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("librosa")
    source, tower = models("hubert")
    good = np.linspace(-0.5, 0.5, 1600, dtype=np.float32)
    holed = good.copy()
    holed[[7, 9]] = np.nan
    soundfile.write(tmp_path / "good.wav", good, 16000)
    soundfile.write(tmp_path / "nan.wav", holed, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "nan8k.wav", holed, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "inf.wav", np.where(holed > 0, np.inf, good), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", good[:399], 16000)
    soundfile.write(tmp_path / "empty.wav", good[:0], 16000)
    (tmp_path / "text.wav").write_text("not audio at all")
    (tmp_path / "zero.wav").write_bytes(b"")
    cases = {
        "nan.wav": ("2 of 1600 samples are NaN or infinite, the first is 7", "Correct"),
        "nan8k.wav": ("2 of 1600 samples are NaN or infinite, the first is 7",),
        "inf.wav": ("NaN or infinite", "Correct the recording"),
        "short.wav": ("has 399 samples, shorter than one frame of 400 (25 ms)", "Leave the clip"),
        "empty.wav": ("holds no samples",),
        "text.wav": ("cannot be decoded as audio", "Expected one of wav, flac"),
        "zero.wav": ("cannot be decoded as audio", "Expected one of wav, flac"),
        "missing.wav": ("no such file", "Check the path"),
    }
    for name, parts in cases.items():
        # The fault is named though it is not the first of the clips.
        argv = (tower, source, "--audio", tmp_path / "good.wav", tmp_path / name)
        refused(capfd, *argv, parts=(f"{tmp_path / name}: ", *parts))
    refused(capfd, tower, source, "--audio", tmp_path, parts=(f"{tmp_path}: is a folder",))
    assert not (tower / "verification.json").exists()


def test_without_pytorch_there_is_no_certificate(models, monkeypatch, capfd):
    import sys

    source, tower = models("qwen3")
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(capfd, tower, source, parts=("torch, which is not installed", "mrl_jax[verify]"))


def test_a_certificate_that_cannot_be_written_is_refused(models, tmp_path, capfd):
    source, original = models("qwen3")
    tower = shutil.copytree(original, tmp_path / "tower")
    (tower / "verification.json").mkdir()
    (tower / "verification.json" / "in the way").touch()
    capfd.readouterr()
    assert verify(tower, source) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: {tower / 'verification.json'}: could not be written")
    assert err.count("\n") == 1
    assert not [name for name in os.listdir(tower) if "partial" in name]


def test_a_recogniser_with_other_outputs_is_refused(tmp_path, capsys):
    one = save(torch_hubert(ctc=True), tmp_path / "one")
    other = save(torch_hubert(ctc=True, vocab_size=20), tmp_path / "other")
    (other / "vocab.json").unlink()
    plain = save(torch_hubert(), tmp_path / "plain")
    convert(str(one), tmp_path / "tower", family="hubert")
    capsys.readouterr()
    for source, words in ((other, "has 13 outputs, and the checkpoint has 20"), (plain, "hubert")):
        assert run_command(main, ["verify", str(tmp_path / "tower"), str(source)]) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert words in captured.err


def test_one_flipped_bit_is_found(tmp_path, capsys):
    source = save(torch_hubert(), tmp_path / "source")
    tower = tmp_path / "tower"
    convert(str(source), tower, family="hubert")
    stored = read_checked_weights(tower, read_info(tower))["encoder"]["projection.kernel"].tobytes()
    flipped = 0
    for path in (tower / "weights").rglob("*"):
        contents = bytearray(path.read_bytes()) if path.is_file() else bytearray()
        if stored in contents:
            contents[contents.index(stored)] ^= 1
            path.write_bytes(contents)
            flipped += 1
    assert flipped == 1
    capsys.readouterr()
    assert run_command(main, ["verify", str(tower), str(source)]) == 2
    error = capsys.readouterr().err
    assert "their digests differ" in error or "is not the file that was written" in error
