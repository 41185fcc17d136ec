"""The small files beside the weights, in the ways that published folders really have them."""

import json

import numpy as np
import pytest
from published import CHARACTERS, edit_json, save, torch_hubert

from converters.checkpoints import open_checkpoint
from converters.convert import convert
from converters.hubert import describe
from mrl_jax.checkpoints.towers import load_hubert_ctc, read_info
from mrl_jax.core.errors import MrlError

OUTPUTS = len(CHARACTERS)


@pytest.fixture
def recogniser(tmp_path):
    return save(torch_hubert(ctc=True), tmp_path / "recogniser")


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_how_clips_are_normalised_is_read_wherever_it_stands(file, normalized, tmp_path):
    # transformers 5 saves the feature extractor within the processor's file.
    folder = save(torch_hubert(), tmp_path / "source")
    fields = {"do_normalize": normalized, "sampling_rate": 16_000}
    (folder / "preprocessor_config.json").unlink()
    whole = fields if file.startswith("pre") else {"feature_extractor": fields}
    (folder / file).write_text(json.dumps(whole))
    convert(str(folder), tmp_path / "tower", family="hubert")
    assert read_info(tmp_path / "tower").config.normalize_clips is normalized
    assert (tmp_path / "tower" / file).is_file()


def test_transformers_own_processor_is_read(tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = save(torch_hubert(ctc=True), tmp_path / "source")
    (folder / "preprocessor_config.json").unlink()
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False)
    tokenizer = transformers.Wav2Vec2CTCTokenizer(folder / "vocab.json")
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    described = describe(open_checkpoint(folder))
    assert described.config.normalize_clips is False
    assert described.vocabulary is not None
    assert described.vocabulary.tokens == tuple(CHARACTERS)


def test_a_wrong_preprocessor_is_named_by_its_own_file(tmp_path):
    folder = save(torch_hubert(), tmp_path / "source")
    edit_json(folder / "preprocessor_config.json", sampling_rate="16000")
    with pytest.raises(MrlError, match=r"preprocessor_config.json: sampling_rate is '16000'"):
        convert(str(folder), tmp_path / "tower", family="hubert")


@pytest.mark.parametrize("file", ["added_tokens.json", "tokenizer_config.json"])
def test_tokens_without_an_output_are_left_out(file, recogniser, tmp_path):
    # The common fine-tuning recipe adds <s> and </s> behind the model's outputs.
    if file == "added_tokens.json":
        (recogniser / file).write_text(json.dumps({"<x>": OUTPUTS, "<y>": OUTPUTS + 1}))
    else:
        added = {str(OUTPUTS): {"content": "<x>"}, "0": {"content": "<pad>"}}
        edit_json(recogniser / file, added_tokens_decoder=added)
    convert(str(recogniser), tmp_path / "tower", family="hubert")
    vocabulary = load_hubert_ctc(tmp_path / "tower").vocabulary
    assert vocabulary is not None
    assert vocabulary.tokens == tuple(CHARACTERS)


@pytest.mark.parametrize("file", ["added_tokens.json", "tokenizer_config.json"])
def test_tokens_with_an_output_are_found_wherever_they_stand(file, recogniser):
    vocabulary = {token: i for i, token in enumerate(CHARACTERS[:-1])}
    (recogniser / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(MrlError, match=f"has {OUTPUTS - 1} tokens, expected the ids 0 to"):
        describe(open_checkpoint(recogniser))
    if file == "added_tokens.json":
        (recogniser / file).write_text(json.dumps({"<x>": OUTPUTS - 1}))
    else:
        added = {str(OUTPUTS - 1): {"content": "<x>", "special": True}}
        edit_json(recogniser / file, added_tokens_decoder=added)
    vocabulary = describe(open_checkpoint(recogniser)).vocabulary
    assert vocabulary is not None
    assert vocabulary.tokens[-1] == "<x>"


def test_special_tokens_of_the_older_file_go_first_as_in_transformers(recogniser):
    transformers = pytest.importorskip("transformers")
    path = recogniser / "special_tokens_map.json"
    path.write_text(json.dumps({"pad_token": "a", "word_delimiter_token": "b"}))
    rows = np.random.default_rng(0).integers(0, OUTPUTS, (50, 12))
    for added, blank in ((None, "a"), ({"0": {"content": "<pad>"}}, "<pad>")):
        if added is not None:  # Then transformers does not read the older file.
            edit_json(recogniser / "tokenizer_config.json", added_tokens_decoder=added)
        vocabulary = describe(open_checkpoint(recogniser)).vocabulary
        assert vocabulary is not None
        assert vocabulary.tokens[vocabulary.blank] == blank
        tokenizer = transformers.AutoTokenizer.from_pretrained(recogniser)
        assert [vocabulary.decode(row) for row in rows] == [
            tokenizer.decode(row.tolist()) for row in rows
        ]


def test_a_pad_token_of_another_type_is_no_crash(recogniser):
    edit_json(recogniser / "tokenizer_config.json", pad_token=["<pad>"])
    vocabulary = describe(open_checkpoint(recogniser)).vocabulary
    assert vocabulary is not None
    assert vocabulary.blank == 0  # From config.json's pad_token_id.


def test_values_that_float16_cannot_hold_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch_hubert()
    with torch.no_grad():
        model.encoder.layers[1].feed_forward.output_dense.weight[0, 0] = 1e6
    folder = save(model, tmp_path / "source")
    with pytest.raises(
        MrlError, match=r"layers.1.feed_forward.output_dense.weight does not fit float16"
    ):
        convert(str(folder), tmp_path / "tower", family="hubert", dtype="float16")
    assert not (tmp_path / "tower").exists()
    convert(str(folder), tmp_path / "tower", family="hubert", dtype="bfloat16")
    assert np.dtype("float32") != read_info(tmp_path / "tower").dtype == "bfloat16"


@pytest.mark.parametrize("out", ["source", "."])
def test_an_output_never_deletes_its_own_source(out, tmp_path):
    folder = save(torch_hubert(), tmp_path / "around" / "source")
    with pytest.raises(MrlError, match="would replace its own source"):
        convert(str(folder), tmp_path / "around" / out, family="hubert", overwrite=True)
    assert (folder / "model.safetensors").is_file()
