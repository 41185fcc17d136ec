"""Texts to token ids, with the tokenizer that a text tower's folder carries."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, existing_file, first_line
from mrl_jax.core.extras import require
from mrl_jax.core.paths import user_path
from mrl_jax.core.text import check_texts
from mrl_jax.data.text.spelling import spell_tokens
from mrl_jax.data.text.text_recipe import read_text_recipe

DEFAULT_END = "<|endoftext|>"
"""What Qwen3-Embedding appends and pools: its padding token, not its `eos_token`."""


class TextTokenizer:
    """The published tokenizer of a text tower, which gives texts as the tower was trained on them.

    Around a text stand the special tokens that its tokenizer.json adds. Where that adds none, the
    padding token is put behind every text, as Qwen3-Embedding does; but nothing is in a folder of
    sentence-transformers (one with modules.json), whose tokenizer.json is all there is to know.

    Args:
        folder: a tower folder, or a Hugging Face one; see `text_recipe.TextRecipe` for what is
            read beside tokenizer.json.
        max_tokens: longer texts lose their tail; special tokens always stay. A limit of the
            tower's own counts as well.

    Attributes:
        prefix, suffix: ids before and behind every text.
        end_id: the last of them; None where nothing stands behind a text.
        unknown_id: id of the token for what no other spells; None where there is none.
        max_tokens: the smaller of both limits.
        document_prompt: what `encode_documents` puts before every text.
        digest: SHA-256 of its tokenizer.json.

    Raises:
        MrlError: no tokenizer, not one of the `tokenizers` library, no end token; the
            library is not installed.
    """

    def __init__(self, folder: str | Path, *, max_tokens: int = 512):
        if max_tokens < 2:
            raise MrlError(f"max_tokens is {max_tokens}, expected 2 or more")
        path = existing_file(
            user_path(folder) / "tokenizer.json",
            hint="convert the tower from a folder that has its tokenizer.json",
        )
        self._tokenizer, self.path = open_tokenizer(path), path
        self.digest = tokenizer_digest(path.parent)
        recipe = read_text_recipe(path.parent)
        self.max_tokens = min(max_tokens, recipe.max_tokens or max_tokens)
        self.document_prompt = recipe.document_prompt
        self._keeps_tail = recipe.keeps_tail
        padding = recipe.padding_token or DEFAULT_END
        padding_id = self._tokenizer.token_to_id(padding)
        self.prefix, self.suffix = special_tokens(self._tokenizer, where=path)
        self.adds_own_tokens = recipe.complete or bool(self.prefix or self.suffix)
        if not self.adds_own_tokens:
            if padding_id is None:
                hint = 'name the end token as "pad_token" in tokenizer_config.json'
                problem = f"has no token {padding!r}, which closes every text"
                raise MrlError(problem, where=path, hint=hint)
            self.suffix = (padding_id,)
        self.end_id: int | None = self.suffix[-1] if self.suffix else None
        self._empty = [padding_id or 0]  # One place at the least is pooled.
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        self.unknown_id: int | None = unknown and self._tokenizer.token_to_id(unknown)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut to `max_tokens`, special tokens around it.

        A text of no token at all is one padding token.
        """
        room = max(self.max_tokens - len(self.prefix) - len(self.suffix), 0)
        if self._keeps_tail:
            rows = [ids[max(len(ids) - room, 0) :] for ids in self._ids(texts)]
        else:
            rows = [ids[:room] for ids in self._ids(texts)]
        return [[*self.prefix, *ids, *self.suffix] or self._empty for ids in rows]

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of texts that are searched, each after the tower's own prompt for them."""
        return self.encode([self.document_prompt + text for text in texts])

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts: what stands before a query, so without special tokens."""
        return self._ids(prompts)

    def tokens_before(self, texts: Sequence[str], ends: Sequence[int]) -> list[int]:
        """How many tokens of each encoded text stand before its character of number `end`."""
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [
            len(self.prefix) + sum(start < end for start, _ in item.offsets)
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
        check_texts(texts)
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
        tokenizer = Tokenizer.from_buffer(path.read_bytes())
    except Exception as error:  # The library raises bare Exceptions.
        problem = f"cannot be read as a tokenizer ({first_line(error)})"
        hint = "copy tokenizer.json from the published model again"
        raise MrlError(problem, where=path, hint=hint) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


PROBES = ("a", "A", "0", ".", "un", "\u4e2d")
"""Short texts, of which every tokenizer knows one."""


def special_tokens(tokenizer: Any, *, where: object) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that a tokenizer of the `tokenizers` library puts before and behind one text.

    Raises:
        MrlError: it puts them elsewhere.
    """
    if not tokenizer.num_special_tokens_to_add(False):
        return (), ()
    plain: list[int] = []
    around: list[int] = tokenizer.encode("").ids
    for probe in PROBES:
        plain = tokenizer.encode(probe, add_special_tokens=False).ids
        if plain:
            around = tokenizer.encode(probe).ids
            break
    for start in range(len(around) - len(plain) + 1):
        end = start + len(plain)
        if around[start:end] == plain:
            return tuple(around[:start]), tuple(around[end:])
    raise MrlError(
        f"puts {around} around the tokens {plain}, expected special tokens at their ends",
        where=where,
        hint="copy tokenizer.json from the published model again",
    )


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
