"""The data card: what is in the data, what was dropped by which rule, and clips to listen to.

card.md, card.html   the same page twice; figures are in card/, clips in clips/ and examples/
"""

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.errors import readable
from mrl_jax.core.files import write_bytes, write_text
from mrl_jax.curation.audio import load_audio
from mrl_jax.curation.config import CurationConfig
from mrl_jax.curation.output import EXAMPLES, KEY, clip_name, is_whole, remove_clips
from mrl_jax.curation.pipeline import StageResult
from mrl_jax.curation.rows import Row, hours_of, rule_of
from mrl_jax.curation.stage import BrokenRow
from mrl_jax.data.audio.encode import flac_bytes, quantize
from mrl_jax.evaluation.report.page import FigureFile, SoundFile, Table, html_page, markdown_page
from mrl_jax.evaluation.report.plotting import figure, save

FIGURES = "card"
_MOST_RULES = 8
"""Rules whose dropped clips can be listened to."""
_LONGEST_EXAMPLE = 20.0
"""Seconds."""


def write_card(
    config: CurationConfig,
    rows: Sequence[Row],
    results: Sequence[StageResult],
    tables: dict[str, int],
    issues: Sequence[str],
    workdir: Path,
) -> None:
    """Write the card of a finished run, in place of an earlier one.

    Args:
        config: of the run.
        rows: all of them.
        results: what each stage did.
        tables: rows by the name of the table that was written.
        issues: of the sources.
        workdir: that gets the card.
    """
    kept = [row for row in rows if row.dropped is None]
    figures = _figures(kept, results, workdir)
    page: dict[str, Any] = {
        "title": f"Data card: {config.name}",
        "paragraphs": _summary(kept, rows, results, issues),
        "tables": {
            "Splits": _splits(kept),
            "Written": Table(("table", "rows"), [(name, f"{n:,}") for name, n in tables.items()]),
            "Stages": _stages(results),
            "Dropped, by rule": _dropped(rows),
            "Kept clips": _kept(kept),
            "Languages and speakers": _counts(kept),
            **_reports(results),
        },
        "figures": figures,
        "sounds": _examples(config, rows, workdir),
        "footer": f"Seed {config.seed}; every row with its history is in rows.jsonl.",
    }
    write_text(workdir / "card.md", readable(markdown_page(**page)))
    write_text(workdir / "card.html", readable(html_page(workdir, **page)))


def _summary(
    kept: Sequence[Row], rows: Sequence[Row], results: Sequence[StageResult], issues: Sequence[str]
) -> list[str]:
    whole = results[0].hours_after
    speech = sum(row.audio is not None for row in kept)
    lines = [
        f"{len(kept):,} rows are kept of {len(rows):,}: {speech:,} with speech, "
        f"{hours_of(kept):.2f} hours of the {whole:.2f} that could be read; "
        f"{len(kept) - speech:,} are texts alone."
    ]
    made = Counter(row.synthetic for row in kept if row.synthetic is not None)
    if made:
        parts = ", ".join(f"{count:,} rows ({kind})" for kind, count in sorted(made.items()))
        lines.append(f"Made by a machine: {parts}.")
    if issues:
        lines.append(f"What is wrong with the sources: {'; '.join(issues)}.")
    return lines


def _splits(kept: Sequence[Row]) -> Table:
    rows = []
    for split in sorted({row.split or "" for row in kept}):
        own = [row for row in kept if (row.split or "") == split]
        speakers = len({row.speaker for row in own} - {None})
        documents = len({row.document for row in own} - {None})
        synthetic = sum(row.synthetic is not None for row in own)
        counts = (f"{count:,}" for count in (speakers, documents, synthetic))
        rows.append((split or "none given", f"{len(own):,}", f"{hours_of(own):.2f}", *counts))
    return Table(("split", "rows", "hours", "speakers", "documents", "synthetic"), rows)


def _stages(results: Sequence[StageResult]) -> Table:
    rows = [
        (
            one.name,
            f"{one.before:,}",
            f"{one.after:,}",
            f"{one.hours_before:.2f}",
            f"{one.hours_after:.2f}",
        )
        for one in results
    ]
    return Table(("stage", "rows before", "rows after", "hours before", "hours after"), rows)


def _dropped(rows: Sequence[Row]) -> Table:
    rules: dict[str, list[Row]] = {}
    for row in rows:
        if row.dropped is not None:
            rules.setdefault(rule_of(row.dropped), []).append(row)
    lines = [
        (rule, f"{len(own):,}", f"{hours_of(own):.2f}")
        for rule, own in sorted(rules.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    return Table(("rule", "rows", "hours"), lines)


def _kept(kept: Sequence[Row]) -> Table:
    """Quantiles of the length of clips, and of every number that was measured of them."""
    values: dict[str, list[float]] = {}
    for row in kept:
        if row.seconds is not None:
            values.setdefault("seconds", []).append(row.seconds)
        for key, value in row.measured.items():
            if not isinstance(value, str):
                values.setdefault(key, []).append(float(value))
    lines = []
    for key, own in values.items():
        numbers = np.quantile(own, [0.0, 0.05, 0.5, 0.95, 1.0])
        lines.append((key, *(f"{number:.4g}" for number in numbers)))
    return Table(("measured", "least", "5%", "median", "95%", "most"), lines)


def _counts(kept: Sequence[Row]) -> Table:
    lines = []
    for name in ("language", "text_language", "speaker"):
        groups: dict[str, list[Row]] = {}
        for row in kept:
            groups.setdefault(getattr(row, name) or "not known", []).append(row)
        ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
        for value, own in ordered[:20]:
            lines.append((name, value, f"{len(own):,}", f"{hours_of(own):.2f}"))
        if len(ordered) > 20:
            rest = [row for _, own in ordered[20:] for row in own]
            others = f"{len(ordered) - 20:,} others"
            lines.append((name, others, f"{len(rest):,}", f"{hours_of(rest):.2f}"))
    return Table(("of", "value", "rows", "hours"), lines)


def _reports(results: Sequence[StageResult]) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    for one in results:
        if one.report is not None and one.report.table:
            title = one.report.title
            title = f"{title} ({one.name})" if title in tables else title  # Two of one kind.
            tables[title] = Table(one.report.headings, one.report.table)
    return tables


def _figures(
    kept: Sequence[Row], results: Sequence[StageResult], workdir: Path
) -> list[FigureFile]:
    """Lengths of the kept clips and what each stage left, then the figures of the stages."""
    (workdir / FIGURES).mkdir(exist_ok=True)
    drawings: list[tuple[str, Any, str]] = []
    seconds = [row.seconds for row in kept if row.seconds is not None]
    if seconds:
        drawing, axes = figure(panels=2)
        axes[0].hist(seconds, bins=40)
        axes[0].set_xlabel("seconds of a clip")
        axes[0].set_ylabel("clips")
        names = [one.name for one in results]
        axes[1].bar(range(len(names)), [one.hours_after for one in results])
        axes[1].set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes[1].set_ylabel("hours after the stage")
        drawings.append(("overview", drawing, "Lengths of the kept clips, and hours by stage."))
    for one in results:
        if one.report is not None and one.report.figure is not None:
            drawings.append((one.name, one.report.figure, one.report.text or one.report.title))
    files = []
    for name, drawing, caption in drawings:
        save(drawing, workdir / FIGURES / f"{name}.png")
        files.append(FigureFile(f"{FIGURES}/{name}.png", caption))
    for path in (workdir / FIGURES).glob("*.png"):
        if f"{FIGURES}/{path.name}" not in {one.name for one in files}:
            path.unlink()
    return files


def _examples(config: CurationConfig, rows: Sequence[Row], workdir: Path) -> list[SoundFile]:
    """A few kept clips, and a few of each rule that dropped some."""
    groups: dict[str, list[Row]] = {"kept": []}
    for row in rows:
        if row.audio is not None and (row.seconds or 0.0) > 0:
            name = "kept" if row.dropped is None else rule_of(row.dropped)
            groups.setdefault(name, []).append(row)
    kept, *others = groups.items()
    others.sort(key=lambda item: (-len(item[1]), item[0]))
    (workdir / EXAMPLES).mkdir(exist_ok=True)
    sounds = []
    for name, own in (kept, *others[:_MOST_RULES]):
        own.sort(key=lambda row: hashlib.sha256(f"{config.seed}\0{row.id}".encode()).digest())
        for row in own[: config.examples]:
            try:
                path = _example(row, config.clip_rate, workdir)
            except BrokenRow:
                continue
            sounds.append(SoundFile(path, f"{row.dropped or name} ({row.id})"))
    remove_clips(workdir / EXAMPLES, {Path(sound.name).name for sound in sounds})
    return sounds


def _example(row: Row, rate: int, workdir: Path) -> str:
    """The path of a row's clip from the card; what was cut out and dropped is written for it."""
    assert row.audio is not None
    if KEY in row.measured:
        return str(row.measured[KEY])
    if is_whole(row):
        return os.path.relpath(row.audio, workdir)
    end = row.start + min(row.seconds or _LONGEST_EXAMPLE, _LONGEST_EXAMPLE)
    name = f"{EXAMPLES}/{clip_name(row, rate)}"
    path = workdir / name
    if not path.is_file():
        clip = load_audio(dataclasses.replace(row, end=end), rate)
        write_bytes(path, flac_bytes(quantize(clip), rate))
    return name
