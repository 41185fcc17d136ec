"""Stage `synthesize`: fills in what is missing by machine: translations, and speech.

What was made so is marked in `Row.synthetic`, and the data card counts it.
"""

import dataclasses
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mrl_jax.core.arguments import PositiveInt, checked
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import PathText, expand_paths, local_path, user_path
from mrl_jax.curation.rows import Row
from mrl_jax.curation.stage import BrokenRow, RowStage, StageConfig, StageReport
from mrl_jax.curation.synthesisers import Espeak, Function, Program, SpeakFunction, Synthesiser
from mrl_jax.data.audio.decode import clip_seconds
from mrl_jax.inference.translation import (
    MODEL,
    TOKENIZER,
    Translator,
    TranslatorConfig,
    check_translator,
)


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class SynthesizeConfig(StageConfig):
    """What is filled in. At least one of `translator`, `voices` and `command` is set.

    Attributes:
        translator: folder of CTranslate2's with a model of NLLB, which translates the transcripts
            of rows without a text; "" translates nothing.
        tokenizer: folder of its tokenizer; "" is that of the model.
        source, target: NLLB's codes of the transcripts' language and the texts'.
        beam_size, max_tokens: see `TranslatorConfig`.
        voices: of espeak-ng, which speak rows without a recording; the row's id decides.
        command: or a program and its arguments, with {text} and {out}; no shell reads it.
        spoken: what is spoken: the transcript, or the text, which then becomes the transcript.
        folder: for the recordings.
    """

    name: str = "synthesize"
    translator: PathText = ""
    tokenizer: PathText = ""
    source: str = ""
    target: str = ""
    beam_size: PositiveInt = 1
    max_tokens: PositiveInt = 200
    voices: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    spoken: Literal["transcript", "text"] = "transcript"
    folder: PathText = ""

    def __post_init__(self) -> None:
        where = f"stages.{self.name}"
        expand_paths(self, where)
        if self.voices and self.command:
            problem = "voices and command are both set"
            raise MrlError(problem, where=where, hint="leave one of them out")
        if (self.voices or self.command) and not self.folder:
            hint = "name a folder for the recordings"
            raise MrlError("is empty", where=f"{where}.folder", hint=hint)
        if self.folder:
            local_path(f"{where}.folder")(self.folder)
        if self.translator and not (self.source and self.target):
            hint = "for example source=wol_Latn target=fra_Latn"
            raise MrlError("source or target is empty", where=where, hint=hint)

    @property
    def translation(self) -> TranslatorConfig:
        """How texts are translated."""
        return TranslatorConfig(
            folder=user_path(self.translator),
            tokenizer=user_path(self.tokenizer) if self.tokenizer else None,
            source=self.source,
            target=self.target,
            beam_size=self.beam_size,
            max_tokens=self.max_tokens,
        )


class Synthesize(RowStage):
    """Translates what has no text, and speaks what has no recording.

    Args:
        config: what is filled in.
        function: speaks texts, in place of the config's voices and command.

    Raises:
        MrlError: translator, voice or program is not there; nothing is to be filled in.
    """

    def __init__(self, config: SynthesizeConfig, *, function: SpeakFunction | None = None):
        self.config, self.name = config, config.name
        where = f"stages.{config.name}"
        if not (config.translator or config.voices or config.command or function):
            hint = "set translator, voices or command"
            raise MrlError("fills in nothing", where=where, hint=hint)
        if function is not None and not config.folder:
            hint = "name a folder for the recordings"
            raise MrlError("is empty", where=f"{where}.folder", hint=hint)
        self._synthesiser: Synthesiser | None = None
        if function is not None:
            self._synthesiser = Function(function)
        elif config.voices:
            self._synthesiser = Espeak(config.voices)
        elif config.command:
            self._synthesiser = Program(config.command, f"{where}.command")
        if config.translator:
            check_translator(translation := config.translation)
            tokenizer = translation.tokenizer_folder / TOKENIZER
            self.extra_inputs = (str(translation.folder / MODEL), str(tokenizer))

    @functools.cached_property
    def _translator(self) -> Translator:
        return Translator(self.config.translation)

    def apply(self, row: Row) -> Sequence[Row]:
        if self.config.translator and row.text is None and (row.transcript or "").strip():
            row = self._translated(row)
        said = row.transcript if self.config.spoken == "transcript" else row.text
        if self._synthesiser is not None and row.audio is None and said and said.strip():
            row = self._spoken(row, said, self._synthesiser)
        return (row,)

    def _translated(self, row: Row) -> Row:
        try:
            (text,) = self._translator.translate([str(row.transcript)])
        except MrlError as error:
            where, hint = f"row {row.id!r}", "lower max_tokens if it speaks of positions"
            raise BrokenRow(error.problem, where=where, hint=hint) from error
        if not text.strip():
            return row.drop(self.name, "the translation is empty")
        new = dataclasses.replace(
            row, text=text, text_language=self.config.target, synthetic=_also(row, "text")
        )
        return new.note(self.name, f"text translated to {self.config.target}")

    def _spoken(self, row: Row, said: str, synthesiser: Synthesiser) -> Row:
        path = Path(self.config.folder).absolute() / f"{self._digest(row, said)}.flac"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Another process may be at the same text: each writes a file of its own.
            with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
                synthesiser.write(said, row.id, Path(folder) / path.name)
                os.replace(Path(folder) / path.name, path)
        speaker = synthesiser.speaker(row.id)
        new = dataclasses.replace(
            row,
            audio=str(path),
            transcript=said,
            speaker=speaker,
            language=row.language or (row.text_language if self.config.spoken == "text" else None),
            synthetic=_also(row, "audio"),
        )
        seconds = clip_seconds(path, name=path)
        return new.with_measured("source", seconds=seconds).note(self.name, f"spoken by {speaker}")

    def _digest(self, row: Row, said: str) -> str:
        """Of all that decides a recording, so that an earlier one is found again."""
        voice = self._synthesiser.speaker(row.id) if self._synthesiser else ""
        what = json.dumps([said, voice, list(self.config.command)])
        return hashlib.sha256(what.encode()).hexdigest()[:24]

    def is_intact(self, rows: Sequence[Row]) -> bool:
        own = [row for row in rows if row.synthetic and "audio" in row.synthetic]
        return all(row.audio is not None and Path(row.audio).is_file() for row in own)

    def report(self, before: Sequence[Row], after: Sequence[Row]) -> StageReport:
        """Rows with machine-made parts, and how many were filled in here."""
        del before
        made = {part: 0 for part in ("text", "audio")}
        for row in after:
            for part in made:
                made[part] += row.dropped is None and part in (row.synthetic or "").split("+")
        return StageReport(
            title="Filled in by machine",
            headings=("what", "rows"),
            table=tuple((part, f"{count:,}") for part, count in made.items()),
        )


def _also(row: Row, part: str) -> str:
    """`Row.synthetic` with one more part: "audio", "text" or "audio+text"."""
    return "+".join(sorted({*filter(None, (row.synthetic or "").split("+")), part}))
