"""What makes speech of a text: espeak-ng, a program, or a function."""

import dataclasses
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import write_bytes
from mrl_jax.curation.stage import BrokenRow
from mrl_jax.data.audio.decode import load_clip
from mrl_jax.data.audio.encode import flac_bytes, quantize
from mrl_jax.data.audio.espeak import SAMPLE_RATE, Speech, check_voice, speak

TEXT, OUT = "{text}", "{out}"
SECONDS = 120
"""A program that takes longer for one text is ended."""
SpeakFunction = Callable[[str], tuple[Float[HostArray, " S"], int]]
"""A text to samples, from -1 to 1, and their rate."""


@runtime_checkable
class Synthesiser(Protocol):
    """Writes the speech of a text; equal texts and ids give equal files."""

    def speaker(self, row_id: str) -> str:
        """Whose voice a row gets."""
        ...

    def write(self, text: str, row_id: str, path: Path) -> None:
        """Write a .flac file, whole or not at all.

        Raises:
            BrokenRow: no speech can be made of this text.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Espeak:
    """espeak-ng in one of several voices, which the row's id decides.

    Raises:
        MrlError: it is not installed, or has no such voice.
    """

    voices: tuple[str, ...]

    def __post_init__(self) -> None:
        for voice in self.voices:
            check_voice(voice)

    def _voice(self, row_id: str) -> str:
        number = int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:8], "big")
        return self.voices[number % len(self.voices)]

    def speaker(self, row_id: str) -> str:
        return f"espeak-{self._voice(row_id)}"

    def write(self, text: str, row_id: str, path: Path) -> None:
        # What espeak-ng would read as phonemes.
        text = text.replace("[[", " ").replace("]]", " ")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "speech.flac"
            try:
                speak([Speech(text=text, voice=self._voice(row_id), path=file)], workers=1)
                load_clip(file, SAMPLE_RATE)  # Of "..." it makes silence.
            except MrlError as error:
                raise BrokenRow(f"espeak-ng makes no speech of {text!r:.60}") from error
            write_bytes(path, file.read_bytes())


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that writes the speech of {text} into the file {out}; no shell reads its line.

    Args:
        command: the program and its arguments.
        where: of it in the config.

    Raises:
        MrlError: a placeholder is missing, or there is no such program.
    """

    command: tuple[str, ...]
    where: str

    def __post_init__(self) -> None:
        for placeholder in (TEXT, OUT):
            if not any(placeholder in part for part in self.command[1:]):
                problem = f"has no argument with {placeholder}"
                hint = "for example ('espeak-ng', '-v', 'sw', '-w', '{out}', '{text}')"
                raise MrlError(problem, where=self.where, hint=hint)
        if shutil.which(self.command[0]) is None:
            problem = f"there is no program {self.command[0]!r}"
            raise MrlError(problem, where=self.where, hint="install it, or write its whole path")

    def speaker(self, row_id: str) -> str:
        del row_id
        return Path(self.command[0]).name

    def write(self, text: str, row_id: str, path: Path) -> None:
        del row_id
        # A text such as "-h" is none of its options.
        text = f" {text}" if text.startswith("-") else text
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "speech.wav"
            line = [part.replace(OUT, str(file)).replace(TEXT, text) for part in self.command]
            problem = _run(line)
            if problem is None and not file.is_file():
                problem = "wrote no file"
            if problem is not None:
                raise BrokenRow(f"{self.command[0]} {problem} for {text!r:.60}")
            try:
                clip = load_clip(file, SAMPLE_RATE)
            except MrlError as error:
                raise BrokenRow(f"{self.command[0]} wrote what {error.problem}") from error
            write_bytes(path, flac_bytes(quantize(clip), SAMPLE_RATE))


def _run(line: Sequence[str]) -> str | None:
    """What went wrong; None if nothing did."""
    try:
        done = subprocess.run(
            line, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {SECONDS} s"
    except (OSError, ValueError) as error:
        return f"cannot be run ({error})"
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return f"ended with status {done.returncode}" + (f" ({lines[-1][:80]})" if lines else "")
    return None


@dataclasses.dataclass(frozen=True)
class Function:
    """A function of Python's; for several processes one that can be pickled."""

    function: SpeakFunction

    def speaker(self, row_id: str) -> str:
        del row_id
        return getattr(self.function, "__name__", "synthesiser")

    def write(self, text: str, row_id: str, path: Path) -> None:
        del row_id
        samples, rate = self.function(text)
        samples = np.asarray(samples)
        if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all():
            raise BrokenRow(f"the synthesiser made no samples of {text!r:.60}")
        write_bytes(path, flac_bytes(quantize(samples), rate))
