"""Texts from one language to another: NLLB (arXiv 2207.04672) through CTranslate2.

The folder is what `ct2-transformers-converter --copy_files tokenizer.json` makes of a
published checkpoint; the tokenizer is its own. NLLB reads the code of the source language,
the tokens and an end token, and writes after the code of the target language.
"""

import dataclasses
import difflib
import json
import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mrl_jax.core.errors import MrlError, existing_file, first_line

CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
"""A language and its script: wol_Latn."""


MODEL, TOKENIZER, VOCABULARY = "model.bin", "tokenizer.json", "shared_vocabulary.json"


END = "</s>"


CONVERT = (
    "make it with `ct2-transformers-converter --model SOURCE --output_dir FOLDER "
    f"--copy_files {TOKENIZER}`"
)


INSTALL = "install the extra: `pip install 'mrl_jax[cascade]'`"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslatorConfig:
    """A translator and what it is asked for.

    Attributes:
        folder: of CTranslate2's.
        tokenizer: folder of the tokenizer that the model was published with; that of the
            model for None.
        source, target: NLLB's codes of the languages, wol_Latn and fra_Latn for instance.
        beam_size: hypotheses kept at a time; 1 is greedy.
        max_tokens: of a translation.
        batch_size: texts in a batch.
    """

    folder: Path
    tokenizer: Path | None = None
    source: str
    target: str
    beam_size: int = 1
    max_tokens: int = 200
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("beam_size", "max_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise MrlError(f"{name} is {getattr(self, name)}, expected 1 or more")

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer lies."""
        return self.folder if self.tokenizer is None else self.tokenizer


class Translator:
    """Translates texts on the CPU; greedy translation equals that of transformers.

    Args:
        config: which translator, and between which languages.

    Raises:
        MrlError: no folder, or not one of CTranslate2's; no tokenizer of NLLB beside the
            model, or another model's; a language that it does not know; a package that is
            not installed.
    """

    def __init__(self, config: TranslatorConfig):
        self.config = config
        self._tokenizer: Any = check_translator(config)
        self._code_last = _has_code_last(config.tokenizer_folder)
        self._model: Any = _open_model(config.folder)

    def translate(self, texts: Sequence[str], *, progress: str | None = None) -> list[str]:
        """The translation of each text; that of an empty one is empty.

        Args:
            texts: in the source language.
            progress: name of a progress bar.

        Raises:
            MrlError: CTranslate2 refuses, as where a translation may be longer than the
                model has positions.
        """
        config, found = self.config, [""] * len(texts)
        # Longest first: like lengths together.
        rows = [row for row in range(len(texts)) if texts[row].strip()]
        rows.sort(key=lambda row: -len(texts[row]))
        with tqdm(total=len(rows), desc=progress, disable=progress is None, leave=False) as bar:
            for start in range(0, len(rows), config.batch_size):
                batch = rows[start : start + config.batch_size]
                results = self._run([self.tokens(texts[row]) for row in batch])
                for row, result in zip(batch, results, strict=True):
                    found[row] = self.text(result.hypotheses[0])
                bar.update(len(batch))
        return found

    def _run(self, batch: Sequence[Sequence[str]]) -> Any:
        config = self.config
        try:
            return self._model.translate_batch(
                batch,
                target_prefix=[[config.target]] * len(batch),
                beam_size=config.beam_size,
                max_decoding_length=config.max_tokens,
            )
        except (RuntimeError, ValueError) as error:
            raise MrlError(
                f"CTranslate2 cannot translate ({first_line(error)})",
                where=config.folder,
                hint="lower max_translation_tokens if it speaks of positions",
            ) from error

    def tokens(self, text: str) -> list[str]:
        """A text as the model reads it, with the source language's code and the end."""
        inner = self._tokenizer.encode(text, add_special_tokens=False).tokens
        code = self.config.source
        return [*inner, END, code] if self._code_last else [code, *inner, END]

    def text(self, tokens: Sequence[str]) -> str:
        """What the model wrote, without codes and ends."""
        ids = [self._tokenizer.token_to_id(token) for token in tokens]
        known = [i for i in ids if i is not None]  # Rows that only fill the embeddings up.
        return self._tokenizer.decode(known, skip_special_tokens=True)


def check_translator(config: TranslatorConfig) -> Any:
    """The tokenizer, once all is checked that can be without reading the model's weights.

    Raises:
        MrlError: as `Translator`, less a damaged model.
    """
    _check_folder(config.folder)
    path = existing_file(
        config.tokenizer_folder / TOKENIZER,
        hint="copy it from the checkpoint that the model was converted from",
    )
    tokenizer = _open_tokenizer(path)
    known = sorted(token for token in tokenizer.get_vocab(True) if CODE.fullmatch(token))
    if not known or tokenizer.token_to_id(END) is None:
        raise MrlError(
            f"has no language codes such as wol_Latn, or no token {END}: it is not NLLB's",
            where=path,
            hint="copy tokenizer.json from the checkpoint that the model was converted from",
        )
    for name, code in (("source", config.source), ("target", config.target)):
        _check_code(code, known, f"{name}_language")
    _check_vocabulary(config.folder, (config.source, config.target, END))
    _library()
    return tokenizer


def _check_folder(folder: Path) -> None:
    """Raises an `MrlError` unless a folder is one of CTranslate2's."""
    if not folder.is_dir():
        kind = "is a file, expected a folder" if folder.exists() else "no such folder"
        raise MrlError(kind, where=folder, hint=f"correct the path, or {CONVERT}")
    if not (folder / MODEL).is_file():
        published = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
        what = "it is a checkpoint of transformers" if published else f"there is no {MODEL}"
        raise MrlError(f"is no folder of CTranslate2's: {what}", where=folder, hint=CONVERT)


def _open_tokenizer(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MrlError(
            "translating takes tokenizers, which is not installed", hint=INSTALL
        ) from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises bare Exceptions.
        raise MrlError(
            f"cannot be read as a tokenizer ({first_line(error)})",
            where=path,
            hint="copy tokenizer.json from the published model again",
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _library() -> Any:
    try:
        import ctranslate2
    except ImportError as error:
        raise MrlError(
            "translating takes ctranslate2, which is not installed", hint=INSTALL
        ) from error
    return ctranslate2


def _open_model(folder: Path) -> Any:
    try:
        return _library().Translator(str(folder))
    except (RuntimeError, ValueError) as error:
        raise MrlError(
            f"cannot be opened by CTranslate2 ({first_line(error)})", where=folder, hint=CONVERT
        ) from error


def _check_code(code: str, known: Sequence[str], option: str) -> None:
    if code in known:
        return
    near = difflib.get_close_matches(code, known, n=1, cutoff=0.5)
    near = near or [other for other in known if other[:2] == code[:2]][:1]
    told = ", ".join(known[:5]) + (", …" if len(known) > 5 else "")
    raise MrlError(
        f"the tokenizer does not know the language {code!r}; it knows {len(known)}",
        where=option,
        hint=f"did you mean {near[0]}?" if near else f"expected one of {told}",
    )


def _check_vocabulary(folder: Path, tokens: Sequence[str]) -> None:
    """Whether the model was converted with this tokenizer's tokens, where that can be seen."""
    path = folder / VOCABULARY
    if not path.is_file():
        return
    try:
        held = set(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise MrlError("cannot be read as a list of tokens", where=path, hint=CONVERT) from error
    missing = [token for token in tokens if token not in held]
    if missing:
        raise MrlError(
            f"has no {', '.join(missing)}: the tokenizer beside it is another model's",
            where=path,
            hint=CONVERT,
        )


def _has_code_last(folder: Path) -> bool:
    """Early NLLB tokenizers put the code behind the text, and say so in their description."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return False
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("legacy_behaviour", False))
    except (ValueError, AttributeError) as error:
        raise MrlError(
            f"cannot be read as a tokenizer's description ({first_line(error)})",
            where=path,
            hint="copy it from the published model again",
        ) from error


FORMAT = 6


TIED = ("/embeddings", "/projection/")
"""Aliases that share weights; others are of weights that happen to be equal, zero biases say."""


def count_parameters(folder: Path) -> float:
    """Weights of a translator, tied ones once; NaN where the file is of another format.

    Left out, as they are no weights: settings, positions, and the scales of quantised ones.
    """
    path = folder / MODEL
    size, counts = path.stat().st_size, dict[str, int]()

    def numbers(layout: str) -> tuple[int, ...]:
        data = file.read(struct.calcsize(f"<{layout}"))
        return struct.unpack(f"<{layout}", data)

    def name() -> str:
        (length,) = numbers("H")
        return file.read(length)[:-1].decode("utf-8")  # A zero byte closes it.

    try:
        with path.open("rb") as file:
            if numbers("I") != (FORMAT,):
                return math.nan
            name()
            _, variables = numbers("II")
            for _ in range(variables):
                called, (rank,) = name(), numbers("B")
                shape = numbers(f"{rank}I")
                _, held = numbers("BI")
                file.seek(held, 1)
                weight = rank and not called.endswith("_scale")
                weight = weight and "position_encodings" not in called
                counts[called] = math.prod(shape) if weight else 0
            for _ in range(numbers("I")[0]):
                called, equal = name(), name()
                counts[called] = 0 if any(part in called for part in TIED) else counts[equal]
            return float(sum(counts.values())) if file.tell() == size else math.nan
    except (struct.error, UnicodeDecodeError, KeyError):
        return math.nan
