"""How a text checkpoint embeds, against sentence-transformers itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published import edit_json, relative_error, save, torch_qwen3
from sentence_cases import REFUSED, VARIANTS
from sentence_folders import END, OTHER_END, TEXTS, sentence_folder, write_tokenizer

import mrl_jax
from converters.__main__ import main
from converters.convert import convert
from converters.export import export
from mrl_jax.checkpoints.checksum_command import update_tower
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.data.text.tokenizer import TextTokenizer, pad_tokens

pytest.importorskip("sentence_transformers")
torch = pytest.importorskip("torch")


def theirs(folder: Path, texts=TEXTS, **options: Any) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return np.asarray(model.encode(list(texts), **options))


def ours(tower: Path, texts=TEXTS, *, raw: bool = False) -> np.ndarray:
    tokens = TextTokenizer(tower).encode_documents(list(texts))
    module = mrl_jax.load_qwen3(tower, dtype=np.float32)
    return np.asarray((module.pool if raw else module.embed)(*pad_tokens(tokens)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder and its tower by the name of a variant, made when first asked for."""
    root = tmp_path_factory.mktemp("sentence")

    def make(name: str) -> tuple[Path, Path]:
        source = root / name.replace(" ", "_")
        tower = source.with_name(f"{source.name}-tower")
        if not tower.exists():
            convert(str(sentence_folder(source, **VARIANTS[name])), tower, family="qwen3")
        return source, tower

    return make


@pytest.mark.parametrize("name", VARIANTS)
def test_vectors_are_those_of_sentence_transformers(name, made):
    source, tower = made(name)
    vectors = ours(tower)
    expected = theirs(source)
    assert vectors.shape == expected.shape
    assert relative_error(vectors, expected) < 1e-5


def test_each_way_gives_other_vectors(made):
    # Otherwise the comparison above would pass without reading the files.
    usual = ours(made("as Qwen3-Embedding")[1])
    for name in VARIANTS:
        vectors = ours(made(name)[1])
        if name != "as Qwen3-Embedding" and vectors.shape == usual.shape:
            assert relative_error(vectors, usual) > 1e-2, name


def test_raw_vectors_where_the_source_does_not_normalise(tmp_path, capsys):
    source = sentence_folder(tmp_path / "source", normalize=False, pooling="mean")
    capsys.readouterr()
    assert run_command(main, ["qwen3", str(source), str(tmp_path / "tower")]) == 0
    assert "does not scale its vectors to unit length" in capsys.readouterr().out
    raw = theirs(source)
    assert relative_error(ours(tmp_path / "tower", raw=True), raw) < 1e-5
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    assert relative_error(ours(tmp_path / "tower"), unit) < 1e-5
    assert relative_error(raw, unit) > 0.1
    edit_json(source / "config_sentence_transformers.json", similarity_fn_name="dot")
    with pytest.raises(MrlError, match=r"transformers.json: similarity_fn_name is 'dot'"):
        convert(str(source), tmp_path / "other", family="qwen3")


def test_a_dense_layer_is_kept_and_exported(made, tmp_path):
    source, tower = made("dense with tanh")
    config = read_info(tower).config
    assert (config.pooling, config.embed_width, config.dense[0].activation) == ("mean", 12, "tanh")
    export(tower, tmp_path / "back")
    for name in ("model.safetensors", "2_Dense/model.safetensors"):
        from safetensors.numpy import load_file

        before, after = load_file(source / name), load_file(tmp_path / "back" / name)
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[key], after[key]) for key in before)
    np.testing.assert_array_equal(theirs(tmp_path / "back"), theirs(source))


@pytest.mark.slow
def test_padding_changes_nothing_without_causal_masks(made):
    _, tower = made("bidirectional")
    tokens = TextTokenizer(tower).encode_documents(list(TEXTS))
    module = mrl_jax.load_qwen3(tower)
    together = np.asarray(module.embed(*pad_tokens(tokens, 32)))
    alone = np.concatenate([np.asarray(module.embed(*pad_tokens([ids]))) for ids in tokens])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    ids, mask = pad_tokens(tokens, 20)
    left = np.asarray(module.embed(ids[:, ::-1].copy(), mask[:, ::-1].copy()))
    assert np.abs(left - together).max() > 1e-3  # The order of tokens counts.
    rolled = [np.roll(x, 5, axis=1) for x in (ids, mask)]
    np.testing.assert_allclose(np.asarray(module.embed(*rolled)), together, atol=1e-6)


def test_without_these_files_what_is_assumed_is_said(tmp_path, capsys):
    source = save(torch_qwen3(), tmp_path / "source")
    write_tokenizer(source, suffix=None)
    assert run_command(main, ["qwen3", str(source), str(tmp_path / "tower")]) == 0
    out = capsys.readouterr().out
    assert "says nothing of how it embeds texts (no modules.json): the last token is pooled" in out
    assert f"the token '{END}' stands behind every text" in out
    notes = json.loads((tmp_path / "tower" / "report.json").read_text())["notes"]
    assert len(notes) == 1
    assert TextTokenizer(tmp_path / "tower").encode(["a"])[0][-1] == 0
    write_tokenizer(source, suffix=OTHER_END)
    assert run_command(main, ["qwen3", str(source), str(tmp_path / "other")]) == 0
    assert "special tokens are those that tokenizer.json adds" in capsys.readouterr().out
    assert TextTokenizer(tmp_path / "other").encode(["a"])[0][-1] == 2


def test_long_texts_are_cut_as_sentence_transformers_cuts_them(made):
    source, tower = made("another end token")
    edit_json(source / "sentence_bert_config.json", max_seq_length=6)
    edit_json(tower / "sentence_bert_config.json", max_seq_length=6)
    update_tower(tower)
    long = ["le mil ? a le mil ? a le mil"]
    assert len(TextTokenizer(tower).encode(long)[0]) == 6
    assert len(TextTokenizer(tower, max_tokens=4).encode(long)[0]) == 4
    assert relative_error(ours(tower, long), theirs(source, long)) < 1e-5
    edit_json(tower / "tokenizer_config.json", truncation_side="left")
    update_tower(tower)
    edit_json(source / "tokenizer_config.json", truncation_side="left")
    assert relative_error(ours(tower, long), theirs(source, long)) < 1e-5


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_file_and_field(name, made, tmp_path, capsys):
    edit, words = REFUSED[name]
    dense = "2_Dense" in words
    source = shutil.copytree(made("dense" if dense else "mean")[0], tmp_path / "source")
    edit(source)
    capsys.readouterr()
    assert run_command(main, ["qwen3", str(source), str(tmp_path / "tower")]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "tower").exists()
