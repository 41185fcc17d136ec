"""A tokenizer made from texts, as the files of a published one.

For small towers that are trained from random weights: a published tower brings its own.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import require
from mrl_jax.data.text.tokenizer import DEFAULT_END

Units = Literal["characters", "words", "pieces"]


def new_tokenizer(
    texts: Sequence[str], *, units: Units, max_pieces: int = 2000, whole: Sequence[str] = ()
) -> dict[str, str]:
    """A tokenizer of the characters, words or word pieces of `texts`.

    Args:
        texts: what it is made from.
        units: "characters" or "words" of these texts in lower case, anything else being
            unknown (id 1); or "pieces", by byte-level pair encoding (Sennrich et al., 2016,
            arXiv 1508.07909), which spells every text.
        max_pieces: size of a vocabulary of pieces.
        whole: words that are one token each in either case, in lower case.

    Returns:
        tokenizer.json and tokenizer_config.json by name; the end token has id 0.

    Raises:
        MrlError: the library of tokenizers is not installed.
    """
    require("tokenizers", by="making a tokenizer")
    import tokenizers

    if units == "pieces":
        made = _pieces(tokenizers, texts, max_pieces)
    else:
        made = _whole(tokenizers, texts, words=units == "words")
    made.add_tokens([tokenizers.AddedToken(word, single_word=True) for word in whole])
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": DEFAULT_END}
    return {
        "tokenizer.json": made.to_str(pretty=True) + "\n",
        "tokenizer_config.json": json.dumps(described, indent=1) + "\n",
    }


def tokenizer_size(files: Mapping[str, str]) -> int:
    """The size of the vocabulary of `new_tokenizer`'s files, added tokens included."""
    described = json.loads(files["tokenizer.json"])
    added = {token["content"] for token in described["added_tokens"]}
    return len(added | described["model"]["vocab"].keys())


def _whole(tokenizers: Any, texts: Sequence[str], *, words: bool) -> Any:
    units = " ".join(texts).lower().split() if words else "".join(texts).lower()
    names = [DEFAULT_END, "<unk>", *sorted(set(units))]
    vocabulary = {name: number for number, name in enumerate(names)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    normalizers, pre_tokenizers = tokenizers.normalizers, tokenizers.pre_tokenizers
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    single = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit() if words else single
    made.add_special_tokens([DEFAULT_END])
    return made


def _pieces(tokenizers: Any, texts: Sequence[str], size: int) -> Any:
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    alphabet = byte_level.alphabet()
    if size <= len(alphabet) + 1:
        least = f"{len(alphabet) + 1}: every byte, and the end token"
        raise MrlError(f"a vocabulary of {size} pieces is too small, expected more than {least}")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer = tokenizers.normalizers.NFC()
    # A space before the first word, so that it has the pieces it has elsewhere.
    made.pre_tokenizer = byte_level(add_prefix_space=True)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[DEFAULT_END],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return made
