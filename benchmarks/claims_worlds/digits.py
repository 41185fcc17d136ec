"""Strings of three spoken English digits to their French wording; one speaker left out."""

from collections.abc import Sequence
from pathlib import Path

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.demo.digits import ENGLISH, FRENCH, SAMPLE_RATE, Take, load_takes, split_strings

from .strings import String, StringWorld, write_strings

SPEAKERS = ("george", "jackson", "nicolas", "theo")
VALIDATION, UTTERANCES = 100, 6
"""Training strings that are kept for validation, and recordings of each of the others."""
VALIDATION_TAKES = 5
"""Takes 0 to 4 of every digit speak the validation strings, the others those of training."""


def write_digits(source: Path, out: Path, part: str, *, small: bool) -> None:
    """One fold; `part` is the speaker of the test, who is in no other set."""
    if not (source / "recordings").is_dir():
        hint = "pass the folder of the data as --data, or leave the world out"
        raise MrlError("the data of this world are not there", where=source, hint=hint)
    takes = load_takes(source / "recordings")
    others = [take for take in takes if take.speaker != part]
    strings, unseen = (list(map(_words, some)) for some in split_strings())
    validation = strings[:: len(strings) // VALIDATION][:VALIDATION]
    train = sorted(set(strings) - set(validation))
    world = StringWorld(
        french=dict(zip(ENGLISH, FRENCH, strict=True)),
        train=(
            train[:: 40 if small else 1],
            _by_word([take for take in others if take.take >= VALIDATION_TAKES]),
        ),
        validation=(
            validation[:: 10 if small else 1],
            _by_word([take for take in others if take.take < VALIDATION_TAKES]),
        ),
        test=(
            unseen[:: 10 if small else 1],
            _by_word([take for take in takes if take.speaker == part]),
        ),
        utterances=2 if small else UTTERANCES,
        validation_others=strings,
        test_others=[*strings, *unseen],
        sample_rate=SAMPLE_RATE,
        rules=[
            f"The test's speaker, {part}, is neither in training nor in validation.",
            "200 strings are the test's, 100 are validation's, and 700 are trained on.",
            "Validation is spoken by training speakers, in takes that are not trained on.",
            "The documents of the test are the French wordings of all 1,000 strings.",
        ],
    )
    write_strings(out, world)


def _words(string: str) -> String:
    return tuple(ENGLISH[int(digit)] for digit in string)


def _by_word(takes: Sequence[Take]) -> dict[str, dict[str, list[HostArray]]]:
    table: dict[str, dict[str, list[HostArray]]] = {}
    for take in takes:
        words = table.setdefault(take.speaker, {})
        words.setdefault(ENGLISH[take.digit], []).append(take.clip)
    return table
