"""Texts from one language to another: NLLB (arXiv 2207.04672) through CTranslate2.

The folder is what `ct2-transformers-converter --copy_files tokenizer.json` makes of a
published checkpoint; the tokenizer is its own. NLLB reads the code of the source language,
the tokens and an end token, and writes after the code of the target language.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError, existing_file, first_line
from mrl_jax.core.extras import require
from mrl_jax.core.json_text import parse_json
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.core.records import read_object, readable_as
from mrl_jax.core.text import check_texts
from mrl_jax.data.text.tokenizer import open_tokenizer
from mrl_jax.inference.batching import sorted_batches

CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
"""A language and its script: wol_Latn."""
MODEL, TOKENIZER, VOCABULARY = "model.bin", "tokenizer.json", "shared_vocabulary.json"
END = "</s>"
CONVERT = (
    "make it with `ct2-transformers-converter --model SOURCE --output_dir FOLDER "
    f"--copy_files {TOKENIZER}`"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslatorConfig:
    """A translator and how it translates.

    Attributes:
        folder: of CTranslate2's.
        tokenizer: folder of the tokenizer that the model was published with; that of the
            model for None.
        source, target: NLLB's codes of the languages, wol_Latn and fra_Latn for instance.
        beam_size: hypotheses kept at a time; 1 is greedy.
        max_tokens: longer translations are cut.
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
        MrlError: no folder of CTranslate2's; no tokenizer of NLLB, or another model's; a
            language that it does not know; a package that is not installed.
    """

    def __init__(self, config: TranslatorConfig):
        self.config = config
        self._tokenizer: Any = check_translator(config)
        self._code_last = _has_code_last(config.tokenizer_folder)
        import ctranslate2

        try:
            self._model: Any = ctranslate2.Translator(str(config.folder))
        except (RuntimeError, ValueError) as error:
            problem = f"cannot be opened by CTranslate2 ({first_line(error)})"
            raise MrlError(problem, where=config.folder, hint=CONVERT) from error

    def translate(self, texts: Sequence[str], *, progress: str | None = None) -> list[str]:
        """The translation of each text; that of an empty one is empty.

        Raises:
            MrlError: CTranslate2 refuses, as where a translation may be longer than the
                model has positions.
        """
        check_texts(texts)
        translations = [""] * len(texts)
        written = [row for row, text in enumerate(texts) if text.strip()]
        lengths = [len(texts[row]) for row in written]
        for places in sorted_batches(lengths, self.config.batch_size, progress=progress):
            batch: list[int] = [written[place] for place in places]
            results = self._run([self.tokens(texts[row]) for row in batch])
            for row, result in zip(batch, results, strict=True):
                translations[row] = self.text(result.hypotheses[0])
        return translations

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
        """The model's output as text, without codes and end tokens."""
        ids = [self._tokenizer.token_to_id(token) for token in tokens]
        known = [i for i in ids if i is not None]  # Rows that only fill the embeddings up.
        return self._tokenizer.decode(known, skip_special_tokens=True)


def check_translator(config: TranslatorConfig) -> Any:
    """The tokenizer, once all is checked that can be without reading the model's weights.

    Raises:
        MrlError: as `Translator`, less a damaged model.
    """
    folder, source = config.folder, "the checkpoint that the model was converted from"
    if not folder.is_dir():
        kind = "is a file, expected a folder" if folder.exists() else "no such folder"
        raise MrlError(kind, where=folder, hint=f"correct the path, or {CONVERT}")
    if not (folder / MODEL).is_file():
        published = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
        what = "it is a checkpoint of transformers" if published else f"there is no {MODEL}"
        raise MrlError(f"is no folder of CTranslate2's: {what}", where=folder, hint=CONVERT)
    require("ctranslate2", by="translating", where=folder)
    path = existing_file(config.tokenizer_folder / TOKENIZER, hint=f"copy it from {source}")
    tokenizer = open_tokenizer(path, extra="cascade")
    known = sorted(token for token in tokenizer.get_vocab(True) if CODE.fullmatch(token))
    if not known or tokenizer.token_to_id(END) is None:
        raise MrlError(
            f"has no language codes such as wol_Latn, or no token {END}: it is not NLLB's",
            where=path,
            hint=f"copy {TOKENIZER} from {source}",
        )
    for name, code in (("source", config.source), ("target", config.target)):
        _check_code(code, known, f"{name}_language")
    _check_vocabulary(folder, (config.source, config.target, END))
    return tokenizer


def _check_code(code: str, known: Sequence[str], option: str) -> None:
    if code in known:
        return
    first = ", ".join(known[:5]) + (", …" if len(known) > 5 else "")
    alike = [f"did you mean {other}?" for other in known if other[:2] == code[:2]]
    otherwise = alike[0] if alike else f"expected one of {first}"
    raise MrlError(
        f"the tokenizer does not know the language {code!r}; it knows {len(known)}",
        where=option,
        hint=did_you_mean(code, known, otherwise=otherwise),
    )


def _check_vocabulary(folder: Path, tokens: Sequence[str]) -> None:
    """Whether the model was converted with this tokenizer's tokens, where that can be seen."""
    path = folder / VOCABULARY
    if not path.is_file():
        return
    with readable_as("a list of tokens", path, hint=CONVERT):
        vocabulary = set(parse_json(path.read_bytes()))
    missing = [token for token in tokens if token not in vocabulary]
    if missing:
        problem = f"has no {', '.join(missing)}: the tokenizer beside it is another model's"
        raise MrlError(problem, where=path, hint=CONVERT)


def _has_code_last(folder: Path) -> bool:
    """Early NLLB tokenizers put the code behind the text, as their description states."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return False
    with readable_as("a tokenizer's description", path, hint="copy it from the published model"):
        return bool(read_object(path).get("legacy_behaviour", False))
