"""Speech by espeak-ng, in any of its languages and voices.

The output of espeak-ng varies slightly from call to call within a process. Hence each
utterance is made in a process of its own, forked by a server, `python -m
mrl_jax.data.audio.espeak`, that has only loaded the library. The server is small, so that
forking is quick, and never imports JAX.
"""

import ctypes
import dataclasses
import io
import json
import os
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
_SYNCHRONOUS, _CHARACTERS, _UTF8, _PHONEMES = 2, 1, 0x1, 0x100
_RATE, _PITCH, _RANGE = 1, 3, 4
"""Numbers of espeak-ng's interface: an output mode, a position type, flags, parameters."""
_HEADER = struct.Struct("<ii")
"""Before each utterance in the pipe: samples a second, and bytes to come."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speech:
    """What is said, how, and the .flac file to write.

    Attributes:
        text: in the language of the voice, or espeak-ng's mnemonics of phonemes in [[ ]].
        voice: espeak-ng's name of a language, and maybe of a variant: "fr", "id+m1".
        path: of the file.
        pitch: 0 to 100, relative to the variant's own.
        rate: words a minute.
        pitch_range: how far the pitch moves, 0 to 100.
    """

    text: str
    voice: str
    path: Path
    pitch: int = 50
    rate: int = 160
    pitch_range: int = 50


def require_espeak(by: str = "speech by espeak-ng") -> None:
    """Raises an `MrlError` where espeak-ng, or what writes its speech, is not installed."""
    require("espeakng_loader", "soundfile", "soxr", by=by)


def check_voice(name: str) -> None:
    """Raises an `MrlError` where espeak-ng is not installed, or has no voice of the name."""
    require_espeak()
    import espeakng_loader

    data = Path(espeakng_loader.get_data_path())
    language, _, variant = name.partition("+")
    known = any(path.name.lower() == language.lower() for path in (data / "lang").rglob("*"))
    if not language or not known or (variant and not _variant(data, variant).is_file()):
        hint = "name a language as espeak-ng does, for example fr, sw or id+m1"
        raise MrlError(f"espeak-ng has no voice {name}", hint=hint)


def _variant(data: Path, name: str) -> Path:
    return data / "voices" / "!v" / name


def speak(
    utterances: Sequence[Speech],
    *,
    workers: int | None = None,
    done: Callable[[], object] = lambda: None,
) -> None:
    """Write every utterance as 16 kHz mono FLAC; its bytes do not depend on the others.

    Args:
        workers: parallel processes, as many as there are cores by default.
        done: called after each utterance, by the thread that wrote it.

    Raises:
        MrlError: espeak-ng is not installed, or cannot read its data; it has no such voice; it
            makes no sound of a text.
        OSError: a file cannot be written.
    """
    require_espeak()
    workers = max(1, min(workers or os.cpu_count() or 1, len(utterances)))
    parts = [utterances[i::workers] for i in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(_speak_in_turn, part, done) for part in parts]:
            future.result()


def _speak_in_turn(utterances: Sequence[Speech], done: Callable[[], object]) -> None:
    """Synthesise the utterances in one server process, and write their files."""
    command = [sys.executable, "-m", "mrl_jax.data.audio.espeak"]
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile("w+", encoding="utf-8") as jobs:
        for utterance in utterances:
            job = {**dataclasses.asdict(utterance), "path": str(utterance.path)}
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

    def speak(self, speech: Speech) -> bytes:
        """The 16-bit samples of one utterance; to be called once in a process."""
        library = self._library
        # For an unknown variant the library falls back to the base voice.
        variant = speech.voice.partition("+")[2]
        known = not variant or _variant(Path("espeak-ng-data"), variant).is_file()
        if not known or library.espeak_SetVoiceByName(speech.voice.encode()):
            raise MrlError(f"espeak-ng has no voice {speech.voice}")
        library.espeak_SetParameter(_RATE, speech.rate, 0)
        library.espeak_SetParameter(_PITCH, speech.pitch, 0)
        library.espeak_SetParameter(_RANGE, speech.pitch_range, 0)
        chunks: list[bytes] = []

        @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        def receive(samples: int | None, count: int, events: int | None) -> int:
            if samples and count:
                chunks.append(ctypes.string_at(samples, 2 * count))
            return 0

        library.espeak_SetSynthCallback(receive)
        text = speech.text.encode()
        library.espeak_Synth(text, len(text) + 1, 0, _CHARACTERS, 0, _UTF8 | _PHONEMES, None, None)
        if not chunks:
            raise MrlError(f"espeak-ng returned no samples for {speech.text!r}")
        return b"".join(chunks)


def _fork(espeak: _Espeak, speech: Speech) -> bool:
    """Write one utterance to stdout from a process of its own; whether it succeeded."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    status = 1
    try:
        pcm = espeak.speak(speech)
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
        if not _fork(espeak, Speech(**json.loads(line))):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_command(_main))
