"""Speech heard once: the run is that without a store; a store of others is refused."""

import json
import pickle

import ml_dtypes
import numpy as np
import pytest
import tiny_run
from tiny_run import four_steps

from mrl_jax.core.config import load_config, override
from mrl_jax.core.errors import MrlError
from mrl_jax.data.cache.speech import (
    cache_bytes,
    open_speech_cache,
    speech_cache_key,
    write_speech_cache,
)
from mrl_jax.models.hubert import HubertEncoder
from mrl_jax.training.contrastive.config import ExperimentConfig

pytestmark = pytest.mark.usefixtures("quick_to_compile")

FRAMES = np.asarray([3, 1, 2])
LAYERS, WIDTH = 2, 4
STATES = np.random.default_rng(0).normal(size=(6, LAYERS, WIDTH)).astype(np.float32)
SCALES = np.random.default_rng(1).uniform(size=(3, LAYERS, WIDTH)).astype(np.float32)


def key_of(kept: str) -> dict[str, str]:
    return speech_cache_key(clips="a" * 64, split="train", tower="b" * 64, dtype="f", kept=kept)


def make(folder, kept: str):
    folder.mkdir()
    dtype = ml_dtypes.bfloat16 if kept == "bfloat16" else np.dtype(kept)
    values = (STATES * (20 if kept == "int8" else 1)).astype(dtype)

    def clips():
        for clip, start in ((2, 4), (0, 0), (1, 3)):
            padded = np.concatenate((values[start : start + FRAMES[clip]], np.ones_like(values)))
            yield clip, padded, SCALES[clip] if kept == "int8" else None

    write_speech_cache(folder, key_of(kept), FRAMES, LAYERS, WIDTH, clips())
    return values


@pytest.mark.parametrize("kept", ["float32", "bfloat16", "int8"])
def test_a_store_is_read_back_as_it_was_written(tmp_path, kept):
    values = make(tmp_path / "store", kept)
    store = open_speech_cache(tmp_path / "store", key_of(kept), FRAMES, LAYERS, WIDTH)
    assert store is not None
    found = store.rows(np.asarray([2, 0]), 4)
    assert found.states.dtype == values.dtype
    np.testing.assert_array_equal(found.states[0, :2], values[4:6])
    np.testing.assert_array_equal(found.states[1, :3], values[:3])
    assert not found.states[0, 2:].astype(np.float32).any()
    assert found.frames.tolist() == [2, 3]
    if kept == "int8":
        np.testing.assert_array_equal(found.scales, SCALES[[2, 0]])
    else:
        assert found.scales is None
    held = sum(path.stat().st_size for path in (tmp_path / "store").glob("*.npy"))
    message = cache_bytes(FRAMES, LAYERS, WIDTH, kept)
    assert message < held < message + 512  # numpy's headers.
    assert open_speech_cache(tmp_path / "none", key_of(kept), FRAMES, LAYERS, WIDTH) is None
    # A process that makes batches is sent the place, and not what is there.
    sent = pickle.dumps(store)
    assert len(sent) < 2000
    again = pickle.loads(sent).rows(np.asarray([2, 0]), 4)
    np.testing.assert_array_equal(again.states, found.states)


def zipped(path):
    with path.open("wb") as file:
        np.savez(file, STATES)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "cache.json").write_text("{"), "cannot be read as a cache"),
        (lambda f: (f / "states.npy").write_bytes(b"\x93NUMPY"), "states.npy: cannot be read"),
        (lambda f: (f / "states.npy").write_bytes(b""), "states.npy: cannot be read"),
        (lambda f: (f / "states.npy").write_bytes(b"PK\x03\x04"), "states.npy: cannot be read"),
        (lambda f: zipped(f / "states.npy"), "states.npy: cannot be read"),
        (lambda f: (f / "cache.json").write_text("[" * 100_000), "cannot be read as a cache"),
        (lambda f: (f / "scales.npy").unlink(), "scales.npy: cannot be read"),
        (lambda f: np.save(f / "states.npy", STATES), "states.npy: holds float32 of shape"),
        (lambda f: np.save(f / "scales.npy", SCALES[:2]), r"scales.npy: holds .* of \(3, 2, 4\)"),
    ],
)
def test_a_damaged_store_is_refused(tmp_path, spoil, message):
    make(tmp_path / "store", "int8")
    spoil(tmp_path / "store")
    with pytest.raises(MrlError, match=f"{message}.*data.speech_cache"):
        open_speech_cache(tmp_path / "store", key_of("int8"), FRAMES, LAYERS, WIDTH)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_run.make_world(tmp_path_factory.mktemp("world"), examples=30)


def test_a_run_with_a_store_is_that_without(root, monkeypatch):
    plain, _ = four_steps(root, "plain")
    exact = (f"data.speech_cache={root / 'exact'}", "data.speech_cache_dtype=float32")
    first, said = four_steps(root, "first", *exact)
    np.testing.assert_allclose(first, plain, rtol=1e-5)
    assert json.loads((root / "exact" / "cache.json").read_text())["clips"] == 30
    assert any("hours computed once" in line and "GB of float32" in line for line in said)
    # Both stores together, and in parts: the exact cached step reads them as well.
    both = (*exact, f"data.document_cache={root / 'documents'}", "optim.accumulation_steps=2")
    again, said = four_steps(root, "again", *both)
    np.testing.assert_allclose(again, plain, rtol=1e-4)
    assert not any("hours computed once" in line for line in said)
    # Fewer bits: near, not equal.
    for kept, near in (("bfloat16", 0.02), ("int8", 0.02)):
        other, _ = four_steps(
            root,
            kept,
            f"data.speech_cache={root / f'in {kept}'}",
            f"data.speech_cache_dtype={kept}",
        )
        np.testing.assert_allclose(other, plain, rtol=near)
        assert np.abs(np.subtract(other, plain)).max() > 1e-6
    # What is in the store is what is read: other states, another loss.
    path = root / "exact" / "states.npy"
    kept_states = np.load(path)
    np.save(path, kept_states[::-1].copy())
    wrong, _ = four_steps(root, "wrong", *exact)
    assert abs(wrong[0] - plain[0]) > 1e-3
    np.save(path, kept_states)
    with pytest.raises(
        MrlError, match=r"exact: was made with another speech_cache_dtype \(float32"
    ):
        four_steps(root, "none", exact[0])
    with pytest.raises(MrlError, match="made with another data"):
        four_steps(root, "none", *exact, "data.build.max_seconds=0.3")


def test_training_from_a_store_runs_no_speech_tower(root, monkeypatch):
    # Calibration runs the tower as well.
    changes = f"data.speech_cache={root / 'quiet'}", "data.validation=", "model.calibrate=false"
    four_steps(root, "loud", *changes)

    def never(*_: object):
        raise AssertionError("the speech tower ran")

    monkeypatch.setattr(HubertEncoder, "__call__", never)
    losses, _ = four_steps(root, "quiet run", *changes)
    assert len(losses) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("model.padding=reference",), "data.speech_cache keeps each clip by itself"),
        (("data.speech_cache_dtype=int4",), "expected one of float32, bfloat16, int8"),
    ],
)
def test_what_a_store_cannot_serve_is_refused(root, changes, message):
    with pytest.raises(MrlError, match=message):
        four_steps(root, "none", "data.speech_cache=anywhere", *changes)


def test_a_store_and_changed_clips_are_refused(root):
    path = root / "changed.py"
    path.write_text(
        "import dataclasses\nimport tiny\n\n\ndef get_config():\n"
        "    return dataclasses.replace(tiny.get_config(), augment=lambda clip, rng: clip)\n"
    )
    import sys

    sys.path.insert(0, str(root))
    try:
        config = load_config(path, ExperimentConfig)
        with pytest.raises(MrlError, match="augment would change that"):
            override(config, ["data.speech_cache=anywhere"])
    finally:
        sys.path.remove(str(root))


def test_a_store_that_another_run_made_meanwhile_serves(root, monkeypatch):
    """Two runs of a sweep begin together: the second finds what the first has left."""
    from mrl_jax.training import precompute as frozen_stores

    place = f"data.speech_cache={root / 'raced'}"
    inner = frozen_stores.write_speech_cache

    def raced(*arguments):
        monkeypatch.setattr(frozen_stores, "write_speech_cache", inner)
        first, _ = four_steps(root, "first of two", place)
        inner(*arguments)
        assert first

    monkeypatch.setattr(frozen_stores, "write_speech_cache", raced)
    losses, _ = four_steps(root, "second of two", place)
    assert len(losses) == 4
    # Of something else it does not: the error stands.

    def spoiled(*arguments):
        (root / "other").mkdir()
        (root / "other" / "cache.json").write_text(json.dumps({"format": 1, "made_of": {}}))
        inner(*arguments)

    monkeypatch.setattr(frozen_stores, "write_speech_cache", spoiled)
    with pytest.raises(MrlError, match="made with another data"):
        four_steps(root, "third", f"data.speech_cache={root / 'other'}")
