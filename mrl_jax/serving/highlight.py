"""The sentence of a document that is nearest to a query, to be shown highlighted."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from mrl_jax.inference.index.hits import Hit
from mrl_jax.serving.engine import Engine, Work

_SENTENCE = re.compile(r"\S.*?(?:[.!?…։؟。！？]+[\"'»”)]*(?=\s)|\n|$)", re.DOTALL)  # noqa: RUF001
MOST_SENTENCES = 64
"""Of all documents together, and no more than may wait; a document that would bring more is not
highlighted."""


def sentences_of(text: str) -> list[tuple[int, int]]:
    """First character of each sentence, and the one behind its last."""
    matches = (match for match in _SENTENCE.finditer(text))
    return [(m.start(), m.start() + len(m[0].rstrip())) for m in matches]


async def best_sentences(
    engine: Engine, work: Work, query: Any, hits: Sequence[Hit]
) -> list[tuple[int, int] | None]:
    """Span of the nearest sentence of each document; None of documents of one sentence."""
    spans: list[list[tuple[int, int]]] = []
    left = min(MOST_SENTENCES, engine.config.queue_size)
    for hit in hits:
        cut = sentences_of(hit.text)
        spans.append(cut if 1 < len(cut) <= left else [])
        left -= len(spans[-1])
    texts = [
        hit.text[start:end] for hit, cut in zip(hits, spans, strict=True) for start, end in cut
    ]
    if not texts:
        return [None] * len(hits)
    plain = dataclasses.replace(work, kind="text", task=None, prompt=None)
    (vector,) = await engine.vectors(work, [query])
    scores = iter((await engine.vectors(plain, texts) @ vector).tolist())
    best: list[tuple[int, int] | None] = []
    for cut in spans:
        scored = [(next(scores), span) for span in cut]
        best.append(max(scored)[1] if scored else None)
    return best
