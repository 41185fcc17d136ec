"""Outputs of the frozen towers, computed once for all epochs and runs: documents and speech."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.addresses import shown
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import (
    assert_equal_across_hosts,
    is_primary,
    run_on_all,
    run_on_primary,
)
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import user_path
from mrl_jax.data.build.dataset import SpeechDataset
from mrl_jax.data.cache.documents import (
    document_cache_key,
    open_document_cache,
    write_document_cache,
)
from mrl_jax.data.cache.files import CachedArray
from mrl_jax.data.cache.speech import SpeechCache, open_speech_cache, speech_cache_key
from mrl_jax.data.sets.digests import digest_lines
from mrl_jax.data.text.tokenizer import tokenizer_digest
from mrl_jax.inference.encoder import Encoder
from mrl_jax.models.speech_tower import SpeechTower
from mrl_jax.models.towers import kinds_of
from mrl_jax.models.two_towers import TwoTowers
from mrl_jax.training.contrastive.config import ExperimentConfig
from mrl_jax.training.precompute_speech import SpeechCacheWriter
from mrl_jax.training.state import Log

Cache = TypeVar("Cache", CachedArray, SpeechCache)


def frozen_outputs(
    config: ExperimentConfig, examples: SpeechDataset, encoder: Encoder, model: TwoTowers, log: Log
) -> dict[str, Any]:
    """`vectors` and `speech` of `BatchSource`, each where the config names a folder for it.

    A cache that is not there is made, by all devices of all hosts. `log` is called with what was
    computed, and the space that it takes.

    Raises:
        MrlError: a cache is of other data or another tower, or is damaged; no room for it.
    """
    outputs: dict[str, Any] = {}
    if config.data.document_cache:
        outputs["vectors"] = _documents(config, examples.texts, encoder, log)
    if config.data.speech_cache:
        outputs["speech"] = _speech(config, examples, model.speech, log)
    return outputs


def _documents(
    config: ExperimentConfig, texts: Sequence[str], encoder: Encoder, log: Log
) -> tuple[CachedArray, HostArray]:
    """Vectors of all documents, and the row of each example's document among them."""
    folder, tower = (
        user_path(config.data.document_cache, optional=True),
        user_path(config.model.text_tower),
    )
    unique = list(dict.fromkeys(texts))
    key = document_cache_key(
        unique,
        tower=_tower_key(tower, *kinds_of("text")),
        tokenizer=tokenizer_digest(tower),
        max_tokens=config.data.batch.max_text_tokens,
        dtype=_dtype_key(config),
    )

    def open_cache() -> CachedArray | None:
        return open_document_cache(folder, key, len(unique), verify=config.train.verify)

    def make() -> None:
        made = encoder.text(unique, progress="documents" if is_primary() else None)
        _write(open_cache, lambda: write_document_cache(folder, key, made))
        log(f"documents: {len(unique):,} vectors computed once, kept in {shown(folder)}")

    vectors = _open_or_make(folder, open_cache, make)
    row_of = {text: row for row, text in enumerate(unique)}
    return vectors, np.asarray([row_of[text] for text in texts], np.int64)


def _speech(
    config: ExperimentConfig, examples: SpeechDataset, tower: SpeechTower, log: Log
) -> SpeechCache:
    """The layer states of every clip."""
    folder, dtype = (
        user_path(config.data.speech_cache, optional=True),
        config.data.speech_cache_dtype,
    )
    key = speech_cache_key(
        clips=examples.digest,
        split=examples.split,
        tower=_tower_key(user_path(config.model.speech_tower), *kinds_of("speech")),
        dtype=_dtype_key(config),
        cache_dtype=dtype,
    )
    writer = SpeechCacheWriter(folder=folder, key=key, tower=tower, examples=examples)
    plan, sizes = writer.plan, writer.sizes

    def open_cache() -> SpeechCache | None:
        return open_speech_cache(folder, key, plan.frames, *sizes, verify=config.train.verify)

    def make() -> None:
        kept = writer.make()
        hours = float(examples.num_samples.sum()) / examples.sample_rate / 3600
        space, hosts = writer.needed_bytes / 1e9, jax.process_count()
        notes = [f"{space:.2f} GB of {dtype}", f"{space / hours:.1f} an hour"]
        notes += [f"by {hosts} hosts"] * (hosts > 1)
        notes += [f"{kept} of {plan.count} shards were there"] * (kept > 0)
        log(
            f"speech: {hours:.2f} hours computed once, kept in {shown(folder)} ({', '.join(notes)})"
        )

    return _open_or_make(folder, open_cache, make)


def _dtype_key(config: ExperimentConfig) -> str:
    """What the frozen towers compute with; as before where their weights are whole."""
    return " ".join(filter(None, (config.model.frozen_dtype, config.model.dtype)))


def _tower_key(folder: Path, *kinds: str) -> str:
    """Digest of a tower's weights and of its sizes."""
    info = read_info(folder, expected=kinds)
    # Without what has its default, so that a field that is new does not change old towers.
    fields = dataclasses.fields(info.config)
    config = {field.name: getattr(info.config, field.name) for field in fields}
    config = {f.name: config[f.name] for f in fields if config[f.name] != f.default}
    return digest_lines([info.digest, config])


def _open_or_make(
    folder: Path, open_cache: Callable[[], Cache | None], make: Callable[[], None]
) -> Cache:
    """A cache, made where none is there; an error where hosts see different folders."""
    caches: list[Cache | None] = []
    for made in (False, True):
        run_on_all(lambda: caches.append(open_cache()))
        cache = caches[-1]
        assert_equal_across_hosts({f"cache in {folder}": str(cache is not None)})
        if cache is not None:
            return cache
        if not made:
            make()
            # Of an address each host has a place.
            run_on_all(lambda: _fetch(folder))
    raise MrlError("the cache disappeared while it was being made", where=folder)


def _fetch(folder: Path) -> None:
    user_path(Path(shown(folder)), optional=True)


def _write(open_cache: Callable[[], Any], write: Callable[[], None]) -> None:
    """Write a cache on the first host; one that another run wrote meanwhile serves as well."""

    def write_unless_there() -> None:
        try:
            write()
        except MrlError:
            if open_cache() is None:
                raise

    run_on_primary(write_unless_there)
