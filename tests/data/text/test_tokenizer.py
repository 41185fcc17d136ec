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


def adding(folder, *, single, config=None, modules=True):
    """A tokenizer whose own file puts tokens around a text, in a sentence-transformers folder."""
    make(folder, config=config)
    made = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    if single:
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single=single, special_tokens=[("?", 3), (END, 5)]
        )
    made.save(str(folder / "tokenizer.json"))
    if modules:
        (folder / "modules.json").write_text("[]")
    return folder


@pytest.mark.parametrize("modules", [False, True])
@pytest.mark.parametrize(
    ("single", "prefix", "suffix"),
    [("$A ?", (), (3,)), ("? $A", (3,), ()), ("? $A ? <|endoftext|>", (3,), (3, 5))],
)
def test_the_tokenizers_own_tokens_stand_around_a_text(tmp_path, single, prefix, suffix, modules):
    tokenizer = TextTokenizer(adding(tmp_path, single=single, modules=modules), max_tokens=4)
    assert (tokenizer.prefix, tokenizer.suffix) == (prefix, suffix)
    assert tokenizer.end_id == (suffix[-1] if suffix else None)
    assert tokenizer.encode(["un"]) == [[*prefix, 0, *suffix]]
    long = tokenizer.encode(["un deux trois un deux"])[0]
    assert len(long) == 4
    assert long[: len(prefix)] == [*prefix]
    assert long[len(long) - len(suffix) :] == [*suffix]
    assert tokenizer.encode_prompts(["un"]) == [[0]]
    assert tokenizer.tokens_before(["un deux"], [3]) == [len(prefix) + 1]


def test_nothing_is_appended_where_modules_json_says_all(tmp_path):
    tokenizer = TextTokenizer(adding(tmp_path, single=None))
    assert (tokenizer.prefix, tokenizer.suffix, tokenizer.end_id) == ((), (), None)
    # One place at the least is pooled.
    assert tokenizer.encode(["un deux", ""]) == [[0, 1], [5]]
    (tmp_path / "modules.json").unlink()
    assert TextTokenizer(tmp_path).encode(["un deux", ""]) == [[0, 1, 5], [5]]


@pytest.mark.parametrize(
    ("options", "prompt"),
    [
        ({"prompts": {"document": "un ", "query": "deux "}}, "un "),
        ({"prompts": {"passage": "un ", "query": "deux "}}, "un "),
        ({"prompts": {"trois": "trois "}, "default_prompt_name": "trois"}, "trois "),
        ({"prompts": {"document": None, "trois": "x"}, "default_prompt_name": "trois"}, ""),
        ({"prompts": {"query": "deux "}}, ""),
        ({}, ""),
    ],
)
def test_documents_get_the_towers_own_prompt(tmp_path, options, prompt):
    adding(tmp_path, single="$A ?")
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(options))
    tokenizer = TextTokenizer(tmp_path)
    assert tokenizer.document_prompt == prompt
    assert tokenizer.encode_documents(["deux"]) == tokenizer.encode([f"{prompt}deux"])
    # It belongs to modules.json: alone, the file says nothing.
    (tmp_path / "modules.json").unlink()
    assert TextTokenizer(tmp_path).document_prompt == ""


def test_the_towers_own_limit_counts(tmp_path):
    adding(tmp_path, single="$A ?", config={"model_max_length": 3, "truncation_side": "left"})
    assert TextTokenizer(tmp_path).encode(["un deux trois"]) == [[1, 2, 3]]
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 2}')
    assert TextTokenizer(tmp_path).encode(["un deux trois"]) == [[2, 3]]
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert TextTokenizer(tmp_path).encode(["un deux trois"]) == [[0, 3]]


@pytest.mark.parametrize("prompts", [["un"], {"document": 3}])
def test_prompts_that_are_none_are_refused(tmp_path, prompts):
    adding(tmp_path, single="$A ?")
    path = tmp_path / "config_sentence_transformers.json"
    path.write_text(json.dumps({"prompts": prompts}))
    with pytest.raises(MrlError, match=r"config_sentence_transformers.json: cannot be read"):
        TextTokenizer(tmp_path)


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
