"""How a recogniser's tokens become text, from the files of its tokenizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError

from .config_fields import Fields

CHARACTERS = ("Wav2Vec2CTCTokenizer", "Wav2Vec2Tokenizer")
PHONEMES = ("Wav2Vec2PhonemeCTCTokenizer",)
"""Classes of transformers' tokenizers whose decoders are known, the usual one first."""


def text_options(
    folder: Path, options: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields of a `CtcVocabulary` that say how its tokens are joined.

    Args:
        folder: of the checkpoint.
        options: of its tokenizer, as `text_recipe.read_tokenizer_options` gives them.
        config: contents of its config.json.

    Raises:
        MrlError: a tokenizer of another class, or an option of another type.
    """
    path = folder / "tokenizer_config.json"
    fields = Fields(options, path)
    name = options.get("tokenizer_class") or config.get("tokenizer_class") or CHARACTERS[0]
    if name not in CHARACTERS + PHONEMES:
        where = path if options.get("tokenizer_class") else folder / "config.json"
        raise MrlError(
            f"tokenizer_class is {name!r}, expected {CHARACTERS[0]} or {PHONEMES[0]}",
            where=where,
            hint="remove vocab.json to convert it without text",
        )
    phonemes = name in PHONEMES
    delimiter = options.get("word_delimiter_token", None if phonemes else "|")
    written = options.get("replace_word_delimiter_char", " ")
    if not isinstance(written, str):
        raise MrlError(f"replace_word_delimiter_char is {written!r}, expected a text", where=path)
    return {
        "word_delimiter": token_text(delimiter),
        "word_delimiter_text": written,
        "separator": " " if phonemes else "",
        "lower_case": not phonemes and fields.flag("do_lower_case", False),
        "joins_punctuation": fields.flag("clean_up_tokenization_spaces", False),
    }


def token_text(value: Any) -> str | None:
    """A token's text, which tokenizer files write bare or with its options around it."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None
