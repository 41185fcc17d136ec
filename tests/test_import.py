"""What an import costs and brings: no PyTorch, no TensorFlow, no transformers, ever."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoints import make_checkpoint, make_tower

import mrl_jax

BIG = ("torch", "tensorflow", "transformers")


def modules_after(script: str) -> set[str]:
    """Top-level packages that a fresh interpreter has imported after `script`."""
    script += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    argv = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_library_imports_nothing_else():
    modules = modules_after("import mrl_jax")
    assert "mrl_jax" in modules
    assert not modules & {*BIG, "jax", "flax", "numpy", "orbax", "safetensors", "librosa"}


def test_the_probe_sees_an_import():
    assert "numpy" in modules_after("import numpy")


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("towers")
    for family in ("qwen3", "hubert"):
        checkpoint = make_checkpoint(family, root / f"{family}-checkpoint")
        make_tower(family, checkpoint, root / family)
    return root


def test_using_the_towers_needs_none_of_the_big_frameworks(towers):
    modules = modules_after(
        f"""
import mrl_jax, numpy as np
text = mrl_jax.load_qwen3({str(towers / "qwen3")!r})
out = text.embed(np.arange(6).reshape(2, 3), np.ones((2, 3), bool))
assert out.shape == (2, 32)
speech = mrl_jax.load_hubert({str(towers / "hubert")!r})
samples, lengths = mrl_jax.pad_clips([np.linspace(-1, 1, 800)], speech.config)
assert (samples.shape, speech.config.frame_count(800)) == ((1, 800), 2)
"""
    )
    assert {"jax", "flax", "tensorstore"} <= modules
    assert not modules & {*BIG, "converters", "librosa", "orbax"}


def test_converting_and_exporting_need_none_of_the_big_frameworks(towers, tmp_path):
    modules = modules_after(
        f"""
from pathlib import Path
from converters.convert import convert
from converters.export import export
convert({str(towers / "hubert-checkpoint")!r}, Path({str(tmp_path / "a")!r}), family="hubert")
export(Path({str(tmp_path / "a")!r}), Path({str(tmp_path / "b")!r}), shard_bytes=10**9)
"""
    )
    assert (tmp_path / "b" / "model.safetensors").is_file()
    assert "safetensors" in modules
    assert not modules & {*BIG, "librosa"}


def test_the_names_have_their_homes():
    assert mrl_jax.__all__ == sorted(mrl_jax._HOMES)


@pytest.mark.parametrize("name", mrl_jax.__all__)
def test_every_public_name_resolves(name):
    value = getattr(mrl_jax, name)
    assert value is getattr(importlib.import_module(mrl_jax._HOMES[name]), name)
    assert value.__module__ == mrl_jax._HOMES[name]
    assert name in dir(mrl_jax)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'mrl_jax' has no attribute 'load_bert'"):
        _ = mrl_jax.load_bert
    assert not hasattr(mrl_jax, "load_bert")
    with pytest.raises(ImportError):
        exec("from mrl_jax import load_bert")
