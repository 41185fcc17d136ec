"""Telephone prompts of five languages, one voice each, to French; and each language to each."""

import collections
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.data.text.normalize import plain_text

from .files import Clip, Contents, components, read_table, write_contents, write_set

LANGUAGES = ("en", "fr", "es", "it", "ru")
DOCUMENT = "fr"
MAX_SECONDS = 10.0
VALIDATION, TEST = 0.1, 0.3
"""Parts of the prompts that all languages have."""
Row = Mapping[str, Any]
Prompts = dict[str, dict[str, Row]]
"""Prompt to language to row."""


def write_asterisk(source: Path, out: Path, part: str, *, small: bool) -> None:
    """Prompts that all languages have are split; what is left trains, less what leaks.

    The sets of matrix/ ask in one language for documents in one language.
    """
    del part
    prompts: Prompts = collections.defaultdict(dict)
    for row in read_table(source):
        if row["seconds"] <= MAX_SECONDS and plain_text(row["transcript"]):
            prompts[row["prompt"]][row["language"]] = row
    names = sorted(prompts)
    numbers = components([_sentences(prompts[name]) for name in names])
    groups = dict(zip(names, numbers, strict=True))
    validation, test = split_groups(prompts, groups)
    held = {groups[name] for name in (*validation, *test)}
    train = [name for name in names if groups[name] not in held]
    if small:
        complete = [name for name in train if len(prompts[name]) == len(LANGUAGES)]
        train, validation, test = complete[:12], validation[:4], test[:6]
    pairs = dict.fromkeys(
        (plain_text(one["transcript"]), other["transcript"])
        for name in train
        for one, other in itertools.product(prompts[name].values(), repeat=2)
    )
    write_contents(
        out,
        Contents(
            train=_clips(source, prompts, [name for name in train if DOCUMENT in prompts[name]]),
            recogniser=[
                _clip(source, row, row)
                for name in train
                if DOCUMENT not in prompts[name]
                for row in prompts[name].values()
            ],
            pairs=list(pairs),
            validation=_clips(source, prompts, validation),
            test=_clips(source, prompts, test),
            rules=[
                "Prompts that all five languages have are split by prompt, so that all languages "
                "of one are on one side; prompts that share a sentence stay together.",
                "Other prompts are trained on, unless they share a sentence with one kept aside.",
                f"Recordings of more than {MAX_SECONDS:g} s are left out.",
                "Each language has one voice, in training and in the test.",
            ],
        ),
    )
    for query, document in itertools.product(LANGUAGES, repeat=2):
        clips = _clips(source, prompts, test, queries=(query,), document=document)
        write_set(out / "matrix" / f"{query}-{document}", clips)


def split_groups(
    prompts: Prompts, groups: Mapping[str, int], *, seed: int = 0
) -> tuple[list[str], list[str]]:
    """Prompts for validation and for the test, in whole groups drawn at random."""
    complete = [name for name in prompts if len(prompts[name]) == len(LANGUAGES)]
    members: dict[int, list[str]] = collections.defaultdict(list)
    for name in sorted(complete):
        members[groups[name]].append(name)
    validation: list[str] = []
    test: list[str] = []
    for group in np.random.default_rng(seed).permutation(sorted(members)).tolist():
        if len(test) < TEST * len(complete):
            test += members[group]
        elif len(validation) < VALIDATION * len(complete):
            validation += members[group]
    return sorted(validation), sorted(test)


def _sentences(rows: Mapping[str, Row]) -> set[str]:
    return {plain_text(row["transcript"]) for row in rows.values()}


def _clips(
    source: Path,
    prompts: Prompts,
    names: Sequence[str],
    *,
    queries: Sequence[str] = LANGUAGES,
    document: str = DOCUMENT,
) -> list[Clip]:
    """Recordings in the query languages, each with its prompt's text in one language."""
    return [
        _clip(source, prompts[name][language], prompts[name][document])
        for name in names
        for language in queries
        if language in prompts[name]
    ]


def _clip(source: Path, row: Row, answer: Row) -> Clip:
    return Clip(
        id=row["id"].replace(":", "-").replace("/", "-"),
        audio=(source / row["audio"]).resolve(),
        transcript=plain_text(row["transcript"]),
        text=answer["transcript"],
        speaker=row["language"],
    )
