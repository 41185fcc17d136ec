"""The groupings that the demo's text tower learns beside translation."""

import collections

import pytest

from mrl_jax.data.batches.text_plan import PairPlan
from mrl_jax.demo import text_tasks
from mrl_jax.demo.grammar import phrases
from mrl_jax.demo.intents import EVALUATED, LABEL_TEXTS
from mrl_jax.demo.text_tasks import GROUPINGS, SHARE, TOPICS, grouping_pairs, task_weights

BY_WOLOF = {phrase.wolof: phrase for phrase in phrases()}
BY_FRENCH = {phrase.french: phrase for phrase in phrases()}
SENTENCES = [phrase.wolof for phrase in phrases()][::3]


@pytest.fixture(scope="module")
def pairs():
    return grouping_pairs(SENTENCES)


def test_no_evaluated_intent_and_no_other_sentence_is_used(pairs):
    assert {pair.task for pair in pairs} == set(GROUPINGS)
    of_others = {text for intent in EVALUATED for text in LABEL_TEXTS[intent]}
    given = {BY_WOLOF[sentence] for sentence in SENTENCES}
    for pair in pairs:
        query = BY_WOLOF.get(pair.query) or BY_FRENCH[pair.query]
        assert query.intent not in EVALUATED
        assert query in given
        assert pair.document not in of_others
        if pair.document in BY_FRENCH:
            assert BY_FRENCH[pair.document] in given
            assert BY_FRENCH[pair.document].intent not in EVALUATED
        else:
            assert pair.document in LABEL_TEXTS[query.intent]


def test_both_sides_are_of_the_group_that_their_ids_name(pairs):
    for pair in pairs:
        query = BY_WOLOF.get(pair.query) or BY_FRENCH[pair.query]
        group = TOPICS[query.intent] if pair.task == "topic" else query.intent
        assert pair.query_id == pair.document_id == group
        assert (pair.query in BY_FRENCH) == (pair.task == "french label")
        if pair.task in ("intent", "topic"):
            document = BY_FRENCH[pair.document]
            assert document != query
            found = document.intent if pair.task == "intent" else TOPICS[document.intent]
            assert found == group
    counts = collections.Counter(pair.task for pair in pairs)
    sentences = counts["label"] / 5
    assert counts["french label"] == counts["label"]
    assert sentences < counts["intent"] <= 3 * sentences
    assert any(
        BY_FRENCH[pair.document].intent != BY_WOLOF[pair.query].intent
        for pair in pairs
        if pair.task == "topic"
    )


def test_groupings_leave_the_number_of_translations_as_it_was():
    weights = task_weights("translation")
    assert sum(weights.values()) == pytest.approx(1)
    tasks = [task for task in weights for _ in range(4)]
    plan = PairPlan([1] * len(tasks), tasks, batch_size=2, weights=weights, seed=0)
    for steps in (20, 300, 1500):
        turns = [plan.turn(step)[0] for step in range(round(steps / (1 - SHARE)))]
        counts = collections.Counter(turns)
        assert abs(counts["translation"] - steps) <= 1
        of_groups = [counts[task] for task in GROUPINGS]
        assert max(of_groups) - min(of_groups) <= 1
    assert text_tasks.trained_labels().keys() == LABEL_TEXTS.keys() - set(EVALUATED)
