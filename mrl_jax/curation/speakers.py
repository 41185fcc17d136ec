"""Stage `speakers`: clips without a named speaker are grouped by their voices.

The groups stand in for speakers where data are split, so that nobody is in two splits. Vectors are
standardised over the table. Where the number of speakers is known, Ward's method makes as many
groups; otherwise the two groups whose clips are nearest by their mean cosine are joined, until none
are near enough.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Float32, Int

from mrl_jax.checkpoints.towers import TOWER_FILE, read_info
from mrl_jax.core.arguments import PositiveFloat, PositiveInt, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError, MrlError
from mrl_jax.core.extras import require
from mrl_jax.core.limits import MAX_SECONDS
from mrl_jax.core.paths import PathText, expand_paths, user_path
from mrl_jax.curation.clip_batches import embed_rows
from mrl_jax.curation.rows import Row, hours_of
from mrl_jax.curation.speaker_vectors import StateStatistics, mfcc_statistics
from mrl_jax.curation.stage import StageConfig, StageReport, TableStage
from mrl_jax.models.towers import kinds_of

RATE, LEAST_SAMPLES = 16_000, 1_600
"""Of clips whose MFCCs are taken."""
DISTANCE = 0.9
"""A high one: a speaker in two splits does harm, a group of two speakers does not."""
MOST_ROWS = 8_000
"""Clips that are compared with each other: half of the square of it in 8 bytes is 256 MB."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeakersConfig(StageConfig):
    """How voices are compared.

    Attributes:
        tower: folder of a speech tower; "" compares MFCCs.
        layer: of the tower, counted from 1. The first was the best of small towers; MFCCs were
            better still, see docs/curation_models.md.
        speakers: how many there are, if that is known.
        distance: from 0 to 2, where groups are no longer joined if it is not.
        most_rows: clips that are compared with each other, drawn at random; the others join the
            nearest group.
        max_seconds: longer clips are dropped.
        seed: of that draw; None for that of the run.
    """

    name: str = "speakers"
    tower: PathText = ""
    layer: PositiveInt = 1
    speakers: PositiveInt | None = None
    distance: PositiveFloat = DISTANCE
    most_rows: PositiveInt = MOST_ROWS
    max_seconds: PositiveFloat = MAX_SECONDS
    seed: int | None = None

    def __post_init__(self) -> None:
        expand_paths(self, f"stages.{self.name}")


class Speakers(TableStage):
    """Names the speakers of clips that have none: "cluster-001" has the most clips.

    Raises:
        MrlError: no speech tower, or one with fewer layers; a package that is not installed.
    """

    def __init__(self, config: SpeakersConfig):
        self.config, self.name = config, config.name
        if not config.tower:
            require("librosa", by="comparing voices without a tower")
            return
        folder = user_path(config.tower)
        layers = read_info(folder, expected=kinds_of("speech")).config.num_layers
        self.extra_inputs = (str(folder / TOWER_FILE),)
        if config.layer > layers:
            problem = f"layer is {config.layer}, and the tower has {layers}"
            hint = f"choose from 1 to {layers}"
            raise MrlError(problem, where=f"stages.{self.name}", hint=hint)

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        out = list(rows)
        places = [p for p, row in enumerate(rows) if row.audio is not None and row.speaker is None]
        if not places:
            return out
        embed, rate, least = self._vectors()
        table = embed_rows(
            [rows[place] for place in places],
            embed,
            rate=rate,
            min_samples=least,
            max_seconds=self.config.max_seconds,
            progress=f"{self.name}: clips",
        )
        for number, reason in table.broken.items():
            out[places[number]] = out[places[number]].drop(self.name, reason)
        if not table.places:
            return out
        labels = cluster_voices(
            table.vectors,
            speakers=self.config.speakers,
            distance=self.config.distance,
            most_rows=self.config.most_rows,
            seed=self.config.seed or 0,
        )
        for number, label in zip(table.places, labels, strict=True):
            place, name = places[number], f"cluster-{label + 1:03}"
            row = dataclasses.replace(out[place], speaker=name)
            out[place] = row.note(self.name, f"voice of {name}")
        return out

    def _vectors(self) -> tuple[Callable[[list[HostArray]], HostArray], int, int]:
        if not self.config.tower:
            return functools.partial(mfcc_statistics, sample_rate=RATE), RATE, LEAST_SAMPLES
        statistics = StateStatistics(self.config.tower)
        of_layer = statistics.of_layer(self.config.layer)
        return of_layer, statistics.sample_rate, statistics.min_samples

    def report(self, before: Sequence[Row], after: Sequence[Row]) -> StageReport:
        """The largest groups."""
        unnamed = {row.id for row in before if row.speaker is None}
        groups: dict[str, list[Row]] = collections.defaultdict(list)
        for row in after:
            if row.id in unnamed and row.speaker is not None:
                groups[row.speaker].append(row)
        table = tuple(
            (name, f"{len(own):,}", f"{hours_of(own):.2f}") for name, own in sorted(groups.items())
        )
        return StageReport(
            title="Groups of voices",
            headings=("group", "clips", "hours"),
            table=table[:20],
            text=f"{len(groups)} groups stand in for speakers. They are guesses: see purity and "
            "completeness in docs/curation_models.md.",
        )


@checked
def cluster_voices(
    vectors: Float32[HostArray, "N W"],
    *,
    speakers: PositiveInt | None = None,
    distance: PositiveFloat = DISTANCE,
    most_rows: PositiveInt = MOST_ROWS,
    seed: int = 0,
) -> Int[HostArray, " N"]:
    """Groups of clips, numbered from 0, the largest first; of equal ones by their first clip.

    Args:
        vectors: of clips; standardised here.
        speakers: groups that are made; None joins groups up to the distance.
        distance: mean cosine distance of the clips of two groups.
        most_rows: clips that are clustered; the others join the group with the nearest mean.
        seed: of their draw.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    if not len(vectors):
        raise ArgumentError("there are no clips to group")
    unit = standardised(vectors)
    chosen = np.arange(len(unit))
    if len(unit) > most_rows:
        chosen = np.sort(np.random.default_rng(seed).choice(len(unit), most_rows, replace=False))
    if len(chosen) == 1:
        labels = np.zeros(1, np.int64)
    else:
        if speakers is None:
            tree = linkage(unit[chosen], method="average", metric="cosine")
            labels = fcluster(tree, distance, "distance") - 1
        else:
            labels = fcluster(linkage(unit[chosen], method="ward"), speakers, "maxclust") - 1
    means = np.stack([unit[chosen][labels == i].mean(axis=0) for i in range(labels.max() + 1)])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    whole = (unit @ means.T).argmax(axis=1)
    whole[chosen] = labels
    return _by_size(whole)


def standardised(vectors: HostArray) -> Float[HostArray, "N W"]:
    """Each number with mean 0 and deviation 1 over the table, then each row of unit length."""
    table = vectors.astype(np.float64)
    spread = table.std(axis=0)
    centred = (table - table.mean(axis=0)) / np.where(spread > 1e-8, spread, np.inf)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    # A clip in the very middle has no direction; the cosine of zeros would be undefined.
    flat = np.full_like(centred, 1 / np.sqrt(centred.shape[1]))
    return np.where(lengths > 1e-12, centred / np.maximum(lengths, 1e-12), flat)


def _by_size(labels: HostArray) -> HostArray:
    numbers, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    rank = np.empty(len(numbers), np.int64)
    rank[order] = np.arange(len(numbers))
    return rank[np.searchsorted(numbers, labels)]


@checked
def purity(labels: Sequence[int] | HostArray, speakers: Sequence[str]) -> float:
    """Share of the clips whose group has their speaker as its most frequent one."""
    return _agreement(list(labels), speakers)


@checked
def completeness(labels: Sequence[int] | HostArray, speakers: Sequence[str]) -> float:
    """Share of the clips whose speaker has their group as the most frequent one."""
    return _agreement(speakers, list(labels))


def _agreement(groups: Sequence[object], values: Sequence[object]) -> float:
    counts: dict[object, collections.Counter[object]] = collections.defaultdict(collections.Counter)
    for group, value in zip(groups, values, strict=True):
        counts[group][value] += 1
    return sum(max(own.values()) for own in counts.values()) / len(values)
