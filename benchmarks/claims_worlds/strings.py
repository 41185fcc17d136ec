"""Worlds of three spoken words in a row, joined from recordings of single words."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mrl_jax.core.array_types import HostArray
from mrl_jax.data.audio.augment import AugmentConfig, augment_voice
from mrl_jax.demo.digits import fade_ends

from .files import Clip, Contents, write_audio, write_contents

String = tuple[str, ...]
Takes = Mapping[str, Mapping[str, Sequence[HostArray]]]
"""Speaker to word to recordings [S] of it, float32."""
VOICES = AugmentConfig(speed=(0.85, 1.2), tempo=(0.85, 1.2), gain_db=(0.0, 0.0))
GAP_SECONDS = (0.02, 0.15)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StringWorld:
    """Which strings are spoken by whom.

    Attributes:
        french: each word's document.
        train, validation, test: (strings, recordings to speak them with).
        utterances: recordings of each training string; all but the first in changed voices.
        validation_others, test_others: strings whose wordings are documents as well.
        sample_rate: of the takes.
        rules: for world.json.
    """

    french: Mapping[str, str]
    train: tuple[Sequence[String], Takes]
    validation: tuple[Sequence[String], Takes]
    test: tuple[Sequence[String], Takes]
    utterances: int
    validation_others: Sequence[String]
    test_others: Sequence[String]
    sample_rate: int
    rules: Sequence[str]


def write_strings(out: Path, world: StringWorld) -> None:
    """Join, write and check all recordings; the same in each call.

    Training strings are spoken by speakers drawn at random, those of validation and test by
    the speakers in turn.
    """
    strings, takes = world.train
    train = []
    for number, string in enumerate(tqdm(strings, desc="strings", unit="string")):
        for turn in range(world.utterances):
            rng = np.random.default_rng((0, number, turn))
            speaker = sorted(takes)[int(rng.integers(len(takes)))]
            clip = speak(string, takes[speaker], rng, world.sample_rate)
            if turn:
                clip = augment_voice(clip, rng, VOICES, world.sample_rate)
            audio = out / "audio" / f"t{number}-{turn}.flac"
            write_audio(audio, clip, world.sample_rate)
            train.append(_clip(world, f"t{number}-{turn}", audio, string, speaker))
    write_contents(
        out,
        Contents(
            train=train,
            validation=_in_turn(out, world, "validation", *world.validation, seed=1),
            test=_in_turn(out, world, "test", *world.test, seed=2),
            validation_others=[wording(world.french, one) for one in world.validation_others],
            test_others=[wording(world.french, one) for one in world.test_others],
            speakers_apart=True,
            rules=world.rules,
        ),
    )


def speak(
    string: String,
    takes: Mapping[str, Sequence[HostArray]],
    rng: np.random.Generator,
    sample_rate: int,
) -> HostArray:
    """[S] float32: a random take of each word, random gaps between."""
    parts: list[HostArray] = []
    for word in string:
        if parts:
            parts.append(np.zeros(int(rng.uniform(*GAP_SECONDS) * sample_rate), np.float32))
        parts.append(fade_ends(takes[word][int(rng.integers(len(takes[word])))]))
    return np.concatenate(parts)


def wording(french: Mapping[str, str], string: String) -> str:
    """ "zéro avancer fermer" of ("zero", "forward", "close")."""
    return " ".join(french[word] for word in string)


def _in_turn(
    out: Path, world: StringWorld, name: str, strings: Sequence[String], takes: Takes, *, seed: int
) -> list[Clip]:
    clips, speakers = [], sorted(takes)
    for number, string in enumerate(strings):
        rng, speaker = np.random.default_rng((seed, number)), speakers[number % len(speakers)]
        audio = out / name / "audio" / f"{name}-{number}.flac"
        write_audio(audio, speak(string, takes[speaker], rng, world.sample_rate), world.sample_rate)
        clips.append(_clip(world, f"{name}-{number}", audio, string, speaker))
    return clips


def _clip(world: StringWorld, key: str, audio: Path, string: String, speaker: str) -> Clip:
    text, said = wording(world.french, string), " ".join(string)
    return Clip(id=key, audio=audio, transcript=said, text=text, speaker=speaker)
