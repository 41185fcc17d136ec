"""What the frozen towers give, computed once for all epochs and runs: documents and speech."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import (
    assert_equal_across_hosts,
    batch_sharded,
    is_primary,
    replicated,
    run_on_primary,
)
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import staged_folder
from mrl_jax.data.build.dataset import SpeechDataset
from mrl_jax.data.cache.documents import (
    document_cache_key,
    open_document_cache,
    write_document_cache,
)
from mrl_jax.data.cache.files import CachedArray
from mrl_jax.data.cache.speech import (
    CACHE_FILE,
    SpeechCache,
    cache_bytes,
    open_speech_cache,
    speech_cache_key,
    write_speech_cache,
)
from mrl_jax.data.sets.digests import digest_lines
from mrl_jax.data.text.tokenizer import tokenizer_digest
from mrl_jax.inference.batching import padded_length
from mrl_jax.inference.encoder import Encoder
from mrl_jax.models.inputs import pad_clips
from mrl_jax.models.speech_tower import SpeechTower
from mrl_jax.models.towers import kinds_of
from mrl_jax.training.contrastive.config import ExperimentConfig

Say = Callable[[str], None]


BATCH = 16
"""Clips heard at once, or one a device."""


def cached_documents(
    config: ExperimentConfig, encoder: Encoder, texts: Sequence[str], log: Say
) -> tuple[CachedArray, HostArray]:
    """Vectors of all documents, and the place of each example's among them.

    All hosts take part in computing them, and the first writes them.

    Args:
        config: its `data.store` names the folder.
        encoder: of the run's model.
        texts: document of each example.
        say: told what was made.

    Raises:
        MrlError: the store is of other documents or another tower, or is damaged.
    """
    folder, unique = Path(config.data.store), list(dict.fromkeys(texts))
    tower = Path(config.model.text_tower)
    key = document_cache_key(
        unique,
        tower=tower_key(tower, "qwen3"),
        tokenizer=tokenizer_digest(tower),
        max_tokens=config.data.batch.max_text_tokens,
        dtype=config.model.dtype,
    )

    def find() -> CachedArray | None:
        return open_document_cache(folder, key, len(unique))

    def make() -> None:
        made = encoder.text(unique, progress="documents" if is_primary() else None)
        run_on_primary(lambda: _unless_there(find, lambda: write_document_cache(folder, key, made)))
        log(f"documents: {len(unique):,} vectors computed once, kept in {folder}")

    vectors = _found_or_made(folder, find, make)
    place = {text: row for row, text in enumerate(unique)}
    return vectors, np.asarray([place[text] for text in texts], np.int64)


def cached_speech(
    config: ExperimentConfig, tower: SpeechTower, examples: SpeechDataset, log: Say
) -> SpeechCache:
    """What the speech tower says of every clip.

    The first host hears all of them, on its own devices, while others wait.

    Args:
        config: its `data.speech_cache` names the folder.
        tower: the speech tower.
        examples: the clips.
        say: told what was made, and what it takes.

    Raises:
        MrlError: the store is of other clips or another tower, or is damaged; no room for it.
    """
    folder, sizes = Path(config.data.speech_cache), tower.config
    kept = config.data.speech_cache_dtype
    key = speech_cache_key(
        clips=examples.digest,
        split=examples.split,
        tower=tower_key(Path(config.model.speech_tower), *kinds_of("speech")),
        dtype=config.model.dtype,
        kept=kept,
    )
    frames = np.asarray([sizes.frame_count(int(size)) for size in examples.num_samples], np.int64)
    shape = (frames, sizes.num_layers, sizes.width)
    needed = cache_bytes(*shape, kept)

    def find() -> SpeechCache | None:
        return open_speech_cache(folder, key, *shape)

    def write() -> None:
        with staged_folder(folder, marker=CACHE_FILE, needs_bytes=needed) as staging:
            write_speech_cache(staging, key, *shape, _heard(tower, examples, kept))

    def make() -> None:
        run_on_primary(lambda: _unless_there(find, write))
        hours = float(examples.num_samples.sum()) / examples.sample_rate / 3600
        price = f"{needed / 1e9:.2f} GB of {kept}, {needed / 1e9 / hours:.1f} an hour"
        log(f"speech: {hours:.2f} hours heard once, kept in {folder} ({price})")

    return _found_or_made(folder, find, make)


def tower_key(folder: Path, *kinds: str) -> str:
    """Digest of a tower's weights and of its sizes."""
    info = read_info(folder, expected=kinds)
    return digest_lines([info.digest, dataclasses.asdict(info.config)])


def _found_or_made(folder: Path, find: Callable[[], Any], make: Callable[[], None]) -> Any:
    """A store, made where none is there; hosts that see different folders are told so."""
    found = find()
    assert_equal_across_hosts({f"store in {folder}": str(found is not None)})
    if found is None:
        make()
        found = find()
        assert_equal_across_hosts({f"store in {folder}": str(found is not None)})
    return found


def _unless_there(find: Callable[[], Any], write: Callable[[], None]) -> None:
    """Write a store; another run's that appeared meanwhile is as good, if it is of the same."""
    try:
        write()
    except MrlError:
        if find() is None:
            raise


def _heard(
    tower: SpeechTower, examples: SpeechDataset, kept: str
) -> Iterator[tuple[int, HostArray, HostArray | None]]:
    """Number, states and scales of every clip, longest first."""
    devices = jax.local_devices()
    rows = batch_sharded(devices)
    graphdef, arrays = nnx.split(tower)
    arrays = jax.device_put(arrays, replicated(rows))

    @jax.jit
    def hear(arrays: Any, samples: Any, lengths: Any) -> Any:
        states = nnx.merge(graphdef, arrays)(samples, lengths).layer_states
        return _kept(jnp.moveaxis(states, 0, 2), kept)

    size = -(-BATCH // len(devices)) * len(devices)
    order = np.argsort(-examples.num_samples, kind="stable")
    with tqdm(total=len(order), desc="speech", unit="clip") as bar:
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            filled = np.concatenate((batch, np.full(size - len(batch), batch[0])))
            clips = [examples.clip(int(row)) for row in filled]
            longest = padded_length(max(map(len, clips)))
            inputs = pad_clips(clips, tower.config, size=longest)
            states, scales = jax.tree.map(np.asarray, hear(arrays, *jax.device_put(inputs, rows)))
            for row, clip in enumerate(batch):
                yield int(clip), states[row], None if scales is None else scales[row]
            bar.update(len(batch))


def _kept(states: Any, kept: str) -> tuple[Any, Any]:
    """[B, T, Y, D] in the store's dtype, and scales [B, Y, D] of int8: each channel's own."""
    if kept != "int8":
        return states.astype(kept), None
    wide = states.astype(jnp.float32)
    # Padded frames are zero, and so no peak.
    scales = jnp.maximum(jnp.max(jnp.abs(wide), axis=1), 1e-12) / 127.0
    return jnp.round(wide / scales[:, None]).astype(jnp.int8), scales
