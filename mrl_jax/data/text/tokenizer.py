"""Texts to token ids, with the tokenizer that a text tower's folder carries."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, existing_file, first_line
from mrl_jax.core.extras import require
from mrl_jax.data.text.spelling import spell_tokens

DEFAULT_END = "<|endoftext|>"
"""What Qwen3-Embedding appends and pools: its padding token, not its `eos_token`."""


class TextTokenizer:
    """The published tokenizer of a text tower.

    Args:
        folder: a tower folder, or a Hugging Face one: `tokenizer.json` is read, and
            `tokenizer_config.json` for the name of the end token (`pad_token`).
        max_tokens: longer texts lose their tail; the end token always stays.

    Attributes:
        end_id: id of the token that closes every text.
        unknown_id: id of the token for what no other spells; None where there is none.
        digest: SHA-256 of its tokenizer.json.

    Raises:
        MrlError: no tokenizer, not one of the `tokenizers` library, no end token; the
            library is not installed.
    """

    def __init__(self, folder: str | Path, *, max_tokens: int = 512):
        if max_tokens < 2:
            raise MrlError(f"max_tokens is {max_tokens}, expected 2 or more")
        path = existing_file(
            Path(folder) / "tokenizer.json",
            hint="convert the tower from a folder that has its tokenizer.json",
        )
        self._tokenizer, self.path = open_tokenizer(path), path
        self.digest = tokenizer_digest(path.parent)
        self.max_tokens = max_tokens
        end = _end_token(path.with_name("tokenizer_config.json"))
        end_id = self._tokenizer.token_to_id(end)
        if end_id is None:
            hint = 'name the end token as "pad_token" in tokenizer_config.json'
            problem = f"has no token {end!r}, which closes every text"
            raise MrlError(problem, where=path, hint=hint)
        self.end_id: int = end_id
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        self.unknown_id: int | None = unknown and self._tokenizer.token_to_id(unknown)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut to `max_tokens`, the end token last."""
        return [[*ids[: self.max_tokens - 1], self.end_id] for ids in self._ids(texts)]

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts: what stands before a query, so without an end token."""
        return self._ids(prompts)

    def tokens_before(self, texts: Sequence[str], ends: Sequence[int]) -> list[int]:
        """How many tokens of each text begin before its character of number `end`."""
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [
            sum(start < end for start, _ in item.offsets)
            for item, end in zip(encoded, ends, strict=True)
        ]

    def normalize(self, text: str) -> str:
        """The text as it is before it is parted into tokens."""
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    def unknown_parts(self, text: str) -> list[str]:
        """The parts of a text, normalised, that become the unknown token."""
        text = self.normalize(text)  # Offsets into an unnormalised one may cut a character.
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        pairs = zip(encoded.ids, encoded.offsets, strict=True)
        return [text[start:end] for number, (start, end) in pairs if number == self.unknown_id]

    def spell(self, ids: Sequence[int]) -> tuple[tuple[str, ...], bool]:
        """What the tokens of these ids write; see `spelling.spell_tokens`."""
        return spell_tokens(self._tokenizer, ids, where=self.path)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        # Special tokens are left out: published tokenizers differ in whether they append
        # the end token, and two of them would change what is pooled.
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [item.ids for item in encoded]


def open_tokenizer(path: Path, *, extra: str = "text") -> Any:
    """A tokenizer.json by the `tokenizers` library (of the `extra`), not to pad or truncate.

    Raises:
        MrlError: not a tokenizer; the library is not installed.
    """
    require("tokenizers", by="reading texts", where=path, extra=extra)
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises bare Exceptions.
        problem = f"cannot be read as a tokenizer ({first_line(error)})"
        hint = "copy tokenizer.json from the published model again"
        raise MrlError(problem, where=path, hint=hint) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 of the tokenizer that a text tower's folder carries."""
    return hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()


def pad_tokens(
    ids: Sequence[Sequence[int]], size: int | None = None
) -> tuple[HostArray, HostArray]:
    """Right-padded ids [B, L] int32 and their mask [B, L] bool; L is `size` or the longest."""
    size = max((len(row) for row in ids), default=0) if size is None else size
    tokens = np.zeros((len(ids), size), np.int32)
    mask = np.zeros((len(ids), size), np.bool_)
    for row, values in enumerate(ids):
        tokens[row, : len(values)] = values
        mask[row, : len(values)] = True
    return tokens, mask


def _end_token(path: Path) -> str:
    if not path.is_file():
        return DEFAULT_END
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        token = raw.get("pad_token") or DEFAULT_END
        return str(token["content"] if isinstance(token, dict) else token)
    except (ValueError, AttributeError, KeyError) as error:
        problem = f"cannot be read as a tokenizer's description ({first_line(error)})"
        hint = "copy it from the published model again"
        raise MrlError(problem, where=path, hint=hint) from error
