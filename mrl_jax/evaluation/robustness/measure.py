"""Retrieval from worse recordings: nDCG@10 at every dimension in every condition.

The change against clean recordings is a mean of differences on the same queries,
so its interval is much narrower than those of the two means.
"""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float32

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.degrade import Condition, degrade, generator_of
from mrl_jax.evaluation.report.statistics import intervals_of
from mrl_jax.evaluation.scoring import Judgements, evaluate_retrieval
from mrl_jax.inference.search.vectors import Vectors
from mrl_jax.metrics.intervals import Clusters, Interval

METRIC = "ndcg@10"
CLEAN = Condition(kind="clean")
CONDITIONS = (
    CLEAN,
    *(
        Condition(kind=kind, amount=snr_db)
        for kind in ("white", "babble")
        for snr_db in (30.0, 20.0, 15.0, 10.0, 5.0, 0.0, -5.0)
    ),
    *(Condition(kind="reverberation", amount=seconds) for seconds in (0.2, 0.4, 0.8)),
    Condition(kind="telephone"),
    *(Condition(kind="speed", amount=factor) for factor in (0.8, 0.9, 1.1, 1.25)),
    *(Condition(kind="length", amount=fraction) for fraction in (0.75, 0.5, 0.25)),
)
"""What a report measures."""


@dataclasses.dataclass(frozen=True)
class RobustnessResult:
    """nDCG@10 at one dimension in one condition.

    Attributes:
        interval: mean over the judged queries, and its 95 % interval.
        change: mean of the differences from clean recordings, and their interval.
    """

    condition: Condition
    dim: int
    interval: Interval
    change: Interval
    per_query: Float[HostArray, " judged"]


@checked
def check_babble(names: Sequence[str], apart: Sequence[Hashable]) -> None:
    """Raises an `MrlError` where all queries ask for the same, so that none has any babble.

    Args:
        names: ids of the queries.
        apart: as in `degrade_all`.
    """
    if len(set(apart)) < 2:
        raise MrlError(
            f"babble takes at least one other clip, and all {len(names)} queries ask for the same",
            where="queries",
            hint="measure a set whose queries have different answers",
        )


@checked
def degrade_all(
    clips: Sequence[HostArray],
    names: Sequence[str],
    condition: Condition,
    *,
    sample_rate: int,
    apart: Sequence[Hashable],
    seed: int = 0,
    min_samples: int = 1,
) -> list[HostArray]:
    """Every clip in one condition.

    Babble is mixed from the clips of the list that ask for something else: the same question
    by another voice would help the model. They are taken in the order of their names, so that
    the order of the list changes nothing.

    Args:
        clips: one [S] float32 a query.
        names: their ids.
        condition: of all.
        sample_rate: of the clips.
        apart: what each query asks for; clips with the same are not each other's babble.
        seed: of all noise.
        min_samples: silence is put behind a clip that became shorter.
    """
    order = sorted(range(len(clips)), key=lambda row: names[row])
    degraded = []
    for row, (clip, name) in enumerate(zip(clips, names, strict=True)):
        others: list[HostArray] = []
        if condition.kind == "babble":
            others = [clips[other] for other in order if apart[other] != apart[row]]
        rng = generator_of(seed, condition.kind, name)
        worse = degrade(clip, condition, rng, sample_rate=sample_rate, others=others)
        missing = min(min_samples, clip.size) - worse.size
        degraded.append(np.pad(worse, (0, max(missing, 0))))
    return degraded


@checked
def measure_robustness(
    queries: Mapping[Condition, Vectors],
    documents: Float32[HostArray, "N E"],
    judgements: Judgements,
    clusters: Clusters,
    *,
    dims: Sequence[int],
) -> list[RobustnessResult]:
    """Results in the order of the conditions, and of `dims` within each.

    Args:
        queries: vectors of the queries in each condition, clean among them.
        documents: vectors of the corpus.
        judgements: in the order of both; of judged queries only.
        clusters: what judged queries share.
        dims: widths of prefixes.
    """
    scored = {
        condition: evaluate_retrieval(vectors, documents, judgements, dims=dims)
        for condition, vectors in queries.items()
    }
    results = []
    for condition, at_dims in scored.items():
        for clean, result in zip(scored[CLEAN], at_dims, strict=True):
            values, base = result.per_query[METRIC], clean.per_query[METRIC]
            (interval,) = intervals_of([values], clusters)
            (change,) = intervals_of([values - base], clusters)
            results.append(
                RobustnessResult(condition, result.dim, interval, change, per_query=values)
            )
    return results
