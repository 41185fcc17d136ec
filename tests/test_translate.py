"""The translator against transformers: a tiny NLLB of random weights, converted on the spot."""

import importlib
import json
import shutil
from pathlib import Path

import pytest

from mrl_jax.errors import MrlError
from mrl_jax.evaluation.translate import Translator, TranslatorConfig

CODES = ("eng_Latn", "fra_Latn", "wol_Latn")
TEXTS = ["ba ce di", "fo", "gu ba ba ce di fo", "", "di, xyz gu"]
LONGEST = 24


def make_nllb(folder: Path, *, legacy: bool = False):
    """(model, tokenizer, CTranslate2's folder) of NLLB's architecture."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    converters = pytest.importorskip("ctranslate2.converters")

    tokens = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"abcdefgiou,"]
    merges = []
    for word in ("ba", "ce", "di", "fo", "gu"):
        merges += [("▁", word[0]), (f"▁{word[0]}", word[1])]
        tokens += [f"▁{word[0]}", f"▁{word}"]
    tokenizer = transformers.NllbTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        additional_special_tokens=list(CODES),
        src_lang="wol_Latn",
        tgt_lang="fra_Latn",
        legacy_behaviour=legacy,
    )
    config = transformers.M2M100Config(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        decoder_start_token_id=2,
        scale_embedding=True,
    )
    torch.manual_seed(0)
    model = transformers.M2M100ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape) * (0.5 if "shared" in name else 0.3))
        # Codes and ends are seldom the likeliest, so that words are written.
        rare = tokenizer.convert_tokens_to_ids([*tokens[:4], *CODES])
        model.model.shared.weight[rare] *= 0.2
    source = folder / "source"
    model.save_pretrained(source)
    tokenizer.save_pretrained(source)
    files = ["tokenizer.json", "tokenizer_config.json"]
    converters.TransformersConverter(str(source), copy_files=files).convert(str(folder / "ct2"))
    return model, tokenizer, folder / "ct2"


@pytest.fixture(scope="module")
def nllb(tmp_path_factory):
    return make_nllb(tmp_path_factory.mktemp("nllb"))


def asked(folder: Path, **changes) -> TranslatorConfig:
    fields = {"source": "wol_Latn", "target": "fra_Latn", "max_tokens": LONGEST}
    return TranslatorConfig(folder=folder, **{**fields, **changes})


def theirs(model, tokenizer, text: str, target: str) -> str:
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
    translator = Translator(asked(folder))
    found = translator.translate(TEXTS)
    expected = [theirs(model, tokenizer, text, "fra_Latn") if text else "" for text in TEXTS]
    assert found == expected
    assert found[3] == ""
    assert len({text for text in found if text}) > 1  # It reads what it is given.
    for text in filter(None, TEXTS):
        assert translator.tokens(text) == tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)
    # Must differ: another language, and a text alone or in a batch must not.
    english = Translator(asked(folder, target="eng_Latn")).translate(TEXTS)
    assert english != found
    assert translator.translate([TEXTS[2]]) == [found[2]]


def test_codes_stand_where_the_tokenizer_puts_them(tmp_path):
    model, tokenizer, folder = make_nllb(tmp_path, legacy=True)
    translator = Translator(asked(folder))
    assert translator.tokens("ba")[-2:] == ["</s>", "wol_Latn"]
    assert translator.tokens("ba") == tokenizer.convert_ids_to_tokens(tokenizer("ba").input_ids)
    assert translator.translate(["ba ce"]) == [theirs(model, tokenizer, "ba ce", "fra_Latn")]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("wo_Latn", "did you mean wol_Latn"),
        ("fr", "did you mean fra_Latn"),
        ("xxx", "expected one of eng_Latn, fra_Latn, wol_Latn"),
        ("ba", "language 'ba'"),  # A word, and no language.
    ],
)
def test_an_unknown_language_is_named_with_the_nearest(nllb, code, told):
    with pytest.raises(MrlError, match="--source: the tokenizer does not know") as error:
        Translator(asked(nllb[2], source=code))
    assert told.lower() in str(error.value).lower()
    with pytest.raises(MrlError, match="--target"):
        Translator(asked(nllb[2], target=code))


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
    ("no tokenizer", "has no tokenizer.json"),
    ("damaged", "cannot be opened by CTranslate2"),
    ("other tokenizer", "has no wol_Latn: the tokenizer beside it is another model's"),
]


@pytest.mark.parametrize(("kind", "told"), BROKEN)
def test_a_folder_that_is_no_translator(nllb, tmp_path, kind, told):
    with pytest.raises(MrlError) as error:
        Translator(asked(broken(nllb, tmp_path, kind)))
    assert told in str(error.value)


def test_a_wrong_translator_is_one_line_and_status_2(nllb, tmp_path, capsys):
    from mrl_jax.errors import run_command

    words = ["pipeline", "--text", "t", "--data", "d", "--out", str(tmp_path / "out")]
    words += ["--transcripts", "transcript"]
    languages = ["--source", "wol_Latn", "--target", "fra_Latn"]
    for more, told in (
        (["--translator", str(nllb[2].with_name("source")), *languages], "CTranslate2"),
        (["--translator", str(nllb[2]), "--source", "wo_Latn", "--target", "fra_Latn"], "wol_Latn"),
        (["--translator", str(nllb[2])], "--source and --target"),
        (languages, "there is none"),
    ):
        assert run_command(importlib.import_module("eval").main, [*words, *more]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert told in lines[0]
    assert not (tmp_path / "out").exists()
