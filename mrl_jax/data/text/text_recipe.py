"""What the small files of a text tower's folder say of how it reads a text.

The files are those of Hugging Face's tokenizers and of sentence-transformers, which a tower folder
carries unchanged.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError, first_line
from mrl_jax.core.json_text import parse_json
from mrl_jax.core.text import flaw_of

DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Names of the prompt of documents, in the order in which sentence-transformers looks for them."""


@dataclasses.dataclass(frozen=True)
class TextRecipe:
    """How a text becomes tokens, beside its tokenizer.json.

    Attributes:
        complete: there is a modules.json, so that what the files do not say is not done.
        padding_token: of `read_tokenizer_options`.
        keeps_tail: a text that is too long loses its beginning (`truncation_side` "left").
        max_tokens: the most tokens of a text, special ones included, by its own field or by the
            smaller limit of tokenizer and model; None without a limit.
        document_prompt: stands before every text that is searched.
        query_prompt: the published prompt of queries, which the user's own prompts replace.
    """

    complete: bool = False
    padding_token: str | None = None
    keeps_tail: bool = False
    max_tokens: int | None = None
    document_prompt: str = ""
    query_prompt: str = ""


def read_text_recipe(folder: Path, settings: Path | None = None) -> TextRecipe:
    """The recipe of a folder, from the files of tokenizer, model and sentence-transformers.

    Args:
        folder: of the tokenizer.
        settings: folder of modules.json, where it is another.

    Raises:
        MrlError: a file that cannot be read.
    """
    tokenizer = read_tokenizer_options(folder)
    padding = _token(tokenizer.get("pad_token"), folder / "tokenizer_config.json")
    keeps_tail = tokenizer.get("truncation_side") == "left"
    settings = folder if settings is None else settings
    if not (settings / "modules.json").is_file():
        return TextRecipe(padding_token=padding, keeps_tail=keeps_tail)
    sentence = _object(folder / "sentence_bert_config.json", "sentence-transformers' options")
    model = _object(folder / "config.json", "a model's description")
    limits = (tokenizer.get("model_max_length"), model.get("max_position_embeddings"))
    limits = (sentence["max_seq_length"],) if sentence.get("max_seq_length") else limits
    path = settings / "config_sentence_transformers.json"
    options = _object(path, "sentence-transformers' options")
    prompts = options.get("prompts") or {}
    if not isinstance(prompts, Mapping):
        raise _unreadable(path, "sentence-transformers' options", f"prompts is {prompts!r}")
    prompts = {name: prompt or "" for name, prompt in prompts.items()}
    if not all(isinstance(one, str) and flaw_of(one) is None for one in prompts.values()):
        raise _unreadable(path, "sentence-transformers' options", f"prompts is {prompts!r}")
    chosen = options.get("default_prompt_name") or ""
    if chosen and chosen not in prompts:
        reason = f"default_prompt_name is {chosen!r}, and prompts has no such name"
        raise _unreadable(path, "sentence-transformers' options", reason)
    default = prompts.get(chosen, "")
    document = next((prompts[name] for name in DOCUMENT_PROMPTS if name in prompts), default)
    return TextRecipe(
        complete=True,
        padding_token=padding,
        keeps_tail=keeps_tail,
        max_tokens=min((n for n in limits if type(n) is int and n > 0), default=None),
        document_prompt=document,
        query_prompt=prompts.get("query", default),
    )


def read_tokenizer_options(folder: Path) -> Mapping[str, Any]:
    """The fields of tokenizer_config.json, with the special tokens that transformers gives it.

    Those of special_tokens_map.json, which earlier versions wrote, go before its own unless it
    lists its added tokens.

    Raises:
        MrlError: a file that cannot be read.
    """
    options = _object(folder / "tokenizer_config.json", "a tokenizer's description")
    if "added_tokens_decoder" in options:
        return options
    return {**options, **_object(folder / "special_tokens_map.json", "a tokenizer's description")}


def _object(path: Path, what: str) -> Mapping[str, Any]:
    """The JSON object in a file; an empty one where there is no file."""
    if not path.is_file():
        return {}
    try:
        value = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(path, what, first_line(error)) from error
    if not isinstance(value, dict):
        raise _unreadable(path, what, "no JSON object")
    return value


def _token(value: Any, path: Path) -> str | None:
    """A token's text, which the file writes bare or with its options around it."""
    if not value:
        return None
    text = value.get("content") if isinstance(value, Mapping) else value
    if not isinstance(text, str) or flaw_of(text) is not None:
        raise _unreadable(path, "a tokenizer's description", f"pad_token is {value!r}")
    return text


def _unreadable(path: Path, what: str, reason: str) -> MrlError:
    hint = "copy it from the published model again"
    return MrlError(f"cannot be read as {what} ({reason})", where=path, hint=hint)
