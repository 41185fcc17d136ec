"""Duplicates: a clip that is there twice is dropped; texts that say the same become one document.

Rows of one document are never each other's negatives in training, so equal texts have to be one,
and they are kept: several speakers of one sentence are what a model learns from.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64

from mrl_jax.core.arguments import Fraction, PositiveInt, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.paths import PathText, expand_paths
from mrl_jax.curation.near_texts import NearConfig, Pairs, groups, near_pairs
from mrl_jax.curation.rows import Row
from mrl_jax.curation.same_clip import Sameness, clip_digests
from mrl_jax.curation.stage import StageConfig, StageReport, TableStage
from mrl_jax.data.text.normalize import plain_text

_BLOCK = 1024
"""Vectors that are compared with all others at once."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class DuplicatesConfig(StageConfig):
    """Which clips and which texts count as the same.

    Attributes:
        name: of the stage.
        clips: by their samples, by the bytes of their files (faster, and misses a copy that was
            encoded anew), or not at all.
        near: texts that are nearly equal are one document; None for equal ones only. Texts are
            compared without case and punctuation in either case.
        model: folder of a trained model, or its name on the hub; "" for none. Texts of like
            embeddings are one document.
        cosine: from which embeddings are alike.
        most_texts: for the model, which compares all with all: more are refused.
    """

    name: str = "duplicates"
    clips: Sameness = "samples"
    near: NearConfig | None = dataclasses.field(default_factory=NearConfig)
    model: PathText = ""
    cosine: Fraction = 0.98
    most_texts: PositiveInt = 200_000

    def __post_init__(self) -> None:
        expand_paths(self, "stages.duplicates")


class Duplicates(TableStage):
    """Drops clips that are there twice, and gives one `document_id` to texts that say the same.

    Measures `rows`, the rows of the row's document; of one whose text is near another's and not
    equal, `near`, the similarity to the nearest.
    """

    def __init__(self, config: DuplicatesConfig):
        self.name, self.config = config.name, config
        self.measures = (f"{self.name}.rows", f"{self.name}.near")
        self.extra_inputs = _files_of(config.model)

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        rows = self._without_copies(rows)
        kept = [row for row in rows if row.dropped is None]
        merged = iter(self._merged(kept))
        return [row if row.dropped else next(merged) for row in rows]

    def _without_copies(self, rows: Sequence[Row]) -> list[Row]:
        first: dict[str, Row] = {}
        result = []
        for row, digest in zip(rows, clip_digests(rows, self.config.clips), strict=True):
            if digest is not None and (known := first.setdefault(digest, row)) is not row:
                other = "" if known.text == row.text else ", with another text"
                reason = f"the clip is that of {known.id!r}{other}, expected each clip once"
                row = row.drop(self.name, reason)
            result.append(row)
        return result

    def _merged(self, rows: Sequence[Row]) -> list[Row]:
        """Rows with one document for all texts that say the same."""
        plain = [plain_text(row.text or "") for row in rows]
        unique = list(dict.fromkeys(text for text in plain if text))
        near = self._near(unique)
        document = document_groups(rows, plain, unique, near)
        sizes = np.bincount(document, minlength=len(rows))
        nearest = np.zeros(len(unique))
        for side in (near.first, near.second):
            np.maximum.at(nearest, side, near.similarity)
        similarity = dict(zip(unique, nearest, strict=True))
        identities: dict[int, set[str | None]] = {}
        for row, place in zip(rows, document, strict=True):
            identities.setdefault(int(place), set()).add(row.document_id or row.text)
        result = []
        for row, text, place in zip(rows, plain, document, strict=True):
            if text:
                row = row.with_measured(self.name, rows=int(sizes[place]))
            if text and similarity[text]:
                row = row.with_measured(self.name, near=float(similarity[text]))
            if len(identities[int(place)]) > 1:
                of = rows[int(place)]
                name = of.document_id or of.id
                if row.document_id != name:
                    row = dataclasses.replace(row, document_id=name)
                    row = row.note(self.name, f"document {name!r}: its text says the same")
            result.append(row)
        return result

    def _near(self, texts: list[str]) -> Pairs:
        empty = np.zeros(0, np.int64)
        pairs = Pairs(empty, empty, np.zeros(0))
        if self.config.near is not None:
            pairs = near_pairs(texts, self.config.near)
        if self.config.model and texts:
            alike = self._alike(texts)
            pairs = Pairs(
                *(np.concatenate(two) for two in zip(_parts(pairs), _parts(alike), strict=True))
            )
        return pairs

    def _alike(self, texts: list[str]) -> Pairs:
        from mrl_jax.core.errors import MrlError
        from mrl_jax.inference.embedder import Embedder

        if len(texts) > self.config.most_texts:
            problem = f"{len(texts)} texts for the model, expected {self.config.most_texts} or less"
            hint = "leave `model` empty, or allow more by `most_texts`"
            raise MrlError(problem, where=f"stage {self.name!r}", hint=hint)
        vectors = Embedder.load(self.config.model).embed_text(texts, progress=True)
        return cosine_pairs(vectors, self.config.cosine)

    def report(self, before: Sequence[Row], after: Sequence[Row]) -> StageReport | None:
        """Copies dropped, documents merged."""
        copies = sum(row.dropped is not None for row in after)
        pairs = zip(before, after, strict=True)
        merged = sum(old.document_id != new.document_id for old, new in pairs)
        table = (
            ("clips dropped as copies", f"{copies:,}"),
            ("rows in a merged document", f"{merged:,}"),
        )
        return StageReport(title="Duplicates", headings=("what", "rows"), table=table)


def document_groups(
    rows: Sequence[Row], plain: Sequence[str], unique: Sequence[str], near: Pairs
) -> Int64[HostArray, " N"]:
    """For each row the first row of its document: by equal or near texts, and by `document_id`.

    Args:
        plain: of each row its text without case and punctuation; "" says nothing.
        unique: the different ones of them, in order.
        near: pairs of `unique`.
    """
    first: dict[tuple[str, str], int] = {}
    links = []
    for place, (row, text) in enumerate(zip(rows, plain, strict=True)):
        keys = [("text", text)] if text else []
        keys += [("document", row.document_id)] if row.document_id else []
        links += [(first.setdefault(key, place), place) for key in keys]
    links += [
        (first["text", str(unique[a])], first["text", str(unique[b])])
        for a, b in zip(near.first.tolist(), near.second.tolist(), strict=True)
    ]
    ends = np.array(links, np.int64).reshape(-1, 2)
    return groups(len(rows), Pairs(ends[:, 0], ends[:, 1], np.ones(len(ends))))


def cosine_pairs(vectors: Float32[HostArray, "N E"], cosine: float) -> Pairs:
    """Pairs of unit vectors whose cosine is so much or more, by blocks of rows."""
    parts = []
    for begin in range(0, len(vectors), _BLOCK):
        block = vectors[begin : begin + _BLOCK] @ vectors[begin:].T
        first, second = np.nonzero(block >= cosine)
        above = second > first
        first, second = first[above], second[above]
        parts.append((first + begin, second + begin, block[first, second].astype(np.float64)))
    if not parts:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _parts(pairs: Pairs) -> tuple[HostArray, HostArray, HostArray]:
    return pairs.first, pairs.second, pairs.similarity


def _files_of(model: str) -> tuple[str, ...]:
    """The description of a model, which names the digests of all its files."""
    if not model:
        return ()

    from mrl_jax.checkpoints.models import MODEL_FILE
    from mrl_jax.core.errors import existing_file
    from mrl_jax.inference.hub_models import model_folder

    path = existing_file(
        model_folder(model) / MODEL_FILE, hint="expected the folder of a trained model"
    )
    return (str(path),)
