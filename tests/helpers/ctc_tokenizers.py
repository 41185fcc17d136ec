"""Tokenizers of recognisers that make other texts of the same outputs."""

import json
from pathlib import Path
from typing import Any

from published import edit_json

DECODERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "phonemes": {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer", "do_phonemize": False},
    "phonemes without words": {
        "tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer",
        "do_phonemize": False,
        "word_delimiter_token": None,
        "do_lower_case": True,
    },
    "another word delimiter": {"replace_word_delimiter_char": "-"},
    "no spaces": {"replace_word_delimiter_char": ""},
    "no word delimiter": {"word_delimiter_token": None},
    "clean": {"clean_up_tokenization_spaces": True},
    "clean, lower case": {"clean_up_tokenization_spaces": True, "do_lower_case": True},
    "lower case": {"do_lower_case": True},
    "no padding token": {"pad_token": None},
    "an absent padding token": {"pad_token": "[PAD]"},
    "another padding token": {"pad_token": "A"},
    "phonemes, no padding token": {
        "tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer",
        "do_phonemize": False,
        "pad_token": None,
    },
}
TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "N'T", "'S", "?", ".", "!", "'"]


def write_ctc_tokenizer(folder: Path, name: str) -> None:
    """Give a recogniser of 13 outputs one of `DECODERS`."""
    ids = {token: number for number, token in enumerate(TOKENS)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    usual = {"tokenizer_class": "Wav2Vec2CTCTokenizer", "unk_token": "<unk>"}
    edit_json(folder / "tokenizer_config.json", **{**usual, **DECODERS[name]})
    if "word_delimiter_token" not in DECODERS[name] and name.startswith("phonemes,"):
        options = json.loads((folder / "tokenizer_config.json").read_text())
        del options["word_delimiter_token"]
        (folder / "tokenizer_config.json").write_text(json.dumps(options))
