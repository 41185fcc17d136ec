"""The classifiers of few examples against scikit-learn, and against leaving out by hand."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier

from mrl_jax.evaluation.intent.classifiers import ALPHAS, CLASSIFIERS, ONE_SHOT_ALPHA, predict_cv
from mrl_jax.evaluation.intent.measure import few_shot_predict


def made(classes=4, each=5, width=12, noise=1.5, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, width))
    labels = np.repeat(np.arange(classes), each)
    size, scales = (len(labels), width), np.geomspace(1, 50, width)
    train, test = (scales * (centres[labels] + noise * rng.normal(size=size)) for _ in range(2))
    return train, labels, test


def test_mteb_is_scikit_learns_default():
    train, labels, test = made()
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
    theirs = LogisticRegression(max_iter=100).fit(train, labels).predict(test)
    ours = few_shot_predict(train, labels, test, classifier="mteb")
    np.testing.assert_array_equal(ours, theirs)
    # Neither single shots nor a solver that is stopped is a reason for a warning.
    few_shot_predict(1e3 * np.eye(24), np.arange(24), np.eye(24), classifier="mteb")


@pytest.mark.parametrize(("each", "noise", "seed"), [(5, 1.5, 0), (5, 0.2, 1), (2, 3.0, 2)])
def test_cv_leaves_each_example_out(each, noise, seed):
    train, labels, test = made(each=each, noise=noise, seed=seed)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    train, scaled = (train - mean) / deviation, (test - mean) / deviation
    onehot = np.where(labels[:, None] == np.arange(4), 1.0, -1.0)

    def error(alpha):
        total = 0.0
        for row in range(len(train)):
            rest = np.arange(len(train)) != row
            x, y = train[rest], onehot[rest]
            centre, offset = x.mean(axis=0), y.mean(axis=0)
            gram = (x - centre).T @ (x - centre) + alpha * np.eye(x.shape[1])
            weights = np.linalg.solve(gram, (x - centre).T @ (y - offset))
            total += ((((train[row] - centre) @ weights + offset) - onehot[row]) ** 2).sum()
        return total

    best = min(ALPHAS, key=error)
    assert error(ALPHAS[0]) != error(ALPHAS[-1])
    expected = RidgeClassifier(best).fit(train, labels).predict(scaled)
    raw = train * deviation + mean
    np.testing.assert_array_equal(predict_cv(raw, labels, test), expected)


def test_cv_of_one_example_a_label_has_the_documented_penalty():
    train, labels, test = made(each=1)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    expected = RidgeClassifier(ONE_SHOT_ALPHA).fit((train - mean) / deviation, labels)
    np.testing.assert_array_equal(
        predict_cv(train, labels, test), expected.predict((test - mean) / deviation)
    )


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_one_class_two_classes_and_constant_coordinates(name):
    train, labels, test = made()
    train[:, 3] = test[:, 3] = 7.0
    few_shot_predict(train, labels, test, classifier=name)
    assert set(few_shot_predict(train[:3], labels[:3] + 2, test, classifier=name)) == {2}
    two = labels % 2 + 1
    assert set(few_shot_predict(train, two, test, classifier=name)) <= {1, 2}
