"""The demo's intents: which are evaluated, what they are called, and sentences that are apart."""

import collections
import itertools
import random

import pytest

from mrl_jax.demo.grammar import TEMPLATES, phrases
from mrl_jax.demo.intents import EVALUATED, LABEL_TEXTS, intent_sentences, turns


def test_the_evaluated_intents_are_those_of_most_sentences():
    counts = collections.Counter(phrase.intent for phrase in phrases())
    order = list(counts)  # That of the templates.
    most = sorted(order, key=lambda intent: -counts[intent])[:29]
    assert sorted(most, key=order.index) == list(EVALUATED)
    parts = [line.split(" | ") for line in TEMPLATES.strip().splitlines()]
    topics = {part[1]: part[0] for part in parts}
    assert {topics[intent] for intent in EVALUATED} == set(topics.values())


def test_label_texts_are_no_documents():
    assert LABEL_TEXTS.keys() == {phrase.intent for phrase in phrases()}
    plain = lambda text: text.lower().strip(" .?")  # noqa: E731
    texts = [plain(text) for some in LABEL_TEXTS.values() for text in some]
    assert {len(some) for some in LABEL_TEXTS.values()} == {5}
    assert len(set(texts)) == len(texts)
    assert not {plain(phrase.french) for phrase in phrases()} & set(texts)


@pytest.mark.parametrize("seed", [0, 1])
def test_sentences_of_the_two_splits_are_apart_and_the_unseen_ones_come_first(seed):
    trained = random.Random(seed).sample(phrases(), 3675)
    parts = intent_sentences(trained, shots=24, tests=12, seed=seed)
    for intent in EVALUATED:
        learnt, measured = parts["train"][intent], parts["test"][intent]
        assert learnt
        assert measured
        assert {phrase.intent for phrase in [*learnt, *measured]} == {intent}
        assert len({*learnt, *measured}) == len(learnt) + len(measured)
        assert not set(measured) & set(trained)
        seen = [phrase in set(trained) for phrase in learnt]
        assert seen == sorted(seen)
        assert len(measured) <= 12
        assert len(learnt) <= 24
    assert parts == intent_sentences(trained, shots=24, tests=12, seed=seed)
    assert parts != intent_sentences(trained, shots=24, tests=12, seed=seed + 1)
    # Where a training uses every sentence, there are still some to measure.
    everything = intent_sentences(phrases(), shots=24, tests=12, seed=seed)
    assert all(len(some) == 1 for some in everything["test"].values())


def test_no_sentence_is_said_twice_by_one_voice():
    for sentences, count in itertools.product(range(1, 30), (1, 12, 24)):
        pairs = turns(sentences, count, 8)
        assert len(set(pairs)) == len(pairs) == min(count, sentences * 8)
        spoken = collections.Counter(sentence for sentence, _ in pairs)
        assert max(spoken.values()) - min(spoken.values()) <= 1 or len(pairs) < count
