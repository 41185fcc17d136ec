"""One digest of all that an evaluation set holds, recordings included, wherever it lies."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from mrl_jax.data.digests import digest_lines
from mrl_jax.data.intent_set import IntentExample
from mrl_jax.data.retrieval_set import RetrievalSet


def digest_retrieval_set(data: RetrievalSet) -> str:
    """SHA-256 of queries, corpus and judgements; the same for every form on disk."""
    queries = (
        [
            *("query", q.id, _recording(q.audio), q.text, q.task, q.speaker, q.transcript),
            *(() if q.prompt is None else (q.prompt,)),
        ]
        for q in data.queries
    )
    documents = (["document", document.id, document.text] for document in data.corpus)
    judged = (["qrels", query, dict(scores)] for query, scores in sorted(data.qrels.items()))
    return digest_lines([*queries, *documents, *judged])


def digest_intent_set(examples: Iterable[IntentExample]) -> str:
    """SHA-256 of every example; the same for every form on disk."""
    return digest_lines(
        [
            *("intent", e.id, _recording(e.audio), e.text, e.label, e.split, e.label_text),
            *(() if e.speaker is None else (e.speaker,)),
        ]
        for e in examples
    )


def _recording(audio: Path | bytes | None) -> str | None:
    """The digest of a recording's bytes: what it says, not where it lies."""
    if audio is None:
        return None
    if isinstance(audio, bytes):
        return hashlib.sha256(audio).hexdigest()
    with audio.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
