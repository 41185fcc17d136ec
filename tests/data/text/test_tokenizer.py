"""Texts to ids with real tokenizer files, made on the spot."""

import json

import numpy as np
import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.data.text.tokenizer import TextTokenizer, pad_tokens

tokenizers = pytest.importorskip("tokenizers")
END = "<|endoftext|>"
WORDS = {word: place for place, word in enumerate(["un", "deux", "trois", "?", "<unk>", END])}


def make(folder, *, words=WORDS, appends=False, config=None):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(dict(words), unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if appends:
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"$A {END}", special_tokens=[(END, words[END])]
        )
        # As published files may have them, to be undone.
        tokenizer.enable_truncation(2)
        tokenizer.enable_padding(length=9)
    tokenizer.save(str(folder / "tokenizer.json"))
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (folder / "tokenizer_config.json").write_text(text)
    return folder


@pytest.mark.parametrize("appends", [False, True])
def test_every_text_ends_with_exactly_one_end_token(tmp_path, appends):
    tokenizer = TextTokenizer(make(tmp_path, appends=appends))
    assert tokenizer.end_id == 5
    ids = tokenizer.encode(["un deux trois", "", "deux ?", "quatre"])
    assert ids == [[0, 1, 2, 5], [5], [1, 3, 5], [4, 5]]
    assert tokenizer.encode_prompts(["un deux", ""]) == [[0, 1], []]
    if appends:  # The library itself would have appended it, cut, and padded.
        raw = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        assert raw.encode("un deux trois").ids != ids[0]


def test_cutting_keeps_the_end_token(tmp_path):
    make(tmp_path)
    assert TextTokenizer(tmp_path, max_tokens=3).encode(["un deux trois ?"]) == [[0, 1, 5]]
    assert TextTokenizer(tmp_path, max_tokens=5).encode(["un deux trois ?"]) == [[0, 1, 2, 3, 5]]
    with pytest.raises(MrlError, match="max_tokens is 1, expected 2 or more"):
        TextTokenizer(tmp_path, max_tokens=1)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pad_token": "?"}, 3),
        ({"pad_token": {"content": "?", "special": True}}, 3),
        ({"pad_token": None, "eos_token": "un"}, 5),
        ({}, 5),
        (None, 5),
    ],
)
def test_the_name_of_the_end_token(tmp_path, config, expected):
    assert TextTokenizer(make(tmp_path, config=config)).end_id == expected


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda folder: None, r"tokenizer\.json: no such file\. Convert the tower"),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{}"),
            r"tokenizer\.json: cannot be read as a tokenizer \(.+\)",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_bytes(b"\xff\x00junk"),
            r"tokenizer\.json: cannot be read as a tokenizer",
        ),
        (
            lambda folder: make(folder, words={"un": 0, "<unk>": 1}),
            r"tokenizer\.json: has no token '<\|endoftext\|>', which closes every text",
        ),
        (lambda folder: make(folder, config={"pad_token": "absent"}), "has no token 'absent'"),
        (
            lambda folder: make(folder, config="{"),
            r"tokenizer_config\.json: cannot be read as a tokenizer's description",
        ),
        (lambda folder: make(folder, config=[1]), r"tokenizer_config\.json: cannot be read"),
        (lambda folder: make(folder, config={"pad_token": {}}), None),
        (
            lambda folder: make(folder, config={"pad_token": {"id": 3}}),
            r"tokenizer_config\.json: cannot be read",
        ),
    ],
)
def test_folders_that_cannot_be_read(tmp_path, prepare, words):
    prepare(tmp_path)
    if words is None:
        TextTokenizer(tmp_path)
        return
    with pytest.raises(MrlError, match=words) as caught:
        TextTokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_padding():
    tokens, mask = pad_tokens([[3, 4], [], [5]])
    np.testing.assert_array_equal(tokens, [[3, 4], [0, 0], [5, 0]])
    np.testing.assert_array_equal(mask, [[True, True], [False, False], [True, False]])
    assert tokens.dtype == np.int32
    assert pad_tokens([[3]], 4)[0].shape == (1, 4)
    assert pad_tokens([[], []])[0].shape == (2, 0)
