"""Single bits flipped in everything that is written: told, or without effect; never silent."""

import dataclasses
import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from damage import Outcomes, equal, files_of, flipped, outcome
from mutate import scaled
from tiny_run import RATE, clip_of, make_model

from mrl_jax.checkpoints.models import load_model, read_model_info
from mrl_jax.checkpoints.towers import load_hubert_ctc, load_qwen3, read_info
from mrl_jax.checkpoints.train_state import RunCheckpoints
from mrl_jax.data.build.builder import build_dataset
from mrl_jax.data.build.dataset import SpeechDataset, open_dataset
from mrl_jax.data.cache.documents import open_document_cache, write_document_cache
from mrl_jax.data.cache.files import CachedArray
from mrl_jax.data.cache.speech import (
    ShardPlan,
    open_speech_cache,
    speech_cache_key,
    write_speech_index,
)
from mrl_jax.data.cache.speech_shard import write_speech_shard
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.nn import param_tree

FLIPS = 60
KEY = {"texts": "a" * 64, "dtype": "float32"}
FRAMES = np.asarray([5, 0, 9, 30], np.int64)
IDENTITY = {"tower": "b" * 64}


def arrays_of(module: Any) -> dict[str, Any]:
    return {k: np.asarray(v[...]) for k, v in param_tree.flat_weights(module).items()}


def text_tower(folder: Path) -> Any:
    tokens = TextTokenizer(folder).encode(["ba ce", "di fo gu"])
    info = dataclasses.asdict(read_info(folder).config)
    return [arrays_of(load_qwen3(folder)), info, tokens]


def speech_tower(folder: Path) -> Any:
    module = load_hubert_ctc(folder)
    return [arrays_of(module), dataclasses.asdict(read_info(folder).config), module.vocabulary]


def model(folder: Path) -> Any:
    info = read_model_info(folder)
    return [arrays_of(load_model(folder, info)), info.prompts, info.dims, info.max_text_tokens]


def data_columns(data: SpeechDataset) -> dict[str, list[Any]]:
    return {name: value for name, value in vars(data).items() if isinstance(value, list)}


def vectors_of(cache: CachedArray | None) -> Any:
    """A copy: the file is about to change."""
    assert cache is not None
    return np.array(cache[:])


def data_set(folder: Path) -> Any:
    data = open_dataset(folder)
    return [
        data_columns(data),
        data.num_samples,
        data.sample_rate,
        [data.clip(i) for i in range(len(data))],
    ]


def documents(folder: Path) -> Any:
    return vectors_of(open_document_cache(folder, KEY, 50))


def speech(dtype: str, folder: Path) -> Any:
    key = speech_key(dtype)
    cache = open_speech_cache(folder, key, FRAMES, 3, 8)
    assert cache is not None
    rows = cache.rows(np.arange(len(FRAMES)), 40)
    return [np.asarray(rows.states), rows.frames, rows.scales if rows.scales is not None else 0]


def speech_key(dtype: str) -> dict[str, str]:
    return speech_cache_key(
        clips="c" * 64, split="train", tower="d" * 64, dtype="float32", cache_dtype=dtype
    )


def state(value: float) -> Any:
    return {"step": jnp.asarray(3), "trained": {"kernel": jnp.full((40, 30), value)}}


def checkpoint(folder: Path) -> Any:
    with RunCheckpoints(folder) as kept:
        latest = kept.latest_step
        assert latest is not None
        restored = kept.restore(latest, state(0.0), IDENTITY)
        return [latest, kept.best_step, kept.best_score, jax.tree.map(np.asarray, restored)]


READERS: dict[str, Callable[[Path], Any]] = {
    "text": text_tower,
    "speech": speech_tower,
    "model": model,
    "data": data_set,
    "documents": documents,
    "states": functools.partial(speech, "bfloat16"),
    "int8": functools.partial(speech, "int8"),
    "checkpoints": checkpoint,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Towers, a model, a data set, caches and checkpoints, each in the folder of its reader."""
    root = tmp_path_factory.mktemp("written")
    make_model(root)
    rows, rng = [], np.random.default_rng(0)
    for number in range(6):
        soundfile.write(root / f"{number}.wav", clip_of((number % 5,), number), RATE)
        row = {"id": f"r{number}", "audio": f"{number}.wav", "text": f"text {number}"}
        rows.append({**row, "task": "find", "speaker": f"s{number % 2}"})
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_dataset(root / "rows.jsonl", root / "data")
    vectors = rng.standard_normal((50, 16)).astype(np.float32)
    write_document_cache(root / "documents", KEY, vectors)
    write_speech(root / "states", "bfloat16", rng)
    write_speech(root / "int8", "int8", rng)
    with RunCheckpoints(root / "checkpoints", keep_last=2) as kept:
        kept.save(1, state(0.5), IDENTITY, score=0.7)
        kept.save(2, state(0.25), IDENTITY, score=0.4)
    return root


def write_speech(folder: Path, dtype: str, rng: np.random.Generator) -> None:
    """A cache of two shards in bfloat16, and one as older ones are in int8."""
    clips = []
    for frames in FRAMES.tolist():
        states = rng.standard_normal((frames, 3, 8))
        scales = rng.random((3, 8), np.float32) if dtype == "int8" else None
        clips.append((states.astype(jnp.bfloat16 if scales is None else np.int8), scales))
    key = speech_key(dtype)
    if dtype == "int8":
        write_speech_shard(folder, key, FRAMES, 3, 8, [(i, *x) for i, x in enumerate(clips)])
        return
    plan = ShardPlan(frames=FRAMES, shard_clips=2)
    for number in range(plan.count):
        numbers = plan.clips(number)
        made = [(row, *clips[clip]) for row, clip in enumerate(numbers)]
        place, own = folder / plan.name(number), FRAMES[numbers]
        write_speech_shard(place, plan.key(number, key), own, 3, 8, made)
    write_speech_index(folder, key, plan, 3, 8)


def folder_of(written: Path, kind: str) -> Path:
    """Where a reader's folder is."""
    return written / "towers" / kind if kind in ("text", "speech") else written / kind


def test_no_single_bit_changes_values_unseen(written, capsys):
    rng, found = random.Random(18), Outcomes()
    kinds = list(READERS)
    expected = {kind: READERS[kind](folder_of(written, kind)) for kind in kinds}
    for number in range(scaled(FLIPS)):
        kind = kinds[number % len(kinds)]
        folder = folder_of(written, kind)
        path = rng.choice(files_of(folder))
        with flipped(path, rng) as where:
            found.add(
                kind, outcome(functools.partial(READERS[kind], folder), expected[kind]), where
            )
    with capsys.disabled():
        print(f"\nbit flips: {sum(found.counts.values())}: {dict(sorted(found.counts.items()))}")
    assert not found.bad, "\n".join(found.bad)
    assert sum(found.counts.values()) == scaled(FLIPS)
    for kind in kinds:
        assert equal(READERS[kind](folder_of(written, kind)), expected[kind])


@pytest.mark.parametrize("kind", ["text", "data", "documents"])
def test_without_verification_a_flip_is_not_seen(written, kind):
    """The control: these are values that the files hold, and digests alone protect."""
    folder, rng = folder_of(written, kind), random.Random(3)
    unverified: dict[str, Callable[[], Any]] = {
        "text": lambda: arrays_of(load_qwen3(folder, verify=False)),
        "data": lambda: data_columns(open_dataset(folder, verify=False)),
        "documents": lambda: vectors_of(open_document_cache(folder, KEY, 50, verify=False)),
    }
    expected = unverified[kind]()
    places = {"text": "weights/encoder", "data": "index/train.parquet", "documents": "vectors.npy"}
    place = folder / places[kind]
    files = [place] if place.is_file() else files_of(place)
    largest = max(files, key=lambda path: path.stat().st_size)
    seen = []
    while "SILENT" not in seen and len(seen) < 400:
        with flipped(largest, rng):
            seen.append(outcome(unverified[kind], expected))
    assert "SILENT" in seen
