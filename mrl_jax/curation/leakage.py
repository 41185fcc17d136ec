"""Leakage: what of the training rows a held-out split says or plays as well."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from mrl_jax.core.arguments import checked
from mrl_jax.core.errors import MrlError
from mrl_jax.curation.fingerprint import FingerprintConfig
from mrl_jax.curation.near_texts import NearConfig, near_pairs
from mrl_jax.curation.rows import Row
from mrl_jax.curation.same_clip import by_recording, clip_digests, overlaps, sound_copies
from mrl_jax.curation.stage import StageConfig, StageReport, TableStage
from mrl_jax.data.text.normalize import plain_text

Field = Literal["transcript", "text"]
Clips = Literal["sound", "samples", "files", "none"]
Reason = tuple[str, str, Row]
"""What leaks, how, and the held-out row."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class LeakageConfig(StageConfig):
    """Which rows are compared with which, and by what.

    Attributes:
        name: of the stage.
        train: the split that rows are dropped from.
        held_out: the splits that must be new to a model.
        texts: the fields whose texts are compared, without case and punctuation.
        near: texts that are nearly equal leak as well; None for equal ones only.
        clips: recordings are compared by "samples" of 16 bits; by "sound", which adds acoustic
            fingerprints and so finds copies of another encoding, volume or cut; by bytes of their
            "files"; or not at all, "none". Clips that share a part of one file leak in any case
            but the last.
        fingerprint: when a sound is that of a held-out row, for `clips` by sound.
    """

    name: str = "leakage"
    train: str = "train"
    held_out: tuple[str, ...] = ("validation", "dev", "test")
    texts: tuple[Field, ...] = ("transcript", "text")
    near: NearConfig | None = dataclasses.field(default_factory=NearConfig)
    clips: Clips = "samples"
    fingerprint: FingerprintConfig = dataclasses.field(default_factory=FingerprintConfig)

    def __post_init__(self) -> None:
        if not self.held_out:
            raise MrlError("held_out is empty", hint="name the splits to keep apart from training")
        if self.train in self.held_out:
            problem = f"{self.train!r} is both train and held out"
            raise MrlError(problem, hint="name other splits in `held_out`")
        if not self.texts and self.clips == "none":
            raise MrlError("compares nothing", hint="name fields in `texts`, or set `clips`")


class Leakage(TableStage):
    """Drops training rows of which a held-out row has the transcript, the text or the sound.

    Measures of them `by`, what is the same, and `of`, the id of the held-out row.
    """

    def __init__(self, config: LeakageConfig):
        self.name, self.config = config.name, config
        self.measures = (f"{self.name}.by", f"{self.name}.of")

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        held_out = [row for row in rows if row.split in self.config.held_out]
        train = [row for row in rows if row.split == self.config.train]
        self._check(rows, held_out, train)
        reasons: dict[str, Reason] = {}
        self._same_clips(held_out, train, reasons)
        for field in self.config.texts:
            self._same_texts(field, held_out, train, reasons)
        return [self._dropped(row, *reasons[row.id]) if row.id in reasons else row for row in rows]

    def _dropped(self, row: Row, what: str, how: str, of: Row) -> Row:
        reason = f"the {what} is {how} {of.id!r} in {of.split}, expected none of a held-out row"
        return row.with_measured(self.name, by=what, of=of.id).drop(self.name, reason)

    def _check(self, rows: Sequence[Row], held_out: Sequence[Row], train: Sequence[Row]) -> None:
        for wanted, there in ((self.config.held_out, held_out), ((self.config.train,), train)):
            if not there:
                splits = Counter(row.split or "none" for row in rows)
                known = ", ".join(f"{name} ({count})" for name, count in sorted(splits.items()))
                problem = f"no row is in the split {' or '.join(wanted)}; the splits are: {known}"
                hint = "put a split stage before, or name the splits in `train` and `held_out`"
                raise MrlError(problem, where=f"stage {self.name!r}", hint=hint)

    def _same_clips(
        self, held_out: Sequence[Row], train: Sequence[Row], reasons: dict[str, Reason]
    ) -> None:
        if self.config.clips == "none":
            return
        recordings = by_recording(held_out)
        for path, clips in by_recording(train).items():
            for row in clips:
                shared = [one for one in recordings.get(path, ()) if overlaps(one, row)]
                if shared:
                    reasons.setdefault(row.id, ("recording", "part of", shared[0]))
        by = "samples" if self.config.clips == "sound" else self.config.clips
        digests = clip_digests([*held_out, *train], by)
        known: dict[str, Row] = {}
        for row, digest in zip(held_out, digests, strict=False):
            if digest is not None:
                known.setdefault(digest, row)
        for row, digest in zip(train, digests[len(held_out) :], strict=True):
            if digest is not None and digest in known:
                reasons.setdefault(row.id, ("clip", "that of", known[digest]))
        if self.config.clips == "sound":
            others = [row for row in train if row.id not in reasons]
            for name, row in sound_copies(held_out, others, self.config.fingerprint).items():
                reasons[name] = ("sound", "that of", row)

    def _same_texts(
        self,
        field: Field,
        held_out: Sequence[Row],
        train: Sequence[Row],
        reasons: dict[str, Reason],
    ) -> None:
        """Rows whose text is, or is near, that of a held-out row."""
        known = _first_by_text(held_out, field)
        by_text: dict[str, list[Row]] = {}
        for row in train:
            text = plain_text(getattr(row, field) or "")
            if text in known:
                reasons.setdefault(row.id, (field, "that of", known[text]))
            elif text:
                by_text.setdefault(text, []).append(row)
        if self.config.near is None:
            return
        texts = [*known, *by_text]
        pairs = near_pairs(texts, self.config.near, held_out=len(known))
        for first, second in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
            for row in by_text[texts[second]]:
                reasons.setdefault(row.id, (field, "near that of", known[texts[first]]))

    def report(self, before: Sequence[Row], after: Sequence[Row]) -> StageReport | None:
        """Rows dropped by what they share with which split."""
        by, of = f"{self.name}.by", f"{self.name}.of"
        splits = {row.id: row.split or "" for row in after}
        counts = Counter(
            (str(row.measured[by]), splits.get(str(row.measured[of]), ""))
            for row in after
            if by in row.measured
        )
        table = tuple((*names, f"{count:,}") for names, count in sorted(counts.items()))
        return StageReport(title="Leakage", headings=("by", "of split", "rows"), table=table)


def _first_by_text(rows: Sequence[Row], field: Field) -> dict[str, Row]:
    result: dict[str, Row] = {}
    for row in rows:
        if text := plain_text(getattr(row, field) or ""):
            result.setdefault(text, row)
    return result
