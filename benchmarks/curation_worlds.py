"""The data of the curation benchmarks: the demo's world and Mboshi with faults, and how each is
curated.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planted_faults import ManifestRow, Planted, plant

from mrl_jax.core.files import write_text
from mrl_jax.curation.align import AlignConfig
from mrl_jax.curation.config import CurationConfig
from mrl_jax.curation.duplicates import DuplicatesConfig
from mrl_jax.curation.filter import FilterConfig
from mrl_jax.curation.languages import LanguagesConfig
from mrl_jax.curation.leakage import LeakageConfig
from mrl_jax.curation.score import ScoreConfig
from mrl_jax.curation.sources import ManifestSource
from mrl_jax.curation.stage import StageConfig
from mrl_jax.curation.text import TextConfig
from mrl_jax.data.text.normalize import plain_text

HALF = 800
"""Lines of NTREX: the identifier is trained on the first, faults are of the others."""


@dataclass(frozen=True)
class World:
    """A set of recordings, and what is needed to curate it.

    Attributes:
        train, held_out: rows of a manifest.
        language, text_language: of speech and documents.
        recogniser, text_tower: folders; of a recogniser of characters the tower is "".
    """

    train: list[ManifestRow]
    held_out: list[ManifestRow]
    language: str
    text_language: str
    recogniser: Path | None
    text_tower: str = ""


def demo_world(demo: Path) -> World:
    """The demo's training set; held out are its test and validation."""
    world = demo / "world"
    train = [_row(row, world, "train") for row in read_lines(world / "train.jsonl")]
    held_out = []
    for name in ("validation", "test"):
        folder = world / name
        texts = {row["_id"]: row["text"] for row in read_lines(folder / "corpus.jsonl")}
        for row in read_lines(folder / "queries.jsonl"):
            known = {"id": f"{name}-{row['_id']}", "text": texts["d" + row["_id"][1:]]}
            held_out.append(_row(row | known, folder, "test"))
    recogniser = demo / "towers" / "speech"
    return World(train, held_out, "wol", "fra", recogniser)


def mboshi_world(data: Path, claims: Path, rows_of_train: int | None = None) -> World:
    """The published splits, without the rows of train that say a sentence of dev already.

    Args:
        rows_of_train: so many, evenly spaced; default: all.
    """
    folder = data / "mboshi"
    rows = [_row(row, folder, row["split"]) for row in read_lines(folder / "table.jsonl")]
    held_out = [row for row in rows if row["split"] == "dev"]
    said = {plain_text(row[key]) for row in held_out for key in ("text", "transcript")}
    train = [
        row
        for row in rows
        if row["split"] == "train"
        and said.isdisjoint({plain_text(row["text"]), plain_text(row["transcript"])})
    ]
    if rows_of_train is not None:
        train = train[:: max(len(train) // rows_of_train, 1)][:rows_of_train]
    recogniser = claims / "mboshi" / "all" / "ctc" / "tower"
    return World(train, held_out, "mdw", "fra", recogniser if recogniser.is_dir() else None)


def faulty(world: World, data: Path, folder: Path, seed: int) -> Planted:
    """A world with faults; what was planted is kept beside its recordings."""
    planted = plant(world.train, world.held_out, foreign_texts(data), folder / "audio", seed=seed)
    for name in ("clean", "faulty"):
        write_lines(folder / f"{name}.jsonl", getattr(planted, name))
    write_lines(folder / "curated_from.jsonl", [*planted.faulty, *planted.held_out])
    write_text(folder / "kinds.json", json.dumps(planted.kinds))
    return planted


def foreign_texts(data: Path) -> list[str]:
    """English prompts of a few words, and the beginnings of English and Wolof news, in turn."""
    prompts = read_lines(data / "asterisk" / "table.jsonl")
    english = [row["transcript"] for row in prompts if row["language"] == "en"]
    english = [text for text in english if len(text.split()) > 2]
    news = [
        [" ".join(line.split()[:8]) for line in _lines(data / "ntrex" / f"{name}.txt")[HALF:]]
        for name in ("eng", "wol")
    ]
    return list(itertools.chain.from_iterable(zip(english, *news, strict=False)))


def curation(world: World, folder: Path, data: Path) -> CurationConfig:
    """The pipeline of a world with faults in `folder`."""
    training = {}
    for name in ("eng", "wol"):
        path = folder / f"{name}.txt"
        write_text(path, "\n".join(_lines(data / "ntrex" / f"{name}.txt")[:HALF]))
        training[name] = str(path)
    stages: list[StageConfig] = [
        TextConfig(),
        LanguagesConfig(training=training),
        FilterConfig(name="wrong_language", minimum={"languages.expected": 0.3}),
        ScoreConfig(),
        FilterConfig(name="noise", minimum={"score.snr_db": 5.0}),
        LeakageConfig(held_out=("dev", "test")),
        DuplicatesConfig(),
    ]
    if world.recogniser is not None:
        align = AlignConfig(recogniser=str(world.recogniser), text_tower=world.text_tower)
        stages.append(align)
    source = ManifestSource(
        name="w",
        path=str(folder / "curated_from.jsonl"),
        language=world.language,
        text_language=world.text_language,
    )
    return CurationConfig(name="faults", sources=(source,), stages=tuple(stages), workers=2)


def _row(row: dict[str, Any], folder: Path, split: str) -> ManifestRow:
    kept = {key: row[key] for key in ("id", "text", "transcript", "speaker")}
    return {**kept, "audio": str((folder / row["audio"]).resolve()), "split": split}


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _lines(path)]


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
