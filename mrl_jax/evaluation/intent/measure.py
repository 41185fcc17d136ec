"""Intents from frozen embeddings: the nearest label text, or a classifier of few examples."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError, MrlError
from mrl_jax.evaluation.intent.classifiers import CLASSIFIERS
from mrl_jax.inference.search.exact import search, truncate
from mrl_jax.inference.search.vectors import SeparateVectors, Vectors
from mrl_jax.metrics.ranking import f1_scores

SHOTS = (0, 1, 4, 8, 16)
FEATURES = ("pooled", "pooled+tokens")
"""What is classified: embeddings, or with means over tokens beside them."""
NAME, CENTROID = "label text", "label centroid"
"""The methods of 0 shots; those of more are the names of `CLASSIFIERS`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntentVectors:
    """What the model makes of a set, each example and label text embedded once.

    Attributes:
        test, truth: vectors and labels that are measured.
        train, train_labels: vectors and labels to draw from; None for 0 shots alone.
            Examples that no draw takes are not embedded, and are zeros.
        labels: vectors of the label texts in the order of the classes, by method (`NAME`,
            `CENTROID`); empty where they are not used.
        test_tokens, train_tokens: means over tokens, for classifiers of few examples to read
            beside the vectors; None for the vectors alone.
    """

    test: Vectors
    truth: Sequence[str]
    train: Vectors | None
    train_labels: Sequence[str]
    labels: Mapping[str, Float32[HostArray, "L E"]]
    test_tokens: Float32[HostArray, "N K E"] | None = None
    train_tokens: Float32[HostArray, "M K E"] | None = None

    @property
    def features(self) -> str:
        """Which of `FEATURES` classifiers of few examples read."""
        return FEATURES[self.test_tokens is not None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntentResult:
    """What was predicted for every test example at one dimension, with one number of shots.

    Attributes:
        shots: training examples a label; 0 is zero-shot.
        method: `NAME` or `CENTROID` of 0 shots, one of `CLASSIFIERS` of more.
        features: one of `FEATURES`.
        classes: names of the labels.
        truth: place of each example's label among the classes.
        predicted: its prediction, once a seed; one row for zero-shot.
    """

    dim: int
    shots: int
    method: str
    features: str = FEATURES[0]
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

    def macro_f1_values(self) -> Float[HostArray, " N"]:
        """One value an example whose mean is the macro F1 (mean over seeds), linearised.

        F1 is no mean over examples. Its interval is that of the mean of F + N · dF/dw, where w
        is an example's weight (the infinitesimal jackknife): of a label's F1 = 2TP / (T + P), T
        times true and P times predicted, dF1/dw = (2[hit] - F1([true] + [predicted])) / (T + P).
        """
        size, values = len(self.classes), np.zeros(len(self.truth))
        true = np.bincount(self.truth, minlength=size)
        for row, right in zip(self.predicted, self.right, strict=True):
            total = true + np.bincount(row, minlength=size)
            hits = np.bincount(self.truth[right], minlength=size)
            f1 = 2 * hits / np.maximum(total, 1)
            share = 1 / np.maximum(total, 1)
            slope = 2 * right * share[self.truth]
            slope -= f1[self.truth] * share[self.truth] + f1[row] * share[row]
            present = np.count_nonzero(total)
            values += (f1.sum() + len(row) * slope) / present
        return values / len(self.predicted)

    def confusion(self) -> Int[HostArray, "classes classes"]:
        """How often each label (row) was taken for each (column), summed over seeds."""
        size = len(self.classes)
        pairs = self.truth * size + self.predicted
        return np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size)


@checked
def label_text(label: str) -> str:
    """What a label is called in words that nobody wrote: its name without underscores."""
    return " ".join(label.replace("_", " ").split()) or label


@checked
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


@checked
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
            problem = f"class {name} has {len(places)} examples, fewer than {shots} shots"
            raise ArgumentError(problem)
        drawn.append(rng.permutation(places)[:shots])
    return np.sort(np.concatenate(drawn))


@checked
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


@checked
def few_shot_inputs(
    vectors: Vectors, tokens: Float32[HostArray, "N K E"] | None, *, dim: int
) -> Float[HostArray, "N F"]:
    """What a classifier of few examples reads: the first `dim` coordinates of the vectors, and
    of each mean over tokens, each part at unit length; in float64, so that a solver's path does
    not depend on the last digits of float32."""
    parts = [truncate(vectors, dim)]
    if tokens is not None:
        parts += [truncate(tokens[:, part], dim) for part in range(tokens.shape[1])]
    return np.concatenate(parts, axis=1).astype(np.float64)


@checked
def few_shot_predict(
    train: Float[HostArray, "M F"],
    labels: Int[HostArray, " M"],
    test: Float[HostArray, "N F"],
    *,
    classifier: str,
) -> Int[HostArray, " N"]:
    """What a classifier of few examples predicts for each vector.

    Args:
        train, labels: of examples, and their classes.
        test: to be classified.
        classifier: one of `CLASSIFIERS`.

    Raises:
        MrlError: a vector that is not finite.
    """
    for kind, some in (("training", train), ("test", test)):
        finite = np.isfinite(some).all(axis=1)
        if not finite.all():
            raise MrlError(
                f"the vector of {kind} example {int(np.argmin(finite))} is not finite",
                hint="check the model's weights and the input: NaN and infinity cannot be "
                "classified",
            )
    present = np.unique(labels)
    if len(present) == 1:
        return np.full(len(test), present[0])
    return CLASSIFIERS[classifier].predict(train, labels, test)


@checked
def measure_intents(
    vectors: IntentVectors,
    *,
    classes: Sequence[str],
    dims: Sequence[int],
    shots: Sequence[int] = SHOTS,
    seeds: int = 5,
    classifiers: Sequence[str] = tuple(CLASSIFIERS),
) -> list[IntentResult]:
    """Every number of shots at every dimension, from vectors that are encoded once.

    Args:
        vectors: of examples, and for 0 shots of label texts.
        classes: all labels, each once.
        dims, shots: prefixes, and training examples a label.
        seeds: draws of training examples.
        classifiers: names of `CLASSIFIERS`, for more than 0 shots.

    Raises:
        MrlError: as `check_shots`; a vector that is not finite.
    """
    check_shots(vectors.train_labels, classes, shots)
    place = {name: number for number, name in enumerate(classes)}
    truth = np.asarray([place[name] for name in vectors.truth], np.int64)
    known = np.asarray([place[name] for name in vectors.train_labels], np.int64)
    fixed: dict[str, Any] = {"classes": tuple(classes), "truth": truth}
    results = []
    for dim in dims:
        few = _few_shot(vectors, known, dim, len(classes), seeds) if any(shots) else None
        for count in shots:
            if count and few is not None:
                predicted = {name: few(name, count) for name in classifiers}
                features = vectors.features
            else:
                if not vectors.labels:
                    raise ArgumentError("zero-shot takes the vectors of the label texts")
                predicted = {
                    name: zero_shot_predict(vectors.test, texts, dim=dim)[None]
                    for name, texts in vectors.labels.items()
                }
                features = FEATURES[0]
            results += [
                IntentResult(
                    dim=dim, shots=count, method=name, features=features, predicted=rows, **fixed
                )
                for name, rows in predicted.items()
            ]
    return results


def _few_shot(
    vectors: IntentVectors, known: Int[HostArray, " M"], dim: int, classes: int, seeds: int
) -> Callable[[str, int], Int[HostArray, "seeds N"]]:
    """A function of classifier and shots to predictions, once a seed."""
    if vectors.train is None:
        raise ArgumentError("few-shot takes the vectors of training examples")
    train = few_shot_inputs(vectors.train, vectors.train_tokens, dim=dim)
    test = few_shot_inputs(vectors.test, vectors.test_tokens, dim=dim)

    def predict(classifier: str, shots: int) -> Int[HostArray, "seeds N"]:
        draws = [draw_shots(known, classes, shots, seed) for seed in range(seeds)]
        return np.stack(
            [few_shot_predict(train[r], known[r], test, classifier=classifier) for r in draws]
        )

    return predict
