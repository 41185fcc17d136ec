"""Strings of three spoken Arabic commands to their French wording; unseen speakers."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.decode import load_clip
from mrl_jax.data.text.normalize import plain_text
from mrl_jax.demo.digits import trim_silence

from .files import read_table
from .strings import String, StringWorld, Takes, write_strings

SAMPLE_RATE = 16_000
SLOT = SAMPLE_RATE
"""Samples of one take in a file: exactly a second each."""
VALIDATION_SPEAKERS = 2
"""Of the training speakers, kept for validation."""
TRAIN, VALIDATION, TEST = 3000, 150, 300
"""Strings, all different."""
DOCUMENTS, VALIDATION_DOCUMENTS = 1000, 500
UTTERANCES = 2


def write_arabic(source: Path, out: Path, part: str, *, small: bool) -> None:
    """Training speakers but two train, those two validate, those of the val split test."""
    del part
    rows = read_table(source)
    french = {row["word"]: row["french"] for row in rows}
    if len({plain_text(text) for text in french.values()}) < len(french):
        raise MrlError("two commands have the same French wording", where=source)
    trained = sorted({row["speaker"] for row in rows if row["split"] == "train"})
    heldout = sorted({row["speaker"] for row in rows if row["split"] == "val"})
    kept = trained[:: max(len(trained) // VALIDATION_SPEAKERS, 1)][:VALIDATION_SPEAKERS]
    train = [speaker for speaker in trained if speaker not in kept]
    sizes = (TRAIN, VALIDATION, TEST, DOCUMENTS - TEST, VALIDATION_DOCUMENTS - VALIDATION)
    strings = draw_strings(sorted(french), [size // 50 if small else size for size in sizes])
    write_strings(
        out,
        StringWorld(
            french=french,
            train=(strings[0], load_words(source, rows, train)),
            validation=(strings[1], load_words(source, rows, kept)),
            test=(strings[2], load_words(source, rows, heldout)),
            utterances=UTTERANCES,
            test_others=strings[3],
            validation_others=strings[4],
            sample_rate=SAMPLE_RATE,
            rules=[
                f"The test's {len(heldout)} speakers are neither in training nor in "
                f"validation; {len(kept)} other speakers are in validation only.",
                "No string is in two of training, validation, test and the further documents.",
                "A transcript is the English names of the commands.",
            ],
        ),
    )


def draw_strings(
    words: Sequence[str], sizes: Sequence[int], *, seed: int = 0
) -> list[list[String]]:
    """Lists of so many different strings of three words; none is in two lists."""
    count = len(words)
    order = np.random.default_rng(seed).permutation(count**3)
    if sum(sizes) > len(order):
        raise MrlError(f"{count} words make {len(order)} strings, {sum(sizes)} are needed")
    ends = np.cumsum([0, *sizes])
    places = np.stack(np.unravel_index(order, (count,) * 3), axis=1)
    strings: list[String] = [tuple([words[int(place)] for place in row]) for row in places]
    return [strings[start:end] for start, end in itertools.pairwise(ends)]


def load_words(source: Path, rows: Sequence[Mapping[str, Any]], speakers: Sequence[str]) -> Takes:
    """The takes of these speakers, without silence at their ends."""
    table: dict[str, dict[str, list[HostArray]]] = {speaker: {} for speaker in speakers}
    for row in rows:
        if row["speaker"] in table:
            clip = load_clip(source / row["audio"], SAMPLE_RATE)
            slots = [clip[start : start + SLOT] for start in range(0, row["takes"] * SLOT, SLOT)]
            takes = [trim_silence(slot, SAMPLE_RATE) for slot in slots if slot.any()]
            table[row["speaker"]][row["word"]] = takes
    return table
