"""How much of an embedding is used: spectra, the gap between modalities, and controls.

A prefix is compared with other ways to keep as many numbers: other coordinates, and
projections on leading directions. Each way is a `View`, vectors whose first k coordinates
are what it keeps at size k, so that all are searched and scored by the same code.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError, MrlError
from mrl_jax.evaluation.scoring import Judgements, check_dims, evaluate_retrieval
from mrl_jax.inference.search.rotation import check_vectors, leading_directions

ENERGY_FRACTIONS = (0.90, 0.95, 0.99)
"""Fractions of the energy whose rank is measured."""
METRIC = "ndcg@10"


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Singular values of a matrix of embeddings, largest first; energy is their square."""

    values: Float[HostArray, " R"]

    @property
    def energies(self) -> Float[HostArray, " R"]:
        """Part of each direction in the sum of squares."""
        # Scaled first, as squares of small values would vanish.
        squares = (self.values / self.values[0]) ** 2
        return squares / squares.sum()

    @property
    def cumulative(self) -> Float[HostArray, " R"]:
        """Part that the first 1, 2, ... directions keep; the last is exactly 1."""
        sums = np.cumsum(self.energies)
        return sums / sums[-1]

    @property
    def effective_rank(self) -> float:
        """exp(entropy) of singular values divided by their sum (Roy and Vetterli, 2007)."""
        return _exp_entropy(self.values / self.values.sum())

    @property
    def energy_rank(self) -> float:
        """exp(entropy) of the energies: the same of squared values, hence never larger."""
        return _exp_entropy(self.energies)

    @property
    def stable_rank(self) -> float:
        """Sum of squares over the largest square."""
        return float(1.0 / self.energies[0])

    @property
    def participation_ratio(self) -> float:
        """Squared sum of squares over the sum of fourth powers."""
        return float(1.0 / (self.energies**2).sum())

    def rank_keeping(self, fraction: float) -> int:
        """The least number of directions that keep this part of the energy."""
        if not 0 < fraction <= 1:
            raise ArgumentError(f"fraction is {fraction}, expected more than 0 and at most 1")
        # Reached but for rounding is reached.
        return int(np.argmax(self.cumulative >= fraction - 1e-12)) + 1

    def measures(self) -> dict[str, float]:
        """All numbers by name."""
        return {
            "effective rank": self.effective_rank,
            "energy rank": self.energy_rank,
            "stable rank": self.stable_rank,
            "participation ratio": self.participation_ratio,
            **{f"rank keeping {f:.0%}": float(self.rank_keeping(f)) for f in ENERGY_FRACTIONS},
        }


@dataclasses.dataclass(frozen=True)
class View:
    """One way to keep k numbers of an embedding: the first k coordinates of these vectors.

    `seed` is that of a random way.
    """

    kind: str
    queries: Float32[HostArray, "Q E"]
    documents: Float32[HostArray, "N E"]
    seed: int | None = None


@dataclasses.dataclass(frozen=True)
class SizeResult:
    """nDCG@10 of every judged query, of one view at one size."""

    kind: str
    size: int
    per_query: Float[HostArray, " judged"]
    seed: int | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(self.per_query))


@dataclasses.dataclass(frozen=True)
class BlockResult:
    """What coordinates `start` to `stop` are good for: nDCG@10 of every judged query.

    Attributes:
        alone: with these coordinates only.
        without: with all others.
        before, upto: with the prefix that ends before them, and the one that ends with
            them; before the first block there is none, which scores 0.
        full: with all coordinates.
    """

    start: int
    stop: int
    alone: Float[HostArray, " judged"]
    without: Float[HostArray, " judged"]
    before: Float[HostArray, " judged"]
    upto: Float[HostArray, " judged"]
    full: Float[HostArray, " judged"]

    @property
    def adds(self) -> Float[HostArray, " judged"]:
        """What is lost without the block; below zero it harms."""
        return self.full - self.without

    @property
    def name(self) -> str:
        return f"{self.start + 1}-{self.stop}"


@checked
def spectrum(vectors: Float[HostArray, "N E"], *, centred: bool) -> Spectrum:
    """The singular values of embeddings, one a row.

    Args:
        vectors: as they are compared, usually unit vectors.
        centred: subtract their mean first.

    Raises:
        MrlError: no vectors, one that is not finite, or nothing left of them.
    """
    check_vectors(vectors)
    matrix = vectors.astype(np.float64)
    largest = float(np.abs(matrix).max())
    matrix = matrix - matrix.mean(axis=0) if centred else matrix
    # Equal rows differ from their mean by no more than rounding.
    if np.abs(matrix).max() <= 1e-12 * largest:
        raise MrlError(
            f"the {len(vectors)} vectors are all alike, so they have no spectrum",
            hint="measure more inputs, or check the model's weights",
        )
    return Spectrum(np.linalg.svd(matrix, compute_uv=False))


@checked
def modality_gap(
    queries: Float[HostArray, "Q E"], documents: Float[HostArray, "N E"]
) -> tuple[float, float]:
    """Distance between the mean query and the mean document, and the cosine of the two."""
    check_vectors(queries, "query")
    check_vectors(documents, "document")
    a, b = (x.astype(np.float64).mean(axis=0) for x in (queries, documents))
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / lengths if lengths else float("nan")
    return float(np.linalg.norm(a - b)), cosine


@checked
def views(
    queries: Float32[HostArray, "Q E"], documents: Float32[HostArray, "N E"], *, seeds: int = 5
) -> list[View]:
    """The prefix, and the ways to keep as many numbers that it is compared with.

    "prefix", "last coordinates" (the reversed prefix) and "random coordinates" (once a
    seed) keep coordinates. The others project: on the leading directions of the documents,
    or of queries and documents together, as they are; and, as "PCA", of the documents less
    their mean, which is subtracted from queries as well. Directions are fitted on what is
    searched, without judgements.

    Raises:
        MrlError: no vectors, or one that is not finite.
    """
    check_vectors(queries, "query")
    check_vectors(documents, "document")
    both = np.concatenate((queries, documents))
    mean = documents.mean(axis=0, dtype=np.float64).astype(np.float32)
    less = documents - mean
    ways = [
        View("prefix", queries, documents),
        _rotated("directions of documents", queries, documents, documents, centred=False),
        _rotated("directions of both", queries, documents, both, centred=False),
        _rotated("PCA of documents", queries - mean, less, less, centred=True),
    ]
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(queries.shape[1])
        ways.append(View("random coordinates", queries[:, order], documents[:, order], seed))
    ways.append(View("last coordinates", queries[:, ::-1].copy(), documents[:, ::-1].copy()))
    return ways


@checked
def sizes_for(width: int, dims: Sequence[int]) -> tuple[int, ...]:
    """Powers of two up to the width, the dims, and the width itself."""
    powers = {2**power for power in range(width.bit_length()) if 2**power <= width}
    return tuple(sorted(powers | set(dims) | {width}))


@checked
def measure_sizes(
    shown: Sequence[View], judgements: Judgements, *, sizes: Sequence[int]
) -> list[SizeResult]:
    """nDCG@10 of every view at every size.

    Raises:
        MrlError: a size above the width; a vector that is not finite.
    """
    rows = []
    for view in shown:
        scored = evaluate_retrieval(view.queries, view.documents, judgements, dims=sizes, ks=[10])
        rows += [SizeResult(view.kind, one.dim, one.per_query[METRIC], view.seed) for one in scored]
    return rows


@checked
def measure_blocks(
    queries: Float32[HostArray, "Q E"],
    documents: Float32[HostArray, "N E"],
    judgements: Judgements,
    *,
    edges: Sequence[int],
) -> list[BlockResult]:
    """What each block of coordinates is good for.

    Args:
        queries, documents, judgements: as in `evaluate_retrieval`.
        edges: where blocks end: [8, 16] is coordinates 1 to 8, and 9 to 16; the last is the
            width.

    Raises:
        MrlError: an edge above the width; a vector that is not finite.
    """
    width = queries.shape[1]
    check_dims(edges, width)
    if len(edges) < 2 or list(edges) != sorted(edges) or edges[-1] != width:
        raise ArgumentError(f"edges are {list(edges)}, expected two or more that end with {width}")

    def score(keep: HostArray) -> HostArray:
        (result,) = evaluate_retrieval(
            queries[:, keep], documents[:, keep], judgements, dims=[len(keep)], ks=[10]
        )
        return result.per_query[METRIC]

    every = np.arange(width)
    full, before = score(every), np.zeros(len(judgements.judged))
    blocks = []
    for start, stop in zip([0, *edges[:-1]], edges, strict=True):
        upto = full if stop == width else score(every[:stop])
        alone = upto if start == 0 else score(every[start:stop])
        without = score(np.delete(every, slice(start, stop)))
        blocks.append(BlockResult(start, stop, alone, without, before, upto, full))
        before = upto
    return blocks


@checked
def block_edges(width: int, count: int = 8) -> tuple[int, ...]:
    """Ends of `count` blocks of like size, fewer where there are fewer coordinates."""
    count = min(count, width)
    return tuple(width * (block + 1) // count for block in range(count))


def _rotated(
    kind: str, queries: HostArray, documents: HostArray, fitted: HostArray, *, centred: bool
) -> View:
    directions = leading_directions(fitted, centred=centred).astype(np.float32)
    return View(kind, queries @ directions, documents @ directions)


def _exp_entropy(shares: HostArray) -> float:
    some = shares[shares > 0]
    return float(np.exp(-(some * np.log(some)).sum()))
