"""What is said of how a text checkpoint embeds: what was assumed, and what its files say."""

from pathlib import Path

from mrl_jax.core.errors import MrlError
from mrl_jax.data.text.text_recipe import read_text_recipe
from mrl_jax.data.text.tokenizer import DEFAULT_END, open_tokenizer, special_tokens

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


def _end(folder: Path, padding: str | None) -> str:
    path = folder / "tokenizer.json"
    assumed = f"the token {padding or DEFAULT_END!r} stands behind every text"
    try:
        if any(special_tokens(open_tokenizer(path), where=path)):
            return "special tokens are those that tokenizer.json adds"
    except MrlError:  # No tokenizer, or no library to read it: `TextTokenizer` says so.
        return f"{assumed} unless tokenizer.json adds its own"
    return assumed
