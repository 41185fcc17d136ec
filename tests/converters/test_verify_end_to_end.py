"""The certificate from raw clips and raw texts on: what it covers, and changes by hand it finds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ctc_tokenizers import DECODERS, TOKENS, write_ctc_tokenizer
from published import CHARACTERS, HUBERT_LARGE, edit_json, save, torch_hubert, torch_qwen3
from safetensors.numpy import load_file
from sentence_folders import END, OTHER_END, sentence_folder, write_tokenizer
from tiers import mostly_slow
from tiny_adapter import save_adapter

from converters.__main__ import main
from converters.convert import convert
from converters.export import export
from mrl_jax.checkpoints.checksum_command import update_tower
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.cli import run_command

pytest.importorskip("torch")
pytest.importorskip("transformers")
SMALL: dict[str, Any] = {"num_hidden_layers": 2}
QUERY = "le mil : "


def _ctc(folder: Path) -> Path:
    return save(torch_hubert(ctc=True, **{**HUBERT_LARGE, **SMALL}), folder)


def _text(folder: Path) -> Path:
    pytest.importorskip("sentence_transformers")
    prompts = {"query": QUERY, "document": "a "}
    return sentence_folder(folder, pooling="mean", dense=12, prompts=prompts)


SOURCES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "ctc": ("hubert", _ctc),
    "text": ("qwen3", _text),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """A checkpoint and its tower by name, made when first asked for."""
    root = tmp_path_factory.mktemp("models")

    def make(name: str) -> tuple[Path, Path]:
        source, tower = root / name, root / f"{name}-tower"
        if not tower.exists():
            family, write = SOURCES[name]
            convert(str(write(source)), tower, family=family)
        return source, tower

    return make


def verify(tower: Path, source: Path, *options: str) -> int:
    return run_command(main, ["verify", str(tower), str(source), *options])


def certificate(tower: Path) -> dict[str, Any]:
    return json.loads((tower / "verification.json").read_text())


def test_a_recogniser_is_covered_from_samples_to_words(models):
    source, tower = models("ctc")
    assert verify(tower, source) == 0
    found = certificate(tower)
    assert next(iter(found["errors"])) == "samples"
    counts = {name: (count["differ"], count["of"]) for name, count in found["counts"].items()}
    assert counts == {"words of the clips": (0, 3), "words of random outputs": (0, 200)}
    assert found["not_covered"] == []


def test_a_text_tower_is_covered_from_texts_to_vectors(models):
    source, tower = models("text")
    assert verify(tower, source) == 0
    found = certificate(tower)
    assert list(found["errors"])[-2:] == ["text vectors", "query vectors"]
    counts = {name: (count["differ"], count["of"]) for name, count in found["counts"].items()}
    assert counts == {"tokens of texts": (0, 6), "tokens around texts": (0, 6)}
    assert found["not_covered"] == ["texts of more than 32768 tokens"]


def _tower_json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(tower: Path) -> None:
        raw = json.loads((tower / "tower.json").read_text())
        change(raw)
        (tower / "tower.json").write_text(json.dumps(raw))

    return edit


CHANGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "preprocessing": (
        "ctc",
        _tower_json(lambda raw: raw["config"].update(normalize_clips=False)),
        "has normalize_clips False, and the checkpoint has True",
    ),
    "the decoder's blank": (
        "ctc",
        _tower_json(lambda raw: raw["vocabulary"].update(blank=7)),
        "words of",
    ),
    "the decoder's spaces": (
        "ctc",
        _tower_json(lambda raw: raw["vocabulary"].update(word_delimiter="a")),
        "words of",
    ),
    "pooling": (
        "text",
        _tower_json(lambda raw: raw["config"].update(pooling="last")),
        "has pooling last, and the checkpoint has mean",
    ),
    "causality": (
        "text",
        _tower_json(lambda raw: raw["config"].update(causal=False)),
        "has causal False, and the checkpoint has True",
    ),
    "appended token": (
        "text",
        lambda tower: write_tokenizer(tower, suffix=OTHER_END),
        "6 of 6 tokens around texts differ (([], [2]), expected ([], [0]))",
    ),
    "no appended token": (
        "text",
        lambda tower: write_tokenizer(tower, suffix=None),
        "6 of 6 tokens around texts differ (([], []), expected ([], [0]))",
    ),
    "prompt": (
        "text",
        lambda tower: edit_json(tower / "config_sentence_transformers.json", prompts={}),
        "text vectors is off by",
    ),
    "room": (
        "text",
        lambda tower: edit_json(tower / "sentence_bert_config.json", max_seq_length=4),
        "is off by",
    ),
}


@pytest.mark.parametrize("name", mostly_slow(CHANGES, quick=4))
def test_what_was_changed_by_hand_is_named(name, models, tmp_path, capsys):
    kind, change, words = CHANGES[name]
    source, original = models(kind)
    tower = shutil.copytree(original, tmp_path / "tower")
    change(tower)
    update_tower(tower)  # As for a change that is meant; verification compares all the same.
    capsys.readouterr()
    assert verify(tower, source) in (1, 2)
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_normalisation_is_the_feature_extractors_own(tmp_path, capsys):
    # Two files that disagree: transformers' order decides, and it is told.
    source = save(torch_hubert(**{**HUBERT_LARGE, **SMALL}), tmp_path / "source")
    other = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": False}
    (source / "processor_config.json").write_text(json.dumps({"feature_extractor": other}))
    capsys.readouterr()
    assert run_command(main, ["hubert", str(source), str(tmp_path / "tower")]) == 0
    out = capsys.readouterr().out
    assert "processor_config.json and preprocessor_config.json differ, and the first counts" in out
    assert "do_normalize False, not True" in out
    assert verify(tmp_path / "tower", source) == 0
    (source / "processor_config.json").unlink()
    edit_json(source / "preprocessor_config.json", do_normalize=None)
    convert(str(source), tmp_path / "null", family="hubert")
    assert verify(tmp_path / "null", source) == 0
    edit_json(source / "preprocessor_config.json", do_normalize=True)
    assert verify(tmp_path / "null", source) == 2


def test_another_feature_extractor_is_refused(tmp_path, capsys):
    source = save(torch_hubert(), tmp_path / "source")
    for changes, words in (
        ({"feature_extractor_type": "WhisperFeatureExtractor"}, "feature_extractor_type is 'Whis"),
        ({"feature_extractor_type": None, "feature_size": 80}, "feature_size is 80"),
    ):
        edit_json(source / "preprocessor_config.json", **changes)
        capsys.readouterr()
        assert run_command(main, ["hubert", str(source), str(tmp_path / "tower")]) == 2
        assert f"preprocessor_config.json: {words}" in capsys.readouterr().err


def test_what_is_not_covered_is_said(tmp_path, capsys):
    speech = save(torch_hubert(ctc=True, **SMALL), tmp_path / "speech")
    (speech / "vocab.json").unlink()
    (speech / "preprocessor_config.json").unlink()
    convert(str(speech), tmp_path / "speech-tower", family="hubert")
    assert verify(tmp_path / "speech-tower", speech) == 0
    lines = certificate(tmp_path / "speech-tower")["not_covered"]
    assert [line.split(":")[0] for line in lines] == ["how clips are read", "words"]
    text = save(torch_qwen3(**SMALL), tmp_path / "text")
    convert(str(text), tmp_path / "text-tower", family="qwen3")
    assert verify(tmp_path / "text-tower", text) == 0
    assert "no tokenizer.json" in certificate(tmp_path / "text-tower")["not_covered"][0]
    write_tokenizer(text, suffix=None)
    convert(str(text), tmp_path / "other", family="qwen3")
    capsys.readouterr()
    assert verify(tmp_path / "other", text) == 0
    out = capsys.readouterr().out
    assert "not covered: what stands behind a text: the checkpoint's tokenizer adds nothing" in out
    assert "not covered: pooling: the checkpoint says nothing of it" in out
    # The assumption is checked all the same.
    edit_json(tmp_path / "other" / "tokenizer_config.json", pad_token=OTHER_END)
    update_tower(tmp_path / "other")
    assert verify(tmp_path / "other", text) == 1
    assert END != OTHER_END


def test_a_bfloat16_text_tower_is_held_against_bfloat16_weights(models, tmp_path):
    source, _ = models("text")
    convert(str(source), tmp_path / "tower", family="qwen3", dtype="bfloat16")
    assert verify(tmp_path / "tower", source) == 0


def test_an_adapter_is_merged_on_both_sides(models, tmp_path, capsys):
    source, _ = models("text")
    adapter, other = (
        save_adapter(tmp_path / f"{seed}", seed=seed, modules=["mlp.down_proj"]) for seed in (0, 1)
    )
    convert(str(source), tmp_path / "tower", family="qwen3", adapter=str(adapter))
    assert verify(tmp_path / "tower", source, "--adapter", str(adapter)) == 0
    errors = certificate(tmp_path / "tower")["errors"]
    assert errors["text vectors"] < 1e-5
    assert verify(tmp_path / "tower", source, "--adapter", str(other)) == 1
    errors = certificate(tmp_path / "tower")["errors"]
    assert errors["text vectors"] > 1e-3


@pytest.mark.parametrize("passed", ["whole", "subfolder"])
def test_a_tower_in_a_folder_of_its_own_has_its_dense_layer(passed, models, tmp_path):
    plain, original = models("text")
    source = old_layout(plain, tmp_path / "source")
    tower = tmp_path / "tower"
    options: dict[str, Any] = {"subfolder": "0_Transformer"} if passed == "subfolder" else {}
    report = convert(str(source), tower, family="qwen3", **options)
    assert report["digest"] == f"sha256:{read_info(original).digest}"
    names = ["2_Dense/model.safetensors", "model.safetensors"]
    assert sorted(report["source_digests"]) == names
    flags = [f"--{name}={value}" for name, value in options.items()]
    assert verify(tower, source, *flags) == 0
    assert "text vectors" in certificate(tower)["errors"]
    export(tower, tmp_path / "exported")
    for place in (".", "2_Dense"):
        exported = tmp_path / "exported" / place / "model.safetensors"
        assert_same_tensors(load_file(exported), load_file(plain / place / "model.safetensors"))


def old_layout(plain: Path, folder: Path) -> Path:
    """As sentence-transformers before version 3 saved a model."""
    shutil.copytree(plain, folder)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        if path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(inner / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = inner.name
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def assert_same_tensors(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert sorted(ours) == sorted(theirs)
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)


# Texts of recognisers.


@pytest.mark.parametrize("name", mostly_slow(DECODERS))
def test_words_are_those_of_the_checkpoints_own_tokenizer(name, tmp_path, capsys):
    source = save(torch_hubert(ctc=True, **SMALL), tmp_path / "source")
    assert len(TOKENS) == len(CHARACTERS)
    write_ctc_tokenizer(source, name)
    convert(str(source), tmp_path / "tower", family="hubert")
    assert verify(tmp_path / "tower", source) == 0, capsys.readouterr().err
    count = certificate(tmp_path / "tower")["counts"]["words of random outputs"]
    assert (count["differ"], count["of"]) == (0, 200)
    if name != "plain":  # With a plain decoder the words are others.
        usual = {"tokenizer_class": "Wav2Vec2CTCTokenizer"}
        edit_json(source / "tokenizer_config.json", **{**_plain(DECODERS[name]), **usual})
        assert verify(tmp_path / "tower", source) == 1


def _plain(changes: dict[str, Any]) -> dict[str, Any]:
    plain = {
        "pad_token": "<pad>",
        "word_delimiter_token": "|",
        "replace_word_delimiter_char": " ",
        "clean_up_tokenization_spaces": False,
        "do_lower_case": False,
    }
    return {name: plain.get(name, changes[name]) for name in changes}


def test_a_tokenizer_of_another_class_is_refused(tmp_path, capsys):
    source = save(torch_hubert(ctc=True), tmp_path / "source")
    edit_json(source / "tokenizer_config.json", tokenizer_class="WhisperTokenizer")
    capsys.readouterr()
    assert run_command(main, ["hubert", str(source), str(tmp_path / "tower")]) == 2
    err = capsys.readouterr().err
    assert "tokenizer_config.json: tokenizer_class is 'WhisperTokenizer', expected" in err
