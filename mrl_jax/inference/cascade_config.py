"""The pipeline baseline on disk: which recogniser, translator and text tower, checked.

pipeline.json   the config, its paths relative to the folder, and the digest of each part

Nothing is trained: `python train.py --config configs/pipeline.py` checks that the parts fit
together and writes the file, and `eval.py compare` reads it.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from mrl_jax.checkpoints.models import MODEL_FILE, TowerReference
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.array_types import DTYPES
from mrl_jax.core.config import to_json
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import make_folder, write_json
from mrl_jax.data.sets.digests import digest_lines
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.inference.translation import (
    MODEL,
    TOKENIZER,
    Translator,
    TranslatorConfig,
    check_translator,
)
from mrl_jax.models.qwen3 import Qwen3Config
from mrl_jax.models.speech_tower import Padding

FORMAT = 1


PIPELINE_FILE = "pipeline.json"


NONE = "none"


WRITE_AGAIN = "write it again: `python train.py --config configs/pipeline.py --workdir FOLDER`"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CascadeConfig:
    """Recogniser, translator and text tower, one after the other.

    Attributes:
        name: its workdir is runs/NAME by default.
        text_tower: folder made by `python -m converters qwen3` or the text stage.
        recogniser: folder of a recogniser, made by `python -m converters hubert` or
            `configs/ctc.py`; not read if `transcripts` is set.
        transcripts: "", or a column of the set's queries to take for what was heard: that
            of another recogniser, or `transcript`, what was really said.
        translator: folder of CTranslate2's, or "none" where the text tower reads the
            transcripts' language.
        tokenizer: folder of the tokenizer that the translator was published with; that of
            the translator if empty.
        source_language, target_language: of the translator, as NLLB calls them; they and
            all else of the translator are not read if there is none.
        beam_size: of the translator; 1 is greedy.
        max_translation_tokens: longer translations are cut.
        dims: prefixes of the text embedding to search at.
        prompts: sentence of each task, put as "<sentence>\\nQuery:" before its queries.
        max_text_tokens: longer texts lose their tail.
        padding: of the recogniser, "masked", or "reference" to read padding as speech.
        dtype: of recogniser and text tower; None for that of their weights.
        plain_errors: count recognition errors in lower case and without punctuation.
    """

    name: str = "pipeline"
    text_tower: str = "towers/text"
    recogniser: str = "towers/recogniser"
    transcripts: str = ""
    translator: str = NONE
    tokenizer: str = ""
    source_language: str = ""
    target_language: str = ""
    beam_size: int = 1
    max_translation_tokens: int = 200
    dims: tuple[int, ...] = (1024, 512, 256, 128)
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    max_text_tokens: int = 512
    padding: Padding = "masked"
    dtype: str | None = None
    plain_errors: bool = False

    def __post_init__(self) -> None:
        for name in ("beam_size", "max_translation_tokens"):
            if getattr(self, name) < 1:
                raise MrlError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if self.max_text_tokens < 2:
            raise MrlError(f"max_text_tokens is {self.max_text_tokens}, expected 2 or more")
        if not self.dims or min(self.dims) < 1 or len(set(self.dims)) < len(self.dims):
            raise MrlError(f"dims is {self.dims}, expected numbers of 1 or more, each once")
        if self.padding not in ("masked", "reference"):
            raise MrlError(f"padding is {self.padding!r}, expected masked or reference")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise MrlError(f"dtype is {self.dtype!r}, expected {', '.join(DTYPES)} or none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineInfo:
    """The contents of pipeline.json.

    Attributes:
        config: its paths are relative to the folder.
        text: the text tower.
        recogniser: None where a column of transcripts stands for it.
        translator_digest: of its weights and its tokenizer; "" where there is none.
    """

    config: CascadeConfig
    text: TowerReference
    recogniser: TowerReference | None
    translator_digest: str

    @property
    def dims(self) -> tuple[int, ...]:
        return self.config.dims

    @property
    def digest(self) -> str:
        """Of all parts, and of how they are asked."""
        told = dataclasses.replace(
            self.config, name="", text_tower="", recogniser=self.config.recogniser and "recogniser"
        )
        if told.translator != NONE:
            told = dataclasses.replace(told, translator="translator", tokenizer="")
        heard = self.recogniser and self.recogniser.digest
        return digest_lines((self.text.digest, heard, self.translator_digest, to_json(told)))


@dataclasses.dataclass(frozen=True)
class WrittenPipeline:
    """What `write_cascade` gives back: nothing is trained, so it has always finished."""

    folder: Path
    info: PipelineInfo
    finished: bool = True


def write_cascade(
    config: CascadeConfig, workdir: Path, *, log: Callable[[str], None] = print
) -> WrittenPipeline:
    """Check every part, and write pipeline.json; an earlier one is replaced.

    Args:
        config: its paths are relative to the current folder.
        workdir: gets pipeline.json.
        say: told what was written.

    Raises:
        MrlError: a part that is missing or is not what it must be; the folder is that of a
            trained model.
    """
    if (workdir / MODEL_FILE).is_file():
        raise MrlError(
            f"holds a trained model ({MODEL_FILE})", where=workdir, hint="choose another --workdir"
        )
    config, here = _used(config), Path()
    text, recogniser, translator = _digests(config, here)
    if config.translator != NONE:
        Translator(translator_config(config, here))  # Its weights can be read.
    make_folder(workdir)

    def place(path: str) -> str:
        relative = os.path.relpath(Path(path).resolve(), workdir.resolve())
        return Path(relative).as_posix() if path and path != NONE else path

    stored = dataclasses.replace(
        config,
        text_tower=place(config.text_tower),
        recogniser=place(config.recogniser),
        translator=place(config.translator),
        tokenizer=place(config.tokenizer),
    )
    digests = {"text": text, "recogniser": recogniser, "translator": translator}
    record = {"format": FORMAT, "config": to_json(stored), "digests": digests}
    write_json(workdir / PIPELINE_FILE, record)
    log(f"{config.name}: {workdir / PIPELINE_FILE}, to be measured by `python eval.py compare`")
    return WrittenPipeline(workdir, read_pipeline(workdir))


def read_pipeline(folder: Path) -> PipelineInfo:
    """pipeline.json, checked with all that it names.

    Raises:
        MrlError: damaged; a part that is missing, is not what it must be, or is another
            than the one that was there when the file was written (both digests are named).
    """
    path = folder / PIPELINE_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise ValueError(f"the format is not {FORMAT}")
        fields = {**raw["config"], "dims": tuple(int(dim) for dim in raw["config"]["dims"])}
        config = CascadeConfig(**fields)
        expected = {name: raw["digests"][name] for name in ("text", "recogniser", "translator")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MrlError) as error:
        raise MrlError(
            f"cannot be read as a pipeline ({error})", where=path, hint=WRITE_AGAIN
        ) from error
    found = _digests(_used(config), folder)
    places = (config.text_tower, config.recogniser, config.translator)
    for (name, digest), now, where in zip(expected.items(), found, places, strict=True):
        if now != digest:
            raise MrlError(
                f"is not the {name} that the pipeline was written with: its digest is "
                f"{now[:12]}, expected {str(digest)[:12]}",
                where=folder / where,
                hint=f"bring that back, or {WRITE_AGAIN}",
            )
    text, recogniser, translator = found
    return PipelineInfo(
        config=config,
        text=TowerReference(path=config.text_tower, digest=text),
        recogniser=TowerReference(path=config.recogniser, digest=recogniser)
        if recogniser
        else None,
        translator_digest=translator,
    )


def translator_config(config: CascadeConfig, base: Path) -> TranslatorConfig:
    """The translator of a pipeline that has one; paths are relative to `base`."""
    return TranslatorConfig(
        folder=base / config.translator,
        tokenizer=base / config.tokenizer if config.tokenizer else None,
        source=config.source_language,
        target=config.target_language,
        beam_size=config.beam_size,
        max_tokens=config.max_translation_tokens,
    )


def _used(config: CascadeConfig) -> CascadeConfig:
    """The config without what is not read.

    Checked here and not in the config itself, whose fields are overridden one by one.

    Raises:
        MrlError: no recogniser and no transcripts; a translator without both languages.
    """
    if config.transcripts:
        config = dataclasses.replace(config, recogniser="", padding="masked")
    elif not config.recogniser:
        raise MrlError(
            "recogniser and transcripts are both empty, expected one of them",
            hint="name the folder of a recogniser, or a column of transcripts",
        )
    if config.translator == NONE:
        none = {"tokenizer": "", "source_language": "", "target_language": "", "beam_size": 1}
        return dataclasses.replace(config, **none)
    if not (config.translator and config.source_language and config.target_language):
        raise MrlError(
            f"translator is {config.translator!r} from {config.source_language!r} to "
            f"{config.target_language!r}, expected a folder and both languages",
            hint="for instance source_language=wol_Latn target_language=fra_Latn, or "
            f"translator={NONE}",
        )
    return config


def _digests(config: CascadeConfig, base: Path) -> tuple[str, str, str]:
    """Digests of text tower, recogniser and translator, "" for what is not there; checked."""
    text = read_info(base / config.text_tower, expected=("qwen3",))
    assert isinstance(text.config, Qwen3Config)
    if max(config.dims) > text.config.width:
        raise MrlError(
            f"dims has {max(config.dims)}, expected at most {text.config.width}, the width of "
            "the text tower",
            where=base / config.text_tower,
            hint="leave it out",
        )
    TextTokenizer(base / config.text_tower, max_tokens=config.max_text_tokens)
    recogniser = translator = ""
    if config.recogniser:
        info = read_info(base / config.recogniser, expected=("hubert_ctc",))
        if info.vocabulary is None:
            raise MrlError(
                "the recogniser has no vocabulary, so nothing can be written down",
                where=base / config.recogniser,
                hint="convert it from a folder with vocab.json",
            )
        recogniser = info.digest
    if config.translator != NONE:
        asked = translator_config(config, base)
        check_translator(asked)
        files = (asked.folder / MODEL, asked.tokenizer_folder / TOKENIZER)
        translator = digest_lines(map(_file_digest, files))
    return text.digest, recogniser, translator


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
