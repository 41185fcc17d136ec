"""Wolof speech by espeak-ng, in many voices; espeak-ng itself has no Wolof voice.

Wolof is written as it is spoken, so a small table turns its letters into espeak-ng's
phonemes. They are spoken by the Indonesian voice, which has all of them: /c/ and /j/ as
affricates, /x/, /ñ/, /ŋ/, schwa, and open and close e and o. A voice here is one of
espeak-ng's own variants (other formants and voicing) at a pitch and a rate of its own.

The output of espeak-ng varies slightly from call to call within a process. Hence each
utterance is made in a process of its own, forked by a server, `python -m
mrl_jax.demo.voices`, that has only loaded the library. The server is small, so that
forking is quick, and never imports JAX.
"""

import ctypes
import dataclasses
import io
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError, first_line
from mrl_jax.core.extras import require

SAMPLE_RATE = 16_000
BASE_VOICE = "id"
_SYNCHRONOUS, _CHARACTERS, _UTF8, _PHONEMES = 2, 1, 0x1, 0x100
_RATE, _PITCH, _RANGE = 1, 3, 4
"""Numbers of espeak-ng's interface: an output mode, a position type, flags, parameters."""
_HEADER = struct.Struct("<ii")
"""Before each utterance in the pipe: samples a second, and bytes to come."""


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
    require("espeakng_loader", "soundfile", "soxr", by="the demo's speech")


def speak(
    utterances: Sequence[Utterance],
    *,
    workers: int | None = None,
    done: Callable[[], object] = lambda: None,
) -> None:
    """Write every utterance as 16 kHz mono FLAC; its bytes do not depend on the others.

    Args:
        workers: parallel processes, as many as there are cores by default.
        done: called after each utterance, by the thread that wrote it.

    Raises:
        MrlError: espeak-ng is not installed, or cannot read its data; a text is not Wolof.
        OSError: a file cannot be written.
    """
    require_espeak()
    workers = max(1, min(workers or os.cpu_count() or 1, len(utterances)))
    parts = [utterances[i::workers] for i in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(_speak_in_turn, part, done) for part in parts]:
            future.result()


def _speak_in_turn(utterances: Sequence[Utterance], done: Callable[[], object]) -> None:
    """Synthesise the utterances in one server process, and write their files."""
    command = [sys.executable, "-m", "mrl_jax.demo.voices"]
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile("w+", encoding="utf-8") as jobs:
        for utterance in utterances:
            job = {"sounds": phonemes(utterance.text), **dataclasses.asdict(utterance.voice)}
            jobs.write(json.dumps(job) + "\n")
        jobs.seek(0)
        with subprocess.Popen(command, stdin=jobs, stdout=pipe, stderr=pipe) as server:
            assert server.stdout is not None
            assert server.stderr is not None
            try:
                for utterance in utterances:
                    if len(header := server.stdout.read(_HEADER.size)) < _HEADER.size:
                        break
                    rate, size = _HEADER.unpack(header)
                    _write_flac(utterance.path, server.stdout.read(size), rate)
                    done()
            except BaseException:
                server.kill()
                raise
            text = server.stderr.read().decode(errors="replace").strip()
    if server.returncode:
        message = text.splitlines()[-1] if text else f"it ended with status {server.returncode}"
        raise MrlError(message.removeprefix("error: "), where="speech by espeak-ng")


def _write_flac(path: Path, pcm: bytes, rate: int) -> None:
    import numpy as np  # Imported here to keep the server small.
    import soundfile
    import soxr

    samples = np.frombuffer(pcm, np.int16).astype(np.float32)
    wave = soxr.resample(samples, rate, SAMPLE_RATE, "HQ")
    whole = np.clip(np.rint(wave), -32768, 32767).astype(np.int16)
    flac = io.BytesIO()  # So that a full disk is an OSError rather than an error of libsndfile.
    soundfile.write(flac, whole, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    path.write_bytes(flac.getvalue())


class _Espeak:
    """The loaded library; each utterance is made by a fork of the process that loaded it."""

    def __init__(self) -> None:
        import espeakng_loader

        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        data = Path(espeakng_loader.get_data_path())
        os.chdir(data.parent)  # The library keeps the path in a short buffer: "." always fits.
        self.rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, b".", 0)
        if self.rate <= 0:
            raise MrlError("espeak-ng cannot read its data", where=data, hint="install it again")

    def speak(self, sounds: str, voice: Voice) -> bytes:
        """The 16-bit samples of one utterance; to be called once in a process."""
        library = self._library
        # For an unknown variant the library falls back to the base voice.
        known = Path("espeak-ng-data", "voices", "!v", voice.variant).is_file()
        if not known or library.espeak_SetVoiceByName(f"{BASE_VOICE}+{voice.variant}".encode()):
            raise MrlError(f"espeak-ng has no voice {BASE_VOICE}+{voice.variant}")
        library.espeak_SetParameter(_RATE, voice.rate, 0)
        library.espeak_SetParameter(_PITCH, voice.pitch, 0)
        library.espeak_SetParameter(_RANGE, voice.pitch_range, 0)
        chunks: list[bytes] = []

        @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        def receive(samples: int | None, count: int, events: int | None) -> int:
            if samples and count:
                chunks.append(ctypes.string_at(samples, 2 * count))
            return 0

        library.espeak_SetSynthCallback(receive)
        text = f"[[{sounds}]]".encode()
        library.espeak_Synth(text, len(text) + 1, 0, _CHARACTERS, 0, _UTF8 | _PHONEMES, None, None)
        if not chunks:
            raise MrlError(f"espeak-ng returned no samples for {sounds!r}")
        return b"".join(chunks)


def _fork(espeak: _Espeak, sounds: str, voice: Voice) -> bool:
    """Write one utterance to stdout from a process of its own; whether it succeeded."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    status = 1
    try:
        pcm = espeak.speak(sounds, voice)
        with open(sys.stdout.fileno(), "wb", closefd=False) as out:
            out.write(_HEADER.pack(espeak.rate, len(pcm)) + pcm)
        status = 0
    except Exception as error:
        print(f"error: {first_line(error)}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _main(argv: Sequence[str]) -> int:
    """Read jobs from stdin, one a line; write for each its rate, size and samples to stdout."""
    espeak = _Espeak()
    for line in sys.stdin.readlines():
        job = json.loads(line)
        if not _fork(espeak, job.pop("sounds"), Voice(**job)):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_command(_main))
