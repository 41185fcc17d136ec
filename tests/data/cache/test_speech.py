"""Caches of speech: read back as they were written, refused where damaged."""

import pickle

import ml_dtypes
import numpy as np
import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.data.cache.speech import open_speech_cache, speech_cache_key
from mrl_jax.data.cache.speech_shard import cache_bytes, write_speech_shard

FRAMES = np.asarray([3, 1, 2])
LAYERS, WIDTH = 2, 4
STATES = np.random.default_rng(0).normal(size=(6, LAYERS, WIDTH)).astype(np.float32)
SCALES = np.random.default_rng(1).uniform(size=(3, LAYERS, WIDTH)).astype(np.float32)


def key_of(cache_dtype: str) -> dict[str, str]:
    return speech_cache_key(
        clips="a" * 64, split="train", tower="b" * 64, dtype="f", cache_dtype=cache_dtype
    )


def make(folder, cache_dtype: str):
    folder.mkdir()
    dtype = ml_dtypes.bfloat16 if cache_dtype == "bfloat16" else np.dtype(cache_dtype)
    values = (STATES * (20 if cache_dtype == "int8" else 1)).astype(dtype)

    def clips():
        for clip, start in ((2, 4), (0, 0), (1, 3)):
            padded = np.concatenate((values[start : start + FRAMES[clip]], np.ones_like(values)))
            yield clip, padded, SCALES[clip] if cache_dtype == "int8" else None

    write_speech_shard(folder, key_of(cache_dtype), FRAMES, LAYERS, WIDTH, clips())
    return values


@pytest.mark.parametrize("cache_dtype", ["float32", "bfloat16", "int8"])
def test_a_cache_is_read_back_as_it_was_written(tmp_path, cache_dtype):
    values = make(tmp_path / "cache", cache_dtype)
    cache = open_speech_cache(tmp_path / "cache", key_of(cache_dtype), FRAMES, LAYERS, WIDTH)
    assert cache is not None
    batch = cache.rows(np.asarray([2, 0]), 4)
    assert batch.states.dtype == values.dtype
    np.testing.assert_array_equal(batch.states[0, :2], values[4:6])
    np.testing.assert_array_equal(batch.states[1, :3], values[:3])
    assert not batch.states[0, 2:].astype(np.float32).any()
    assert batch.frames.tolist() == [2, 3]
    if cache_dtype == "int8":
        np.testing.assert_array_equal(batch.scales, SCALES[[2, 0]])
    else:
        assert batch.scales is None
    on_disk = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.npy"))
    expected = cache_bytes(FRAMES, LAYERS, WIDTH, cache_dtype)
    assert expected < on_disk < expected + 512  # numpy's headers.
    assert open_speech_cache(tmp_path / "none", key_of(cache_dtype), FRAMES, LAYERS, WIDTH) is None
    # A process that makes batches is sent the path, and not the array.
    sent = pickle.dumps(cache)
    assert len(sent) < 2000
    again = pickle.loads(sent).rows(np.asarray([2, 0]), 4)
    np.testing.assert_array_equal(again.states, batch.states)


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
def test_a_damaged_cache_is_refused(tmp_path, spoil, message):
    make(tmp_path / "cache", "int8")
    spoil(tmp_path / "cache")
    with pytest.raises(MrlError, match=f"{message}.*data.speech_cache"):
        open_speech_cache(tmp_path / "cache", key_of("int8"), FRAMES, LAYERS, WIDTH)
