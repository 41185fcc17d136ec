"""Wolof speech by espeak-ng, in many voices; espeak-ng itself has no Wolof voice.

Wolof is written as it is spoken, so a small table turns its letters into espeak-ng's
phonemes. They are spoken by the Indonesian voice, which has all of them: /c/ and /j/ as
affricates, /x/, /ñ/, /ŋ/, schwa, and open and close e and o. A voice here is one of
espeak-ng's own variants (other formants and voicing) at a pitch and a rate of its own.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio import espeak

SAMPLE_RATE = espeak.SAMPLE_RATE
BASE_VOICE = "id"


@dataclasses.dataclass(frozen=True)
class Voice:
    """One speaker.

    Attributes:
        variant: a voice variant of espeak-ng; no two voices share one.
        pitch: 0 to 100, relative to the variant's own.
        rate: words a minute.
        pitch_range: how far the pitch moves, 0 to 100.
    """

    variant: str
    pitch: int
    rate: int
    pitch_range: int

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.pitch}-{self.rate}"


@dataclasses.dataclass(frozen=True)
class Utterance:
    """A sentence, the voice that speaks it, and the .flac file to write."""

    text: str
    voice: Voice
    path: Path


def _voices(variants: str, *, start: int) -> tuple[Voice, ...]:
    """Voices of these variants, whose pitches and rates cover their ranges independently."""
    return tuple(
        Voice(variant, pitch=30 + 7 * i % 43, rate=150 + 11 * i % 51, pitch_range=30 + 13 * i % 41)
        for i, variant in enumerate(variants.split(), start)
    )


# Variants with `breath` are left out: their noise differs from run to run.
TRAIN_VOICES = _voices(
    "m1 m2 m3 m4 m6 m7 f1 f4 Alex Andy Annie Denis Diogo Gene Hugo Lee Marco Michael anika "
    "antonio aunty benjamin boris david edward grandma gustave john linda pablo",
    start=0,
)
VALIDATION_VOICES = _voices("m5 belinda ian steph", start=30)
TEST_VOICES = _voices("m8 Andrea Mario max miguel robert shelby travis", start=34)
_PHONEME = {
    "à": "a", "é": "e", "ë": "@", "ó": "o", "e": "E", "o": "O",
    "c": "tS", "j": "dZ", "ñ": "n^", "ŋ": "N", "y": "j",
}  # fmt: skip
_VOWELS = "aàeéëioóu"
_SOUND = re.compile(rf"ée|óo|([{_VOWELS}])\1|.")
_LETTERS = _VOWELS + "bcdfgjklmnñŋpqrstwxy"


def phonemes(text: str) -> str:
    """Wolof in lower case, in espeak-ng's mnemonics.

    A doubled vowel is long, a doubled consonant is pronounced twice. Stress falls on the first
    syllable, or on the second where that alone is long.

    Raises:
        MrlError: a letter that Wolof does not have.
    """
    if strange := sorted(set(text) - set(_LETTERS) - {" "}):
        raise MrlError(
            f"{text!r} has {strange[0]!r}, expected lower-case Wolof letters and spaces",
            hint="write it without punctuation",
        )
    return " ".join(map(_word, text.split()))


def _word(word: str) -> str:
    letters = [match.group() for match in _SOUND.finditer(word.replace("ng", "ŋg"))]
    vowels = [i for i, letter in enumerate(letters) if letter[0] in _VOWELS]
    stressed = vowels[:1]
    if len(vowels) > 1 and len(letters[vowels[0]]) < len(letters[vowels[1]]):
        stressed = vowels[1:2]
    return "".join(
        ("'" if i in stressed else "")
        + _PHONEME.get(letter[0], letter[0])
        + (":" if len(letter) > 1 else "")
        for i, letter in enumerate(letters)
    )


def require_espeak() -> None:
    """Raises an `MrlError` where espeak-ng, or what writes its speech, is not installed."""
    espeak.require_espeak("the demo's speech")


def speak(
    utterances: Sequence[Utterance],
    *,
    workers: int | None = None,
    done: Callable[[], object] = lambda: None,
) -> None:
    """`espeak.speak` of Wolof: 16 kHz mono FLAC, whose bytes do not depend on the others.

    Args:
        workers: parallel processes, as many as there are cores by default.
        done: called after each utterance, by the thread that wrote it.

    Raises:
        MrlError: espeak-ng is not installed, or cannot read its data; a text is not Wolof.
        OSError: a file cannot be written.
    """
    require_espeak()
    espeak.speak(
        [
            espeak.Speech(
                text=f"[[{phonemes(utterance.text)}]]",
                voice=f"{BASE_VOICE}+{utterance.voice.variant}",
                path=utterance.path,
                pitch=utterance.voice.pitch,
                rate=utterance.voice.rate,
                pitch_range=utterance.voice.pitch_range,
            )
            for utterance in utterances
        ],
        workers=workers,
        done=done,
    )
