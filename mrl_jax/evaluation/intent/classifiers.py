"""Classifiers of few examples: MTEB's fixed one, and one whose penalty is cross-validated.

`mteb` is that of MTEB (arXiv 2210.07316, section 3.2; mteb/abstasks/classification.py at
012fa96): scikit-learn's logistic regression with its default penalty and at most 100 steps, on
the vectors as they are, over several draws of equally many examples of every label.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Int

from mrl_jax.core.array_types import HostArray

PENALTY = 1.0
"""`mteb`: inverse weight of the penalty, scikit-learn's own default."""
STEPS = 100
"""`mteb`: at most so many of the solver."""
ALPHAS = tuple(float(alpha) for alpha in np.logspace(0, 4, 9))
"""`cv`: weights of the penalty to choose from."""
ONE_SHOT_ALPHA = 100.0
"""`cv`: the weight where a label has one example, which cannot be left out."""

Predict = Callable[[HostArray, HostArray, HostArray], HostArray]
"""(training vectors [M, F], their classes [M], vectors [N, F]) to the classes predicted [N]."""


def predict_mteb(
    train: Float[HostArray, "M F"], labels: Int[HostArray, " M"], test: Float[HostArray, "N F"]
) -> Int[HostArray, " N"]:
    """Logistic regression with a fixed penalty, of at least two classes."""
    from sklearn.linear_model import LogisticRegression

    learner = LogisticRegression(C=PENALTY, max_iter=STEPS)
    with warnings.catch_warnings():
        # Single shots look to scikit-learn as if they were no classes.
        warnings.filterwarnings("ignore", message="The number of unique classes")
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")
        return np.asarray(learner.fit(train, labels).predict(test), np.int64)


def predict_cv(
    train: Float[HostArray, "M F"], labels: Int[HostArray, " M"], test: Float[HostArray, "N F"]
) -> Int[HostArray, " N"]:
    """Ridge regression onto the classes, of at least two, on standardised coordinates.

    The penalty is that of `ALPHAS` with the least squared error of the training examples when
    each is left out in turn, in closed form.
    """
    from sklearn.linear_model import RidgeClassifier, RidgeClassifierCV
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    one_shot = np.bincount(labels).max() == 1
    learner = RidgeClassifier(ONE_SHOT_ALPHA) if one_shot else RidgeClassifierCV(ALPHAS)
    learner.fit(scaler.transform(train), labels)
    return np.asarray(learner.predict(scaler.transform(test)), np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """How a classifier of few examples is fitted, and what it is, for a report."""

    predict: Predict
    description: str


CLASSIFIERS: Mapping[str, Classifier] = MappingProxyType(
    {
        "mteb": Classifier(
            predict=predict_mteb,
            description=f"logistic regression of scikit-learn with C = {PENALTY:g} and at most "
            f"{STEPS} steps, as in MTEB",
        ),
        "cv": Classifier(
            predict=predict_cv,
            description="ridge regression onto the classes, on standardised coordinates; the "
            f"penalty is chosen among {len(ALPHAS)} from {ALPHAS[0]:g} to {ALPHAS[-1]:g} by "
            "leaving out each training example in turn, and is "
            f"{ONE_SHOT_ALPHA:g} for one example a label",
        ),
    }
)
"""By the name that `--classifiers`, records and tables have."""
