"""At which word error rate two systems are equal, over conditions of one test set."""

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float

from mrl_jax.core.array_types import HostArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where the difference of two systems changes its sign.

    Attributes:
        wer: word error rate; None where the difference keeps its sign.
        low, high: ends of its 95 % interval; None where fewer than half of the resamples
            have a crossing.
        without: part of the resamples without a crossing.
    """

    wer: float | None
    low: float | None
    high: float | None
    without: float


def find_crossing(
    differences: Float[HostArray, "C Q"],
    errors: Float[HostArray, "C Q"],
    words: Float[HostArray, "C Q"],
    clusters: Sequence[Hashable],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Crossing:
    """The first change of sign on straight lines between conditions in order of their WER.

    Args:
        differences: one row a condition, one column a query.
        errors, words: of each query in each condition.
        clusters: sentence of each query; whole sentences are resampled, in all conditions at once.
    """
    codes = np.unique(np.asarray(list(map(str, clusters))), return_inverse=True)[1]
    count = int(codes.max()) + 1

    def sums(values: Float[HostArray, "C Q"]) -> Float[HostArray, "C G"]:
        return np.stack([np.bincount(codes, row, minlength=count) for row in values])

    totals = [sums(values) for values in (differences, errors, words)]
    rng, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        found.append(_first_zero(*(total @ times for total in totals)))
    whole = _first_zero(*(total.sum(axis=1) for total in totals))
    crossed = [one for one in found if one is not None]
    low = high = None
    if len(crossed) * 2 >= len(found):
        low, high = map(float, np.quantile(crossed, [0.025, 0.975]))
    return Crossing(wer=whole, low=low, high=high, without=1 - len(crossed) / len(found))


def _first_zero(
    differences: Float[HostArray, " C"],
    errors: Float[HostArray, " C"],
    words: Float[HostArray, " C"],
) -> float | None:
    rates = errors / words
    order = np.argsort(rates, kind="stable")
    places, values = rates[order], differences[order]
    for one in range(len(values) - 1):
        before, after = values[one], values[one + 1]
        if before * after < 0:
            share = before / (before - after)
            return float(places[one] + share * (places[one + 1] - places[one]))
    return None
