"""Tokens of a tokenizer as strings that can be joined to a text without the tokenizer."""

from collections.abc import Sequence
from typing import Any

from mrl_jax.core.errors import MrlError

# The printable bytes of Latin-1 stand for themselves, the others for characters from 256 on.
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS = sorted(set(range(256)) - set(_PRINTABLE))
CHARACTER_OF_BYTE = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(256 + place) for place, byte in enumerate(_OTHERS)
}
"""How byte-level pair encoding writes each byte (Radford et al., 2019, GPT-2)."""
BYTE_OF_CHARACTER = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}


def write_bytes(text: str) -> str:
    """The UTF-8 bytes of a text, each as its character in byte-level tokens."""
    return "".join(CHARACTER_OF_BYTE[byte] for byte in text.encode())


def read_bytes(token: str) -> bytes:
    """The bytes that a byte-level token stands for; they may be a part of a character.

    Raises:
        KeyError: a character that stands for no byte.
    """
    return bytes(BYTE_OF_CHARACTER[character] for character in token)


def spell_tokens(
    tokenizer: Any, ids: Sequence[int], *, where: object
) -> tuple[tuple[str, ...], bool]:
    """What the tokens of these ids write.

    Joined and stripped, they are the text that the tokenizer's own decoder gives, except that
    a word-level tokenizer of characters gets no spaces between these, and that added tokens
    of a byte-level one write what they match (the library takes their letters for bytes).

    Args:
        tokenizer: of the `tokenizers` library.
        ids: of its tokens.
        where: its file, for error messages.

    Returns:
        the string of each token, and whether these are byte-level ones (see `read_bytes`).

    Raises:
        MrlError: its decoder is of another kind.
    """
    names = [tokenizer.id_to_token(number) or "" for number in ids]
    kind = _kind(tokenizer.decoder)
    if kind == "ByteLevel":
        added = tokenizer.get_added_tokens_decoder()
        pairs = zip(ids, names, strict=True)
        return tuple(write_bytes(name) if i in added else name for i, name in pairs), True
    if kind == "Metaspace":
        mark = tokenizer.decoder.replacement
        return tuple(name.replace(mark, " ") for name in names), False
    splitting = _kind(tokenizer.pre_tokenizer)
    if kind == "no" and _kind(tokenizer.model) == "WordLevel":
        if splitting in ("WhitespaceSplit", "Whitespace"):
            return tuple(f"{name} " for name in names), False
        if splitting == "Split":
            return tuple(names), False
    raise MrlError(
        f"has {kind} decoder over a {_kind(tokenizer.model)} model, whose tokens a recogniser "
        "cannot join to a text",
        where=where,
        hint="take a text tower of a ByteLevel or Metaspace tokenizer, or of words or characters "
        "by `new_tokenizer`; or set model.vocabulary=characters",
    )


def _kind(part: Any) -> str:
    return "no" if part is None else type(part).__name__
