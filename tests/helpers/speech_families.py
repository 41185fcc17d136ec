"""Tiny speech checkpoints of every family, made on the spot by transformers.

`CASES` names them after the published models whose shape they have.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
from safetensors.numpy import load_file, save_file

BASE, LARGE = published.HUBERT, published.HUBERT_LARGE
CODEBOOK = {
    "num_codevectors_per_group": 6,
    "num_codevector_groups": 2,
    "codevector_dim": 16,
    "proj_codevector_dim": 12,
}
XVECTOR = {"tdnn_dim": (8, 8), "tdnn_kernel": (3, 1), "tdnn_dilation": (1, 1)}
ADAPTERS = {"adapter_attn_dim": 8}
BUCKETS = {"num_buckets": 8, "max_bucket_distance": 6}
"""So few that a clip of a few frames has near, shared and farthest distances."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One kind of checkpoint.

    Attributes:
        name: what transformers' classes begin with.
        head: what they end with.
        fields: of the config.
        heads: tensors that no encoder computes with, beside masked_spec_embed.
    """

    name: str
    head: str
    fields: dict[str, Any]
    heads: tuple[str, ...] = ()

    @property
    def ctc(self) -> bool:
        return self.head == "ForCTC"


_QUANTIZER = ("project_hid", "project_q", "quantizer")
CASES = {
    "wav2vec2-base": Case("Wav2Vec2", "Model", BASE),
    "wav2vec2-base pre-trained": Case("Wav2Vec2", "ForPreTraining", BASE | CODEBOOK, _QUANTIZER),
    "wav2vec2-base-960h": Case("Wav2Vec2", "ForCTC", BASE),
    "wav2vec2-large": Case("Wav2Vec2", "Model", LARGE),
    "xls-r pre-trained": Case("Wav2Vec2", "ForPreTraining", LARGE | CODEBOOK, _QUANTIZER),
    "xlsr-53 ctc": Case("Wav2Vec2", "ForCTC", LARGE),
    "mms-1b-all": Case("Wav2Vec2", "ForCTC", LARGE | ADAPTERS),
    "mms-lid": Case(
        "Wav2Vec2", "ForSequenceClassification", LARGE | CODEBOOK, ("classifier", "projector")
    ),
    "wav2vec2 speakers": Case(
        "Wav2Vec2",
        "ForXVector",
        BASE | XVECTOR | {"use_weighted_layer_sum": True},
        ("classifier", "feature_extractor", "layer_weights", "objective", "projector", "tdnn"),
    ),
    "unispeech-sat-base": Case("UniSpeechSat", "Model", BASE),
    "unispeech-sat-large": Case("UniSpeechSat", "Model", LARGE),
    "unispeech-sat pre-trained": Case(
        "UniSpeechSat",
        "ForPreTraining",
        LARGE | CODEBOOK | {"num_clusters": 5},
        (*_QUANTIZER, "speaker_proj", "label_embeddings_concat", "layer_norm_for_extract"),
    ),
    "unispeech-sat ctc": Case("UniSpeechSat", "ForCTC", BASE),
    "wavlm-base": Case("WavLM", "Model", BASE | BUCKETS),
    "wavlm-large": Case("WavLM", "Model", LARGE | BUCKETS),
    "wavlm ctc": Case("WavLM", "ForCTC", BASE | BUCKETS),
    "wavlm speakers": Case(
        "WavLM",
        "ForXVector",
        LARGE | BUCKETS | XVECTOR,
        ("classifier", "feature_extractor", "objective", "projector", "tdnn"),
    ),
    "mhubert-147": Case("Hubert", "Model", BASE | {"conv_pos_batch_norm": True}),
    "hubert batch norm, large": Case("Hubert", "Model", LARGE | {"conv_pos_batch_norm": True}),
    "hubert batch norm, ctc": Case("Hubert", "ForCTC", BASE | {"conv_pos_batch_norm": True}),
    "contentvec": Case("Hubert", "Model", BASE, ("final_proj",)),
    "hubert emotions": Case(
        "Hubert",
        "ForSequenceClassification",
        BASE | {"use_weighted_layer_sum": True},
        ("classifier", "layer_weights", "projector"),
    ),
}


def make_model(case: Case, seed: int = 0) -> Any:
    """The model in evaluation mode, its weights and statistics random."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{case.name}Config")(**case.fields)
    model = published.randomized(getattr(transformers, case.name + case.head)(config), seed)
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
        elif name.endswith("num_batches_tracked"):
            buffer.fill_(2**40 + 3)  # More than a float of four bytes can count.
    return model


def make_checkpoint(name: str, folder: Path, seed: int = 0) -> Any:
    """Write one of `CASES` as a published folder; gives the model."""
    case = CASES[name]
    model = make_model(case, seed)
    published.save(model, folder)
    if name == "contentvec":
        tensors = read_tensors(folder)
        rng = np.random.default_rng(seed)
        tensors["final_proj.weight"] = rng.standard_normal((16, 32), dtype=np.float32)
        tensors["final_proj.bias"] = rng.standard_normal(16, dtype=np.float32)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return model


LANGUAGES = {"eng": "abcdefgh", "wol": "abëñŋóx", "fra": "abcdefghijç"}
"""Characters of each, behind the four special tokens and the word delimiter."""


def vocabulary_of(language: str) -> list[str]:
    return [*published.CHARACTERS[:5], *LANGUAGES[language]]


def make_mms(folder: Path) -> Path:
    """An MMS recogniser: whole for English, and an adapter file for each language."""
    make_checkpoint("mms-1b-all", folder)
    nested = {name: {t: i for i, t in enumerate(vocabulary_of(name))} for name in LANGUAGES}
    (folder / "vocab.json").write_text(json.dumps(nested, ensure_ascii=False))
    options = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "word_delimiter_token": "|",
        "do_lower_case": False,
        "target_lang": "eng",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    for seed, language in enumerate(LANGUAGES, start=1):
        case = CASES["mms-1b-all"]
        fields = case.fields | {"vocab_size": len(vocabulary_of(language))}
        other = make_model(dataclasses.replace(case, fields=fields), seed)
        adapter = {key: value.detach().numpy() for key, value in other._get_adapters().items()}
        save_file(adapter, folder / f"adapter.{language}.safetensors", metadata={"format": "pt"})
    return folder


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def assert_same_tensors(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The same names, dtypes, shapes and bytes."""
    assert set(actual) == set(expected)
    for key, value in expected.items():
        assert (actual[key].dtype, actual[key].shape) == (value.dtype, value.shape), key
        assert actual[key].tobytes() == value.tobytes(), key
