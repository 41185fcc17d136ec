"""Stage `mine`: pairs of speech and text, or of two texts, where none are given.

A trained model embeds both sides, and margin scores choose (see `curation.margin`). Hard negatives
come from its frozen text tower.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mrl_jax.checkpoints.models import MODEL_FILE, read_model_info
from mrl_jax.core.arguments import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    checked,
)
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.limits import MAX_SECONDS
from mrl_jax.core.paths import PathText, expand_paths
from mrl_jax.curation.clip_batches import embed_rows
from mrl_jax.curation.held_out import TRAIN
from mrl_jax.curation.margin import hard_negatives, margin_pairs
from mrl_jax.curation.rows import Row
from mrl_jax.curation.stage import StageConfig, StageReport, TableStage
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.hub_models import model_folder

MIN_MARGIN = 1.17
"""From here on 19 of 20 pairs of the demo's test are right; see docs/curation_models.md."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class MineConfig(StageConfig):
    """What is paired, and by which model.

    Attributes:
        model: folder of a trained model, or its name on the hub.
        queries: "speech" pairs clips without a text with texts alone, "transcript" the
            transcripts of rows without a text; "none" only adds negatives.
        task: of the model's training config, whose prompt is put before a query; "" is none.
        k: neighbours that a pair is compared with.
        min_margin: pairs below are not taken.
        negatives: hard negatives of each row with a document, of its own split; 0 for none.
        max_cosine: nearer documents are no negatives: they say the same in other words.
        max_seconds: longer clips are dropped.
    """

    name: str = "mine"
    model: PathText
    queries: Literal["speech", "transcript", "none"] = "speech"
    task: str = ""
    k: PositiveInt = 4
    min_margin: NonNegativeFloat = MIN_MARGIN
    negatives: NonNegativeInt = 0
    max_cosine: Fraction = 0.95
    max_seconds: PositiveFloat = MAX_SECONDS

    def __post_init__(self) -> None:
        expand_paths(self, f"stages.{self.name}")
        where = f"stages.{self.name}"
        if not self.model:
            hint = "name the folder of a trained model"
            raise MrlError("is empty", where=f"{where}.model", hint=hint)
        if self.queries == "none" and not self.negatives:
            hint = "set negatives, or queries=speech"
            raise MrlError("mines neither pairs nor negatives", where=where, hint=hint)


class Mine(TableStage):
    """Measures `margin` and `cosine` of each query's best pair, and `negatives`, a list of ids.

    Raises:
        MrlError: no trained model; it has no prompt for the task.
    """

    def __init__(self, config: MineConfig):
        self.config, self.name = config, config.name
        folder = model_folder(config.model)
        info = read_model_info(folder)
        if config.task and config.task not in info.prompts:
            known = ", ".join(map(repr, info.prompts)) or "no task"
            hint = f"the model knows {known}"
            raise MrlError(f"there is no task {config.task!r}", where=folder, hint=hint)
        self.extra_inputs = (str(folder / MODEL_FILE),)
        pairs = ("margin", "cosine") if config.queries != "none" else ()
        keys = (*pairs, *(("negatives",) if config.negatives else ()))
        self.reads_split = config.negatives > 0
        self.version = 1 if config.negatives else 0  # Version 0 took those of other splits too.
        self.measures = tuple(f"{self.name}.{key}" for key in keys)

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        out = list(rows)
        if not any(self._is_query(row) or row.text is not None for row in rows):
            return out
        embedder = Embedder.load(self.config.model, max_seconds=self.config.max_seconds)
        if self.config.queries != "none":
            self._pair(out, embedder)
        if self.config.negatives:
            self._add_negatives(out, embedder)
        return out

    def _is_query(self, row: Row) -> bool:
        if row.text is not None or self.config.queries == "none":
            return False
        spoken = self.config.queries == "speech"
        return row.audio is not None if spoken else bool((row.transcript or "").strip())

    def _pair(self, rows: list[Row], embedder: Embedder) -> None:
        """Give the queries among the rows their documents."""
        queries = [place for place, row in enumerate(rows) if self._is_query(row)]
        documents: dict[str, Row] = {}
        for row in rows:
            if row.audio is None and row.transcript is None and (row.text or "").strip():
                documents.setdefault(row.document or "", row)
        texts = list(documents.values())
        if not queries or not texts:
            return
        queries, vectors = self._query_vectors(rows, queries, embedder)
        if not queries:
            return
        found = margin_pairs(
            vectors,
            embedder.embed_text([str(row.text) for row in texts], progress=True),
            k=self.config.k,
        )
        pairs = zip(found.first, found.second, found.margins, found.cosines, strict=True)
        for one, other, margin, cosine in pairs:
            place, document = queries[one], texts[other]
            row = rows[place].with_measured(self.name, margin=margin, cosine=cosine)
            if margin >= self.config.min_margin:
                row = dataclasses.replace(
                    row,
                    text=document.text,
                    text_language=document.text_language,
                    document_id=document.document,
                ).note(self.name, f"paired with {document.id}, margin {margin:.2f}")
            rows[place] = row

    def _query_vectors(
        self, rows: list[Row], places: list[int], embedder: Embedder
    ) -> tuple[list[int], HostArray]:
        """Queries that can be embedded, and their vectors; the others are marked as dropped."""
        task = self.config.task or None
        if self.config.queries == "transcript":
            texts = [str(rows[place].transcript) for place in places]
            return places, embedder.embed_text(texts, task=task, progress=True)
        rate = embedder.model.speech.config.sample_rate
        table = embed_rows(
            [rows[place] for place in places],
            lambda clips: embedder.embed_speech([(clip, rate) for clip in clips], task=task),
            rate=rate,
            min_samples=embedder.model.min_samples,
            max_seconds=self.config.max_seconds,
            progress=f"{self.name}: clips",
        )
        for number, reason in table.broken.items():
            rows[places[number]] = rows[places[number]].drop(self.name, reason)
        return [places[number] for number in table.places], table.vectors

    def _add_negatives(self, rows: list[Row], embedder: Embedder) -> None:
        """Name for each row with a document the rows of the nearest others, of the same split."""
        splits: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            if row.text and row.dropped is None:
                splits.setdefault(row.split or TRAIN, []).append(place)
        texts = list(dict.fromkeys(str(rows[p].text) for own in splits.values() for p in own))
        if not texts:
            return
        vectors = dict(zip(texts, embedder.embed_text(texts, progress=True), strict=True))
        for own in splits.values():
            self._add_negatives_of(rows, own, vectors)

    def _add_negatives_of(
        self, rows: list[Row], places: Sequence[int], vectors: Mapping[str, HostArray]
    ) -> None:
        """As `_add_negatives`, of the rows of one split, by the vectors of their texts."""
        config = self.config
        first: dict[str, int] = {}
        for place in places:
            first.setdefault(str(rows[place].text), place)
        negatives = hard_negatives(
            np.stack([vectors[text] for text in first]),
            [rows[place].document or "" for place in first.values()],
            count=config.negatives,
            max_cosine=config.max_cosine,
        )
        ids = [rows[place].id for place in first.values()]
        of_text = {
            text: json.dumps([ids[other] for other in own], ensure_ascii=False)
            for text, own in zip(first, negatives, strict=True)
        }
        for place in places:
            row = rows[place]
            rows[place] = row.with_measured(self.name, negatives=of_text[str(row.text)])

    def report(self, before: Sequence[Row], after: Sequence[Row]) -> StageReport:
        """How many pairs, and the margins of all candidates."""
        key = f"{self.name}.margin"
        margins = [float(row.measured[key]) for row in after if key in row.measured]
        queries = sum(map(self._is_query, before))
        taken = sum(margin >= self.config.min_margin for margin in margins)
        negatives = sum(f"{self.name}.negatives" in row.measured for row in after)
        return StageReport(
            title="Mined pairs",
            headings=("what", "rows"),
            table=(
                ("queries without a document", f"{queries:,}"),
                (f"paired, margin of {self.config.min_margin:g} or more", f"{taken:,}"),
                ("left without one", f"{queries - taken:,}"),
                ("with hard negatives", f"{negatives:,}"),
            ),
            figure=_histogram(margins, self.config.min_margin) if margins else None,
            text="Margins of the best pair of each query: its cosine over the mean cosine of both "
            "sides to their nearest neighbours.",
        )


def _histogram(margins: Sequence[float], least: float) -> Any:
    from mrl_jax.evaluation.report.plotting import figure

    drawing, axes = figure()
    axes.hist(margins, bins=60)
    axes.axvline(least, color="black", linestyle="--")
    axes.set_xlabel("margin")
    axes.set_ylabel("queries")
    return drawing


def negative_rows(rows: Sequence[Row], *, name: str = "mine") -> list[dict[str, Any]]:
    """A table of hard negatives: id, document, and the texts of the negatives, nearest first.

    Args:
        rows: of a curation, those that were dropped among them.
        name: of the stage.
    """
    texts = {row.id: row.text for row in rows if row.text is not None and row.dropped is None}
    table = []
    for row in rows:
        if row.dropped is None and (listed := row.measured.get(f"{name}.negatives")) is not None:
            others = [texts[one] for one in json.loads(str(listed)) if one in texts]
            table.append({"id": row.id, "document": row.text, "negatives": others})
    return table
