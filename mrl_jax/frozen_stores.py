"""What the frozen towers give, computed once for all epochs and runs: documents and speech.

Every host takes part in computing it; the first one writes it.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mrl_jax.array_types import HostArray
from mrl_jax.data.dataset import SpeechDataset
from mrl_jax.data.document_store import open_store, store_key, write_store
from mrl_jax.data.speech_store import (
    STORE_FILE,
    SpeechStore,
    create_speech_store,
    open_speech_store,
    speech_store_key,
    store_bytes,
)
from mrl_jax.data.text import tokenizer_digest
from mrl_jax.errors import MrlError
from mrl_jax.evaluation.encode import Encoder, padded_length
from mrl_jax.experiment import ExperimentConfig
from mrl_jax.hosts import first_host_first, is_first
from mrl_jax.models.clips import pad_clips
from mrl_jax.models.two_towers import TwoTowers
from mrl_jax.staging import check_room, staged_folder
from mrl_jax.tower_folder import read_info

Say = Callable[[str], None]


def stored_documents(
    config: ExperimentConfig, encoder: Encoder, texts: Sequence[str], say: Say
) -> tuple[HostArray, HostArray]:
    """Vectors of all documents, and the place of each example's among them.

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
    key = store_key(
        unique,
        tower=read_info(tower, expected=("qwen3",)).digest,
        tokenizer=tokenizer_digest(tower),
        max_tokens=config.data.batch.max_text_tokens,
        dtype=config.model.dtype,
    )
    vectors = open_store(folder, key, len(unique))
    if vectors is None:
        made = encoder.text(unique, progress="documents" if is_first() else None)
        with first_host_first("documents"):
            if is_first():
                write_store(folder, key, made)
                say(f"documents: {len(unique):,} vectors computed once, kept in {folder}")
            vectors = open_store(folder, key, len(unique))
    if vectors is None:
        raise _unseen(folder)
    place = {text: row for row, text in enumerate(unique)}
    return vectors, np.asarray([place[text] for text in texts], np.int64)


def stored_speech(
    config: ExperimentConfig, encoder: Encoder, examples: SpeechDataset, say: Say
) -> SpeechStore:
    """What the speech tower says of every clip.

    Args:
        config: its `data.speech_store` names the folder.
        encoder: of the run's model.
        examples: the clips.
        say: told what was made, and what it takes.

    Raises:
        MrlError: the store is of other clips or another tower, or is damaged; no room for it.
    """
    folder, sizes = Path(config.data.speech_store), encoder.speech_config
    kept = config.data.speech_store_dtype
    key = speech_store_key(
        clips=examples.digest,
        split=examples.split,
        tower=read_info(Path(config.model.speech_tower), expected=("hubert", "hubert_ctc")).digest,
        dtype=config.model.dtype,
        kept=kept,
    )
    frames = np.asarray([sizes.frame_count(int(size)) for size in examples.num_samples], np.int64)
    shape = (frames, sizes.num_layers, sizes.width)
    store = open_speech_store(folder, key, *shape)
    if store is None:
        needed = store_bytes(*shape, kept)
        check_room(folder, needed)  # On every host: none is left to wait for one that failed.
        heard = _heard(encoder, examples, kept)
        if is_first():
            with staged_folder(folder, marker=STORE_FILE, needs_bytes=needed) as staging:
                making = create_speech_store(staging, key, *shape)
                for clip, states, scales in heard:
                    making.put(clip, states, scales)
            hours = float(examples.num_samples.sum()) / examples.sample_rate / 3600
            price = f"{needed / 1e9:.2f} GB of {kept}, {needed / 1e9 / hours:.1f} an hour"
            say(f"speech: {hours:.2f} hours heard once, kept in {folder} ({price})")
        else:
            for _ in heard:
                pass
        with first_host_first("speech"):
            store = open_speech_store(folder, key, *shape)
    if store is None:
        raise _unseen(folder)
    return store


def _heard(
    encoder: Encoder, examples: SpeechDataset, kept: str
) -> Iterator[tuple[int, HostArray, HostArray | None]]:
    """Number, states and scales of every clip, longest first."""

    def hear(model: TwoTowers, samples: Any, lengths: Any) -> Any:
        states = model.speech(samples, lengths).layer_states
        return _kept(jnp.moveaxis(states, 0, 2), kept)

    run, size = encoder.compile(hear), encoder.batch_size
    order = np.argsort(-examples.num_samples, kind="stable")
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    with tqdm(total=len(order), desc="speech", unit="clip", disable=not is_first()) as bar:
        for batch in batches:
            filled = np.concatenate((batch, np.full(size - len(batch), batch[0])))
            clips = [examples.clip(int(row)) for row in filled]
            longest = padded_length(max(map(len, clips)))
            inputs = pad_clips(clips, encoder.speech_config, size=longest)
            states, scales = jax.tree.map(np.asarray, run(*inputs))
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


def _unseen(folder: Path) -> MrlError:
    return MrlError(
        "the first host's store is not seen here",
        where=folder,
        mend="name a folder that all hosts share",
    )
