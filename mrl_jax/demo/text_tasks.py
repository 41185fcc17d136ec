"""Tasks of the demo's text tower beside translation: sentences of an intent, or of a topic.

They are made of the training sentences whose intents are not evaluated, and of nothing else: no
label, and no label text, of an evaluated intent is used.
"""

import random
from collections.abc import Callable, Mapping, Sequence

from mrl_jax.data.sets.text_pairs import TextPair
from mrl_jax.demo.grammar import TEMPLATES, Phrase, phrases
from mrl_jax.demo.intents import EVALUATED, LABEL_TEXTS

GROUPINGS = ("french label", "intent", "label", "topic")
"""label: Wolof to a French text of its label; intent, topic: Wolof to the French of another
sentence of its intent or topic; french label: French to a French text of its label."""
SHARE = 0.25
"""Of all batches, those of groupings; each of them gets as many."""
TOPICS: Mapping[str, str] = {
    intent: topic
    for topic, intent, *_ in (line.split(" | ") for line in TEMPLATES.strip().splitlines())
}
"""The topic of each intent."""


def task_weights(translation: str) -> dict[str, float]:
    """How often the batches of each task come; `translation` is the name of that task."""
    return {translation: 1 - SHARE, **dict.fromkeys(GROUPINGS, SHARE / len(GROUPINGS))}


def trained_labels() -> dict[str, tuple[str, ...]]:
    """French texts of the labels that may be trained on: those of no evaluated intent."""
    return {intent: texts for intent, texts in LABEL_TEXTS.items() if intent not in EVALUATED}


def grouping_pairs(sentences: Sequence[str], *, others: int = 3, seed: int = 0) -> list[TextPair]:
    """Pairs of all `GROUPINGS`, whose ids are those of the group on both sides.

    Args:
        sentences: Wolof sentences of the training; those of evaluated intents are left out.
        others: other sentences of an intent, and of a topic, that each sentence is paired with.
        seed: of the drawing of these.
    """
    known, labels = {phrase.wolof: phrase for phrase in phrases()}, trained_labels()
    used = [known[sentence] for sentence in sentences if known[sentence].intent in labels]
    rng = random.Random(f"groupings {seed}")

    def alike(of: Phrase, group: Callable[[Phrase], str]) -> list[str]:
        """French of other sentences of the group."""
        pool = [p.french for p in used if p != of and group(p) == group(of)]
        return rng.sample(pool, min(others, len(pool)))

    def intent_of(phrase: Phrase) -> str:
        return phrase.intent

    def topic_of(phrase: Phrase) -> str:
        return TOPICS[phrase.intent]

    pairs: list[TextPair] = []
    for phrase in used:
        intent, topic, texts = phrase.intent, topic_of(phrase), labels[phrase.intent]
        for task, query, documents, group in (
            ("label", phrase.wolof, texts, intent),
            ("french label", phrase.french, texts, intent),
            ("intent", phrase.wolof, alike(phrase, intent_of), intent),
            ("topic", phrase.wolof, alike(phrase, topic_of), topic),
        ):
            pairs += [
                TextPair(query=query, document=d, task=task, query_id=group, document_id=group)
                for d in documents
            ]
    return pairs
