"""The translator against transformers: a tiny NLLB of random weights, converted on the spot."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from tiny_nllb import make_nllb

from mrl_jax.core.errors import MrlError
from mrl_jax.inference.translation import Translator, TranslatorConfig

TEXTS = ["ba ce di", "fo", "gu ba ba ce di fo", "", "di, xyz gu"]
LONGEST = 24


def config_of(folder: Path, **changes) -> TranslatorConfig:
    fields = {"source": "wol_Latn", "target": "fra_Latn", "max_tokens": LONGEST}
    return TranslatorConfig(folder=folder, **{**fields, **changes})


def reference_of(model, tokenizer, text: str, target: str) -> str:
    inputs = tokenizer(text, return_tensors="pt")
    written = model.generate(
        **inputs,
        forced_bos_token_id=tokenizer.convert_tokens_to_ids(target),
        max_new_tokens=LONGEST,
        num_beams=1,
        do_sample=False,
    )
    return tokenizer.batch_decode(written, skip_special_tokens=True)[0]


def test_greedy_translation_is_transformers(nllb):
    model, tokenizer, folder = nllb
    translator = Translator(config_of(folder))
    translations = translator.translate(TEXTS)
    expected = [reference_of(model, tokenizer, text, "fra_Latn") if text else "" for text in TEXTS]
    assert translations == expected
    assert translations[3] == ""
    assert len({text for text in translations if text}) > 1  # It reads what it is given.
    for text in filter(None, TEXTS):
        assert translator.tokens(text) == tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)
    # Must differ: another language, and a text alone or in a batch must not.
    english = Translator(config_of(folder, target="eng_Latn")).translate(TEXTS)
    assert english != translations
    assert translator.translate([TEXTS[2]]) == [translations[2]]


def test_codes_stand_where_the_tokenizer_puts_them(tmp_path):
    model, tokenizer, folder = make_nllb(tmp_path, legacy=True)
    translator = Translator(config_of(folder))
    assert translator.tokens("ba")[-2:] == ["</s>", "wol_Latn"]
    assert translator.tokens("ba") == tokenizer.convert_ids_to_tokens(tokenizer("ba").input_ids)
    assert translator.translate(["ba ce"]) == [reference_of(model, tokenizer, "ba ce", "fra_Latn")]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("wo_Latn", "did you mean wol_Latn"),
        ("fr", "did you mean fra_Latn"),
        ("xxx", "expected one of eng_Latn, fra_Latn, wol_Latn"),
        ("ba", "language 'ba'"),  # A word, and no language.
    ],
)
def test_an_unknown_language_is_named_with_the_nearest(nllb, code, message):
    with pytest.raises(MrlError, match="source_language: the tokenizer does not know") as error:
        Translator(config_of(nllb[2], source=code))
    assert message.lower() in str(error.value).lower()
    with pytest.raises(MrlError, match="target_language"):
        Translator(config_of(nllb[2], target=code))


def broken(nllb, folder: Path, kind: str) -> Path:
    copy = folder / "copy"
    if kind == "absent":
        return copy
    if kind == "checkpoint":
        return nllb[2].with_name("source")
    shutil.copytree(nllb[2], copy)
    if kind == "empty":
        (copy / "model.bin").unlink()
    elif kind == "no tokenizer":
        (copy / "tokenizer.json").unlink()
    elif kind == "damaged":
        (copy / "model.bin").write_bytes(b"no model")
    elif kind == "other tokenizer":
        path = copy / "shared_vocabulary.json"
        tokens = json.loads(path.read_text())
        path.write_text(json.dumps(["x" if token == "wol_Latn" else token for token in tokens]))
    return copy


BROKEN = [
    ("absent", "no such folder"),
    ("checkpoint", "it is a checkpoint of transformers"),
    ("empty", "there is no model.bin"),
    ("no tokenizer", "tokenizer.json: no such file"),
    ("damaged", "cannot be opened by CTranslate2"),
    ("other tokenizer", "has no wol_Latn: the tokenizer beside it is another model's"),
]


@pytest.mark.parametrize(("kind", "message"), BROKEN)
def test_a_folder_that_is_no_translator(nllb, tmp_path, kind, message):
    with pytest.raises(MrlError) as error:
        Translator(config_of(broken(nllb, tmp_path, kind)))
    assert message in str(error.value)


def test_a_tokenizer_of_its_own_folder(nllb, tmp_path):
    _, _, folder = nllb
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(MrlError, match=r"tokenizer\.json: no such file"):
        Translator(config_of(bare))
    translator = Translator(config_of(bare, tokenizer=folder.with_name("source")))
    assert translator.translate(TEXTS[:2]) == Translator(config_of(folder)).translate(TEXTS[:2])


def test_every_field_is_read(nllb):
    folder = nllb[2]
    translations = Translator(config_of(folder, beam_size=3)).translate(TEXTS[:3])
    assert translations != Translator(config_of(folder)).translate(TEXTS[:3])
    for name in ("beam_size", "max_tokens", "batch_size"):
        with pytest.raises(MrlError, match=f"{name} is 0, expected 1 or more"):
            config_of(folder, **{name: 0})
    with pytest.raises(MrlError, match=r"cannot translate \(.* Lower max_translation_tokens"):
        Translator(config_of(folder, max_tokens=65)).translate(TEXTS[:1])
    short = Translator(config_of(folder, max_tokens=3)).translate(TEXTS[:1])
    assert len(short[0]) < len(Translator(config_of(folder)).translate(TEXTS[:1])[0])


@pytest.mark.parametrize("package", ["ctranslate2", "tokenizers"])
def test_a_missing_package_is_named(nllb, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MrlError, match=rf"{package}, which is not installed.*mrl_jax\[cascade\]"):
        Translator(config_of(nllb[2]))
