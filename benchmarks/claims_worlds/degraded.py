"""Test sets in worse conditions, as recordings on disk that every system reads alike."""

import dataclasses
from pathlib import Path

from mrl_jax.data.audio.degrade import Condition, degrade, generator_of
from mrl_jax.data.sets.retrieval_set import (
    load_query_audio,
    read_retrieval_set,
    write_retrieval_set,
)

from .files import write_audio

CONDITIONS = (
    *(Condition(kind="white", amount=snr_db) for snr_db in (20.0, 10.0, 5.0, 0.0)),
    Condition(kind="reverberation", amount=0.4),
    Condition(kind="telephone"),
)
SEED = 0


def folder_of(condition: Condition) -> str:
    """A name for files: "white-10", "telephone"."""
    return condition.kind if condition.amount is None else f"{condition.kind}-{condition.amount:g}"


def write_degraded(test: Path, out: Path, condition: Condition, sample_rate: int) -> None:
    """The same queries, documents and judgements; recordings in the condition."""
    data = read_retrieval_set(test)
    queries = []
    for query in data.queries:
        clip = load_query_audio(query, sample_rate)
        rng = generator_of(SEED, condition.kind, query.id)
        audio = out / "audio" / f"{query.id}.flac"
        write_audio(audio, degrade(clip, condition, rng, sample_rate=sample_rate), sample_rate)
        queries.append(dataclasses.replace(query, audio=audio))
    write_retrieval_set(out, queries, data.corpus, data.qrels)
