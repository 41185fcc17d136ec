"""Intents from frozen embeddings: the nearest label text, or a classifier of few examples."""

import dataclasses
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.inference.search.exact import search, truncate
from mrl_jax.inference.search.vectors import SeparateVectors, Vectors, numbers_of
from mrl_jax.metrics.ranking import f1_scores

SHOTS = (0, 1, 4, 8, 16)
PENALTY = 1.0
"""Inverse weight of the classifier's penalty: scikit-learn's own default."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntentVectors:
    """What the model makes of a set, each example and label text embedded once.

    Attributes:
        test, truth: vectors and labels that are measured.
        train, train_labels: vectors and labels to draw from; None for 0 shots alone.
            Examples that no draw takes are not embedded, and are zeros.
        labels: of the label texts, in the order of the classes; None where they are not used.
    """

    test: Vectors
    truth: Sequence[str]
    train: Vectors | None
    train_labels: Sequence[str]
    labels: Float32[HostArray, "L E"] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntentResult:
    """What was predicted for every test example at one dimension, with one number of shots.

    Attributes:
        shots: training examples a label; 0 is zero-shot.
        classes: names of the labels.
        truth: place of each example's label among the classes.
        predicted: its prediction, once a seed; one row for zero-shot.
    """

    dim: int
    shots: int
    classes: tuple[str, ...]
    truth: Int[HostArray, " N"]
    predicted: Int[HostArray, "seeds N"]

    @property
    def right(self) -> Bool[HostArray, "seeds N"]:
        return self.predicted == self.truth

    def scores(self) -> dict[str, list[float]]:
        """Accuracy, macro and weighted F1 of each seed.

        As in scikit-learn, the labels that F1 is a mean over are those that are true or
        predicted somewhere.
        """
        scores: dict[str, list[float]] = {"accuracy": [], "macro F1": [], "weighted F1": []}
        truth = [self.classes[i] for i in self.truth]
        for row, right in zip(self.predicted, self.right, strict=True):
            predicted = [self.classes[i] for i in row]
            f1 = f1_scores(truth, predicted, sorted({*truth, *predicted}))
            scores["accuracy"].append(float(right.mean()))
            scores["macro F1"].append(f1.macro)
            scores["weighted F1"].append(f1.weighted)
        return scores

    def confusion(self) -> Int[HostArray, "classes classes"]:
        """How often each label (row) was taken for each (column), summed over seeds."""
        size = len(self.classes)
        pairs = self.truth * size + self.predicted
        return np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size)


def label_text(label: str, texts: Mapping[str, str] | None = None) -> str:
    """What a label is called in words: its entry, or its name without underscores."""
    return (texts or {}).get(label) or " ".join(label.replace("_", " ").split()) or label


def check_shots(labels: Sequence[str], classes: Sequence[str], shots: Sequence[int]) -> None:
    """Refuse shots that some label does not have enough training examples for.

    Args:
        labels: of the training examples.
        classes: that must be learnt.
        shots: numbers of examples a label.

    Raises:
        MrlError: a number below 0, or one that is there twice; a label with fewer examples.
    """
    if not shots:
        raise MrlError("no number of shots", where="--shots", hint="name one, as in 0,16")
    for place, count in enumerate(shots):
        if count < 0 or count in shots[:place]:
            kind = "below 0" if count < 0 else "there twice"
            raise MrlError(f"{count} shots, which is {kind}", where="--shots", hint="leave it out")
    counts = Counter(labels)
    rarest = min(classes, key=lambda name: (counts[name], name))
    if counts[rarest] < max(shots):
        fitting = [str(count) for count in shots if count <= counts[rarest]]
        hint = f"pass --shots {','.join(fitting) or '0'}"
        short = sum(counts[name] < max(shots) for name in classes)
        raise MrlError(
            f"the label {rarest!r} has {counts[rarest]} training examples, fewer than "
            f"{max(shots)} shots ({short} of {len(classes)} labels have fewer)",
            where="--shots",
            hint=f"{hint}, or add examples",
        )


def draw_shots(
    labels: Int[HostArray, " N"], classes: int, shots: int, seed: int
) -> Int[HostArray, " M"]:
    """Places of exactly `shots` examples of every class.

    With one seed, fewer shots are a part of more, so that numbers of shots are compared on
    the same luck.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for name in range(classes):
        places = np.flatnonzero(labels == name)
        if len(places) < shots:
            raise ValueError(f"class {name} has {len(places)} examples, fewer than {shots} shots")
        drawn.append(rng.permutation(places)[:shots])
    return np.sort(np.concatenate(drawn))


def zero_shot_predict(
    vectors: Float32[HostArray, "N E"] | SeparateVectors,
    labels: Float32[HostArray, "L E"],
    *,
    dim: int,
) -> Int[HostArray, " N"]:
    """The label of greatest cosine to each vector, the first of equals.

    Raises:
        MrlError: a vector that is not finite.
    """
    _, places = search(truncate(vectors, dim), truncate(labels, dim), 1)
    return places[:, 0].astype(np.int64)


def few_shot_predict(
    train: Float32[HostArray, "M E"] | SeparateVectors,
    labels: Int[HostArray, " M"],
    vectors: Float32[HostArray, "N E"] | SeparateVectors,
    *,
    dim: int,
    penalty: float = PENALTY,
) -> Int[HostArray, " N"]:
    """What a logistic regression on unit prefixes predicts for each vector.

    Args:
        train, labels: embeddings of examples, and their classes.
        vectors: to be classified.
        dim: width of the prefix.
        penalty: scikit-learn's C.

    Raises:
        MrlError: a vector that is not finite.
    """
    from sklearn.linear_model import LogisticRegression

    for kind, some in (("training", train), ("test", vectors)):
        finite = np.isfinite(numbers_of(some)).all(axis=1)
        if not finite.all():
            raise MrlError(
                f"the vector of {kind} example {int(np.argmin(finite))} is not finite",
                hint="check the model's weights and the input: NaN and infinity cannot be "
                "classified",
            )
    present = np.unique(labels)
    if len(present) == 1:
        return np.full(len(vectors), present[0])
    # float64, so that the solver's path does not depend on the last digits of float32.
    learner = LogisticRegression(C=penalty, max_iter=1000)
    with warnings.catch_warnings():
        # Single shots look to scikit-learn as if they were no classes.
        warnings.filterwarnings("ignore", message="The number of unique classes")
        learner.fit(truncate(train, dim).astype(np.float64), labels)
    predicted = learner.predict(truncate(vectors, dim).astype(np.float64))
    return np.asarray(predicted, np.int64)


def measure_intents(
    vectors: IntentVectors,
    *,
    classes: Sequence[str],
    dims: Sequence[int],
    shots: Sequence[int] = SHOTS,
    seeds: int = 5,
    penalty: float = PENALTY,
) -> list[IntentResult]:
    """Every number of shots at every dimension, from vectors that are encoded once.

    Args:
        vectors: of examples, and for 0 shots of label texts.
        classes: all labels, each once.
        dims, shots: prefixes, and training examples a label.
        seeds: draws of training examples.
        penalty: see `few_shot_predict`.

    Raises:
        MrlError: as `check_shots`; a vector that is not finite.
    """
    check_shots(vectors.train_labels, classes, shots)
    place = {name: number for number, name in enumerate(classes)}
    truth = np.asarray([place[name] for name in vectors.truth], np.int64)
    known = np.asarray([place[name] for name in vectors.train_labels], np.int64)
    test, train = vectors.test, vectors.train

    def predict(dim: int, count: int) -> list[Int[HostArray, " N"]]:
        if count == 0:
            if vectors.labels is None:
                raise ValueError("zero-shot takes the vectors of the label texts")
            return [zero_shot_predict(test, vectors.labels, dim=dim)]
        if train is None:
            raise ValueError("few-shot takes the vectors of training examples")
        draws = [draw_shots(known, len(classes), count, seed) for seed in range(seeds)]
        return [
            few_shot_predict(train[rows], known[rows], test, dim=dim, penalty=penalty)
            for rows in draws
        ]

    fixed: dict[str, Any] = {"classes": tuple(classes), "truth": truth}
    return [
        IntentResult(dim=dim, shots=count, predicted=np.stack(predict(dim, count)), **fixed)
        for dim in dims
        for count in shots
    ]
