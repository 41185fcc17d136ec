"""The cascade baseline on disk: which recogniser, translator and text tower, checked.

cascade.json   the config, its paths relative to the folder, and the digest of each part

Nothing is trained: `mrl-jax cascade` checks that the parts fit together and writes the file, and
`mrl-jax eval compare` reads it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from mrl_jax.checkpoints.models import MODEL_FILE, TowerReference
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.addresses import shown
from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import DTYPES
from mrl_jax.core.checksums import file_digest
from mrl_jax.core.config import to_json
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import make_folder
from mrl_jax.core.paths import PathText, expand_paths, referenced_path, relative_reference
from mrl_jax.core.records import read_record, write_description
from mrl_jax.core.remote import upload
from mrl_jax.data.sets.digests import digest_lines
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.inference.asr import no_vocabulary
from mrl_jax.inference.translation import (
    MODEL,
    TOKENIZER,
    Translator,
    TranslatorConfig,
    check_translator,
)
from mrl_jax.models.qwen3 import Qwen3Config
from mrl_jax.models.speech_tower import Padding
from mrl_jax.models.towers import RECOGNISERS, kinds_of

FORMAT = 1
CASCADE_FILE = "cascade.json"
NONE = "none"
PATHS = ("text_tower", "recogniser", "translator", "tokenizer")
"""Fields of the config that hold a folder."""
WRITE_AGAIN = "write it again: `mrl-jax cascade --config cascade --out FOLDER`"


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class CascadeConfig:
    """Recogniser, translator and text tower, one after the other.

    Attributes:
        name: what messages call it.
        text_tower: folder made by `mrl-jax convert qwen3` or the text stage.
        recogniser: folder made by `mrl-jax convert hubert` or a run of the config `ctc`; not
            read if `transcripts` is set.
        transcripts: "", or a column of the set's queries that holds transcripts: those of
            another recogniser, or `transcript`, the true ones.
        translator: folder of CTranslate2's, or "none" where the text tower reads the
            transcripts' language.
        tokenizer: folder of the tokenizer that the translator was published with; that of
            the translator if empty.
        source_language, target_language: NLLB's codes; not read without a translator.
        beam_size: of the translator; 1 is greedy.
        max_translation_tokens: longer translations are cut.
        dims: prefixes of the text embedding to search at.
        prompts: sentence of each task, put as "<sentence>\\nQuery:" before its queries.
        max_text_tokens: longer texts lose their tail.
        padding: of the recogniser, "masked", or "reference" to read padding as speech.
        dtype: of recogniser and text tower; None for that of their weights.
        plain_errors: count recognition errors in lower case and without punctuation.
    """

    name: str = "cascade"
    text_tower: PathText = "towers/text"
    recogniser: PathText = "runs/ctc/tower"
    transcripts: str = ""
    translator: PathText = NONE
    tokenizer: PathText = ""
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
        expand_paths(self, "")
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
class Digests:
    """Digests of a cascade's parts, "" for one that it does not have: of the towers' weights, and
    of the translator's weights and tokenizer.
    """

    text: str
    recogniser: str
    translator: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class CascadeInfo:
    """The contents of cascade.json; the paths of `config` are relative to its folder."""

    config: CascadeConfig
    digests: Digests

    @property
    def dims(self) -> tuple[int, ...]:
        return self.config.dims

    @property
    def text(self) -> TowerReference:
        return TowerReference(path=self.config.text_tower, digest=self.digests.text)

    @property
    def prompts(self) -> Mapping[str, str]:
        return self.config.prompts

    @property
    def speech(self) -> TowerReference | None:
        """The recogniser; None where a column of transcripts stands for it."""
        digest = self.digests.recogniser
        return TowerReference(path=self.config.recogniser, digest=digest) if digest else None

    @property
    def digest(self) -> str:
        """Of all parts, and of how they are used."""
        config = dataclasses.replace(
            self.config, name="", text_tower="", recogniser=self.config.recogniser and "recogniser"
        )
        if config.translator != NONE:
            config = dataclasses.replace(config, translator="translator", tokenizer="")
        parts = (self.digests.text, self.digests.recogniser or None, self.digests.translator)
        return digest_lines((*parts, to_json(config)))


@checked
def write_cascade(
    config: CascadeConfig, out: Path, *, log: Callable[[str], None] = print
) -> CascadeInfo:
    """Check every part, and write cascade.json; an earlier one is replaced.

    Args:
        config: its paths are relative to the current folder.
        out: the folder that gets cascade.json.
        log: gets a line on what was written.

    Raises:
        MrlError: a part that is missing or is not what it must be; the folder is that of a
            trained model.
    """
    if (out / MODEL_FILE).is_file():
        problem = f"holds a trained model ({MODEL_FILE})"
        raise MrlError(problem, where=out, hint="choose another --out")
    config, here = _used(config), Path()
    digests = _digests(config, here)
    if config.translator != NONE:
        Translator(translator_config(config, here))  # Its weights can be read.
    make_folder(out)

    def relative(path: str) -> str:
        used = path and path != NONE
        return relative_reference(referenced_path(here, path), out) if used else path

    paths = {name: relative(getattr(config, name)) for name in PATHS}
    info = CascadeInfo(config=dataclasses.replace(config, **paths), digests=digests)
    write_description(out / CASCADE_FILE, to_json(info), version=FORMAT)
    upload(out / CASCADE_FILE)
    log(f"{config.name}: {shown(out / CASCADE_FILE)}, to be measured by `mrl-jax eval compare`")
    return info


@checked
def read_cascade(folder: Path) -> CascadeInfo:
    """cascade.json, checked with all that it names.

    Raises:
        MrlError: damaged; a part that is missing, is not what it must be, or is another
            than the one that was there when the file was written (both digests are named).
    """
    path = folder / CASCADE_FILE
    info = read_record(path, CascadeInfo, version=FORMAT, what="a cascade", hint=WRITE_AGAIN)
    config = _used(info.config)
    expected, present = info.digests, _digests(config, folder)
    places = (config.text_tower, config.recogniser, config.translator)
    for name, place in zip(("text", "recogniser", "translator"), places, strict=True):
        is_now, was = getattr(present, name), getattr(expected, name)
        if is_now != was:
            raise MrlError(
                f"is not the {name} that the cascade was written with: its digest is "
                f"{is_now[:12]}, expected {was[:12]}",
                where=folder / place,
                hint=f"bring that back, or {WRITE_AGAIN}",
            )
    return info


@checked
def translator_config(config: CascadeConfig, base: Path) -> TranslatorConfig:
    """The translator of a cascade that has one; paths are relative to `base`."""
    return TranslatorConfig(
        folder=referenced_path(base, config.translator),
        tokenizer=referenced_path(base, config.tokenizer) if config.tokenizer else None,
        source=config.source_language,
        target=config.target_language,
        beam_size=config.beam_size,
        max_tokens=config.max_translation_tokens,
    )


def _used(config: CascadeConfig) -> CascadeConfig:
    """The config with defaults in the fields that are not read.

    Checks what the config itself cannot, as its defaults have no languages.
    """
    if config.transcripts:
        config = dataclasses.replace(config, recogniser="", padding="masked")
    elif not config.recogniser:
        hint = "name the folder of a recogniser, or a column of transcripts"
        raise MrlError("recogniser and transcripts are both empty", hint=hint)
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


def _digests(config: CascadeConfig, base: Path) -> Digests:
    """Digests of the parts, each of which is checked."""
    text = read_info(referenced_path(base, config.text_tower), expected=kinds_of(Qwen3Config))
    assert isinstance(text.config, Qwen3Config)
    if max(config.dims) > (width := text.config.embed_width):
        problem = f"dims has {max(config.dims)}, expected at most {width}, the width"
        raise MrlError(
            f"{problem} of the text tower", where=referenced_path(base, config.text_tower)
        )
    TextTokenizer(referenced_path(base, config.text_tower), max_tokens=config.max_text_tokens)
    recogniser = translator = ""
    if config.recogniser:
        info = read_info(referenced_path(base, config.recogniser), expected=RECOGNISERS)
        if info.vocabulary is None:
            raise no_vocabulary(referenced_path(base, config.recogniser))
        recogniser = info.digest
    if config.translator != NONE:
        checked = translator_config(config, base)
        check_translator(checked)
        files = (checked.folder / MODEL, checked.tokenizer_folder / TOKENIZER)
        translator = digest_lines(map(file_digest, files))
    return Digests(text=text.digest, recogniser=recogniser, translator=translator)
