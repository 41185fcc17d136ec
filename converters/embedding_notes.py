"""What is said of how a text checkpoint embeds: what was assumed, and what its files say."""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path

from mrl_jax.core.errors import MrlError
from mrl_jax.data.text.text_recipe import read_text_recipe, read_tokenizer_options
from mrl_jax.data.text.tokenizer import DEFAULT_END, open_tokenizer, special_tokens

from .checkpoints import read_json
from .ctc_text import token_text
from .sentence_files import SentenceModules
from .sentence_folder import sentence_folder


def embedding_notes(folder: Path, modules: SentenceModules | None) -> tuple[str, ...]:
    """Lines for the screen and for report.json.

    Raises:
        MrlError: a file that cannot be read.
    """
    recipe = read_text_recipe(folder, sentence_folder(folder))
    notes = []
    if modules is None:
        notes.append(
            "the checkpoint says nothing of how it embeds texts (no modules.json): the last token "
            f"is pooled, and {_end(folder, recipe.padding_token)}"
        )
    elif not modules.normalized:
        notes.append(
            "the checkpoint does not scale its vectors to unit length (no Normalize in "
            "modules.json): `embed` does, with the same cosines, and `pool` does not"
        )
    if recipe.document_prompt:
        notes.append(f"{recipe.document_prompt!r} is put before every document")
    if recipe.query_prompt:
        notes.append(
            f"the checkpoint puts {recipe.query_prompt!r} before queries: pass it as their prompt"
        )
    return tuple(notes)


def check_added_tokens(folder: Path) -> None:
    """Refuse tokens that transformers would add to a tokenizer, and that tokenizer.json lacks.

    Raises:
        MrlError: the files beside tokenizer.json name such a token; a file that cannot be read.
    """
    path = folder / "tokenizer.json"
    named = list(_added_tokens(folder))
    if not named or not path.is_file() or importlib.util.find_spec("tokenizers") is None:
        return
    tokenizer = open_tokenizer(path)
    for token, name in named:
        if tokenizer.token_to_id(token) is None:
            raise MrlError(
                f"names the token {token!r}, which tokenizer.json does not have",
                where=folder / name,
                hint="save the tokenizer again by transformers, which puts it there",
            )


def _added_tokens(folder: Path) -> Iterator[tuple[str, str]]:
    """Tokens that the files beside tokenizer.json add to it, and what names them."""
    name = "added_tokens.json"
    if (folder / name).is_file():
        yield from ((token, name) for token in read_json(folder / name))
    name, options = "tokenizer_config.json", read_tokenizer_options(folder)
    for field in ("added_tokens_decoder", "extra_special_tokens", "additional_special_tokens"):
        tokens = options.get(field) or ()
        tokens = tokens.values() if isinstance(tokens, Mapping) else tokens
        yield from ((text, name) for text in map(token_text, tokens) if text is not None)


def _end(folder: Path, padding: str | None) -> str:
    path = folder / "tokenizer.json"
    assumed = f"the token {padding or DEFAULT_END!r} stands behind every text"
    try:
        if any(special_tokens(open_tokenizer(path), where=path)):
            return "special tokens are those that tokenizer.json adds"
    except MrlError:  # No tokenizer, or no library to read it: `TextTokenizer` says so.
        return f"{assumed} unless tokenizer.json adds its own"
    return assumed
