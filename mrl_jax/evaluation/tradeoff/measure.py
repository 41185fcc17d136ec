"""What quality costs: every search config measured, the best, and a choice within a budget."""

import dataclasses
import functools
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.evaluation.scoring import Judgements, check_dims
from mrl_jax.inference.search.config import SearchConfig
from mrl_jax.inference.search.exact import truncate
from mrl_jax.inference.search.funnel import Funnel, exact_places, make_funnel, recall_of
from mrl_jax.inference.search.quantize import PRECISIONS
from mrl_jax.inference.search.rotation import leading_directions
from mrl_jax.metrics import ranking as metrics

K = 10
NOISE = 0.1
"""Length of what is added to a copy of a document, whose own is 1."""

TIMED, SECONDS = 25, 2.0
"""Queries a search config that are timed, and when to stop with fewer."""

COSTS = ("bytes", "latency_ms", "flops")
"""What a budget may limit: fields of `Measured`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """A search config, how good it is, and what it costs.

    Attributes:
        ndcg: nDCG@10 of each judged query.
        recall: part of what exact search of full width in float32 finds in its first ten.
        bytes: kept a document.
        flops: operations a query at the size of the corpus: `Funnel.flops`, and for a rank
            two an entry of its directions.
        latency_ms: median time of one query at that size, its encoding not counted.
    """

    config: SearchConfig
    ndcg: Float[HostArray, " judged"]
    recall: float
    bytes: int
    flops: int
    latency_ms: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.ndcg))


@checked
@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits by name: of `COSTS`."""

    limits: Mapping[str, float]

    def excess(self, measured: Measured) -> float:
        """The greatest of cost / limit: within the budget where it is 1 or less."""
        return max(getattr(measured, key) / x for key, x in self.limits.items())


@checked
def usual_shortlist(documents: int) -> int:
    """Documents that a funnel scores again: a tenth, 10 to 100.

    Were it the whole of a small corpus, funnels would look as good as exact search.
    """
    return min(100, max(K, documents // 10))


@checked
def grid(dims: Sequence[int], shortlist: int) -> list[SearchConfig]:
    """Every dim, rank, precision and funnel.

    Ranks of a dim are the smaller dims, so that a projection stands beside a prefix of its
    size. A funnel first looks at as many coordinates as the smallest dim has; it, or a search
    by signs, scores `shortlist` documents again.
    """
    return [
        SearchConfig(dim=dim, rank=rank, precision=precision, prefix=prefix, shortlist=shortlist)
        for dim in dims
        for rank in (None, *(r for r in dims if r < dim))
        for prefix in (None, min(dims))
        if prefix is None or prefix < (dim if rank is None else rank)
        for precision in PRECISIONS
    ]


@checked
def directions_of(
    documents: Float32[HostArray, "N E"], dim: int, rank: int
) -> Float32[HostArray, "dim rank"]:
    """The directions of most energy of the documents' prefixes, as columns.

    Not centred, so that projections keep as much of the inner products as they can.
    """
    directions = leading_directions(truncate(documents, dim), centred=False)
    return directions[:, :rank].astype(np.float32)


@checked
def project(
    vectors: Float32[HostArray, "R E"], dim: int, directions: HostArray | None
) -> Float32[HostArray, "R width"]:
    """A prefix, or its projection, at unit length."""
    cut = truncate(vectors, dim)
    return cut if directions is None else truncate(cut @ directions, None)


@checked
def grow(
    documents: Float32[HostArray, "N E"], size: int, *, seed: int = 0
) -> Float32[HostArray, "size E"]:
    """The documents, and behind them copies with noise, at unit length: something to time.

    Raises:
        MrlError: as `check_size`.
    """
    count, width = documents.shape
    check_size(size, count, width)
    rng, grown = np.random.default_rng(seed), np.empty((size, width), np.float32)
    grown[:count] = documents
    for start in range(count, size, 65_536):
        stop = min(start + 65_536, size)
        noise = rng.standard_normal((stop - start, width), dtype=np.float32)
        copies = truncate(documents[np.arange(start, stop) % count], None)
        grown[start:stop] = truncate(copies + np.float32(NOISE / math.sqrt(width)) * noise, None)
    return grown


@checked
def check_size(size: int, documents: int, width: int) -> None:
    """Raises an `MrlError` for a corpus size below that of the set, or beyond this machine."""
    if size < documents:
        raise MrlError(
            f"the corpus size is {size}, and the set has {documents} documents",
            where="--corpus-size",
            hint=f"pass {documents} or more",
        )
    # The grown corpus, a prefix of it, and what a search makes of that.
    needed, memory = 3 * 4 * size * width, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise MrlError(
            f"{size:,} documents of {width} coordinates take about {needed / 1e9:,.0f} GB while "
            f"they are measured, and this machine has {memory / 1e9:,.0f}",
            where="--corpus-size",
            hint=f"pass {memory // (12 * width):,} or fewer",
        )


@checked
def check_budget(
    budget: "Budget", dims: Sequence[int], *, shortlist: int, size: int, width: int
) -> None:
    """Refuse a budget of bytes or work that no search config is within, before anything is encoded.

    Neither depends on the vectors, so both are taken from a few random ones.

    Raises:
        MrlError: naming the least there is.
    """
    known = {key: limit for key, limit in budget.limits.items() if key != "latency_ms"}
    if not known:
        return
    some = truncate(np.random.default_rng(0).standard_normal((16, width), np.float32), None)
    costs = []
    for config in grid(dims, shortlist):
        kept, prefix = truncate(some[:, : config.rank or config.dim], None), config.prefix
        funnel = make_funnel(kept, config.precision, prefix=prefix, shortlist=shortlist)
        work = _work(funnel, config, size)
        costs.append({"bytes": funnel.bytes_per_document, "flops": work})
    if any(all(cost[key] <= limit for key, limit in known.items()) for cost in costs):
        return
    least = ", ".join(f"{key}={min(cost[key] for cost in costs):.4g}" for key in known)
    raise MrlError(
        f"no search config is within the budget; the least of each is {least}",
        where="--budget",
        hint="allow more, or measure smaller dims with --dims",
    )


@checked
def measure(
    queries: Float32[HostArray, "Q E"],
    documents: Float32[HostArray, "N E"],
    judgements: Judgements,
    *,
    dims: Sequence[int],
    corpus_size: int | None = None,
    shortlist: int | None = None,
    progress: Callable[[Sequence[SearchConfig]], Iterable[SearchConfig]] = list,
) -> list[Measured]:
    """Measure every search config of `grid`.

    Quality is that on the documents themselves; equal scores stand by descending id.

    Args:
        queries, documents: whole embeddings, in the order of the judgements' ids.
        judgements: what is relevant.
        dims: prefixes; also the ranks.
        corpus_size: documents to time at, `grow`n where there are fewer; as many as there
            are by default.
        shortlist: documents that are scored again; `usual_shortlist` by default.
        progress: wraps the search configs as they are gone through.

    Raises:
        MrlError: a dim above the width, a corpus size below that of the corpus, a vector
            that is not finite.
    """
    check_dims(dims, queries.shape[1])
    ids = judgements.document_ids
    order = sorted(range(len(ids)), key=lambda i: ids[i], reverse=True)
    documents = documents[np.asarray(order, np.int64)]
    exact = exact_places(truncate(queries, None), truncate(documents, None), K)
    grades_of = _Grades(judgements, [ids[i] for i in order])
    size = len(documents) if corpus_size is None else corpus_size
    grown = grow(documents, size)
    results: list[Measured] = []
    again = usual_shortlist(len(documents)) if shortlist is None else shortlist
    configs = progress(grid(dims, again))
    for (dim, rank), same in itertools.groupby(configs, lambda s: (s.dim, s.rank)):
        directions = None if rank is None else directions_of(documents, dim, rank)
        own, small, large = (project(x, dim, directions) for x in (queries, documents, grown))
        funnels: list[tuple[SearchConfig, Funnel, HostArray]] = []
        for config in same:
            options = {"prefix": config.prefix, "shortlist": config.shortlist}
            places = make_funnel(small, config.precision, **options).search(own, K)
            funnels.append((config, make_funnel(large, config.precision, **options), places))
        project_query = functools.partial(project, dim=dim, directions=directions)
        took = _latencies([funnel for _, funnel, _ in funnels], project_query, queries)
        results += [
            Measured(
                config=config,
                ndcg=grades_of.ndcg(places),
                recall=recall_of(places, exact),
                bytes=funnel.bytes_per_document,
                flops=_work(funnel, config, size),
                latency_ms=latency,
            )
            for (config, funnel, places), latency in zip(funnels, took, strict=True)
        ]
        del large, funnels  # Those of two projections would not always fit in memory.
    return results


@checked
def pareto(costs: Float[HostArray, "N C"]) -> Bool[HostArray, " N"]:
    """Rows that no other row dominates: as low in every column, and lower in one."""
    dominated = [
        bool(np.any((costs <= row).all(axis=1) & (costs < row).any(axis=1))) for row in costs
    ]
    return ~np.asarray(dominated, bool)


@checked
def costs_of(results: Sequence[Measured], names: Sequence[str] = COSTS) -> Float[HostArray, "N C"]:
    """nDCG, negated, and costs, for `pareto`."""
    rows = [[-r.mean, *(float(getattr(r, name)) for name in names)] for r in results]
    return np.asarray(rows, np.float64)


@checked
def parse_budget(text: str) -> Budget:
    """Limits of "bytes=128" or "latency_ms=5,flops=1e6".

    Raises:
        MrlError: a name that is none, or a limit that is no number above 0.
    """
    limits: dict[str, float] = {}
    for part in text.split(","):
        key, equals, value = (x.strip() for x in part.partition("="))
        if key not in COSTS:
            hint = did_you_mean(key.lower(), COSTS)
            raise MrlError(f"{key!r} cannot be limited", where="--budget", hint=hint)
        if key in limits:
            raise MrlError(f"{key} is limited twice", where="--budget", hint="name it once")
        try:
            limits[key] = float(value)
        except ValueError:
            limits[key] = math.nan
        if not equals or not 0 < limits[key] < math.inf:
            raise MrlError(
                f"the limit of {key} is {value!r}, expected a number above 0",
                where="--budget",
                hint=f"write it as in {key}=128",
            )
    return Budget(limits)


@checked
def choose(results: Sequence[Measured], budget: Budget) -> Measured:
    """The config of best nDCG within the budget; of equals the one of fewest bytes, then work.

    Raises:
        MrlError: none is within it; the nearest is named.
    """
    fitting = [r for r in results if budget.excess(r) <= 1]
    if not fitting:
        near = min(results, key=budget.excess)
        costs = ", ".join(f"{key}={getattr(near, key):.4g}" for key in budget.limits)
        raise MrlError(
            f"no search config is within the budget; the nearest, {title(near.config)}, has "
            f"{costs}",
            where="--budget",
            hint="allow more, or measure smaller dims with --dims",
        )
    return min(fitting, key=lambda r: (-r.mean, r.bytes, r.flops, r.latency_ms))


@checked
def title(config: SearchConfig) -> str:
    """A search config in words."""
    of = f"{config.dim} coordinates"
    of += "" if config.rank is None else f" on {config.rank} directions"
    first = "" if config.prefix is None else f", {config.prefix} first"
    return f"{of}, {config.precision}{first}"


def _work(funnel: Funnel, config: SearchConfig, size: int) -> int:
    """Operations of a query: its projection, where there is one, and the search."""
    return funnel.flops(size) + 2 * config.dim * (config.rank or 0)


class _Grades:
    """nDCG of places in the corpus."""

    def __init__(self, judgements: Judgements, ids: Sequence[str]):
        self.judged, self.all = judgements.judged, judgements.grades()
        self.of = dataclasses.replace(judgements, document_ids=ids).grades_by_row()

    def ndcg(self, ranking: Int[HostArray, "Q k"]) -> Float[HostArray, " judged"]:
        rows = zip(self.of, ranking[self.judged].tolist(), strict=True)
        grades = [[of.get(place, 0) for place in places] for of, places in rows]
        return metrics.ndcg(np.asarray(grades, np.int64), self.all, K)


def _latencies(
    funnels: Sequence[Funnel], project_query: Callable[[HostArray], HostArray], queries: HostArray
) -> list[float]:
    """Milliseconds of each, all in turn, so that other load on the machine affects all alike."""
    for funnel in funnels:
        funnel.search(project_query(queries[:1]), K)  # Compiles.
    took: list[list[float]] = [[] for _ in funnels]
    for turn in range(TIMED):
        row = turn % len(queries)
        for funnel, times in zip(funnels, took, strict=True):
            start = time.perf_counter()
            funnel.search(project_query(queries[row : row + 1]), K)
            times.append(time.perf_counter() - start)
        if turn >= 2 and sum(map(sum, took)) > SECONDS * len(funnels):
            break
    return [1000 * float(np.median(times)) for times in took]
