"""Languages are told apart after a second of training, by models that never saw the text."""

import random

import numpy as np
import pytest

from mrl_jax.curation.language_identifier import FOLDS, LanguageIdentifier, folds_of
from mrl_jax.demo.grammar import phrases


@pytest.fixture(scope="module")
def pairs():
    drawn = random.Random(0).sample(phrases(), 400)
    return [phrase.wolof for phrase in drawn], [phrase.french for phrase in drawn]


@pytest.fixture(scope="module")
def identifier(pairs):
    wolof, french = (side[:200] for side in pairs)
    return LanguageIdentifier([*wolof, *french], ["wol"] * 200 + ["fra"] * 200)


def test_unseen_texts_are_told_apart(identifier, pairs):
    wolof, french = (side[200:] for side in pairs)
    chances = identifier.probabilities([*wolof, *french])
    assert identifier.languages == ("fra", "wol")
    assert chances.sum(axis=1) == pytest.approx(1)
    assert (chances[:200, 1] > 0.5).mean() > 0.99
    assert (chances[200:, 0] > 0.5).mean() > 0.99


def test_a_wrong_label_does_not_vouch_for_itself(pairs):
    wolof, french = pairs
    texts = [*wolof[:200], *french[:200]]
    labels = ["fra"] * 10 + ["wol"] * 190 + ["fra"] * 200
    chances = LanguageIdentifier(texts, labels).probabilities(texts)
    assert (chances[:10, 1] > 0.9).all()


def test_folds_go_by_words_alone():
    assert folds_of(["Wa mísi!"]) == folds_of(["wa  mísi"])
    assert set(folds_of([str(number) for number in range(50)])) == set(range(FOLDS))


def test_a_language_in_one_fold_alone_is_not_lost():
    texts = ["same words"] * 3 + [f"other text {number}" for number in range(30)]
    found = LanguageIdentifier(texts, ["a"] * 3 + ["b"] * 30).probabilities(["same words"])
    assert found.shape == (1, 2)
    assert np.isfinite(found).all()


def test_parts_of_a_text_are_judged_by_its_fold(identifier, pairs):
    text = pairs[1][0]
    part = " ".join(text.split()[:3])
    fold = folds_of([text])
    as_part = identifier.probabilities([part], fold)
    assert as_part.tolist() == identifier.probabilities([part], fold).tolist()
    other = identifier.probabilities([part], (fold + 1) % FOLDS)
    assert as_part.tolist() != other.tolist()
