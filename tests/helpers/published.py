"""Small checkpoints in the published formats, made on the spot by transformers.

Weights are random, and large enough that a wrong layer shows: transformers' own
initialisation leaves biases at zero and norms at one, which would hide half the table.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mrl_jax
from converters.convert import convert

QWEN3 = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,  # 4 heads of 16 in a width of 32: head_dim is not width / heads.
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": True,
}
HUBERT = {
    "vocab_size": 13,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
HUBERT_LARGE = {
    **HUBERT,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}
CHARACTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh"]


def torch_qwen3(seed: int = 0, *, causal_lm: bool = False, **changes: Any) -> Any:
    """A tiny Qwen3Model (or Qwen3ForCausalLM) in evaluation mode."""
    return _made("Qwen3", "ForCausalLM" if causal_lm else "Model", {**QWEN3, **changes}, seed)


def torch_hubert(seed: int = 0, *, ctc: bool = False, **changes: Any) -> Any:
    """A tiny HubertModel (or HubertForCTC) in evaluation mode."""
    return _made("Hubert", "ForCTC" if ctc else "Model", {**HUBERT, **changes}, seed)


def _made(family: str, kind: str, options: dict[str, Any], seed: int) -> Any:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    config = getattr(transformers, f"{family}Config")(**options)
    return randomized(getattr(transformers, family + kind)(config), seed)


def converted(
    theirs: Any, folder: Path, edit: Callable[[Path], None] | None = None, **options: Any
) -> Any:
    """The tower that a model becomes, saved into `folder`/source and edited there before."""
    family = theirs.config.model_type
    save(theirs, folder / "source", **options)
    if edit is not None:
        edit(folder / "source")
    convert(str(folder / "source"), folder / "tower", family=family)
    return getattr(mrl_jax, f"load_{family}")(folder / "tower")


def save(model: Any, folder: Path, **options: Any) -> Path:
    """`save_pretrained` with the small files that such a folder has on the hub."""
    model.save_pretrained(folder, **options)
    if model.config.model_type != "qwen3":
        _write_json(
            folder / "preprocessor_config.json",
            {"do_normalize": True, "feature_size": 1, "sampling_rate": 16000, "padding_value": 0.0},
        )
    if type(model).__name__.endswith("ForCTC"):
        vocabulary = {token: index for index, token in enumerate(CHARACTERS)}
        _write_json(folder / "vocab.json", vocabulary)
        _write_json(
            folder / "tokenizer_config.json",
            {"pad_token": "<pad>", "word_delimiter_token": "|", "do_lower_case": False},
        )
    return folder


def save_oolel_embed(
    model: Any,
    folder: Path,
    *,
    speech: str = "speech_encoder.",
    text: str = "text_encoder.",
    projection: str = "audio_projection",
    conv: str = "pooling_parameters",
    configs: tuple[str, str] | None = ("speech_config", "text_config"),
) -> Path:
    """A late-fusion model of `torch_fusion` as one folder of the published kind.

    Args:
        model: from `torch_fusion`.
        folder: to be made.
        speech, text: what stands before the names of the towers' tensors.
        projection, conv: names of the head's layers.
        configs: fields of config.json that hold the towers' configs; None writes them
            into the folders speech_encoder and text_encoder.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    tensors = {
        prefix + name: tensor.numpy()
        for prefix, part in (
            (speech, model.speech),
            (text, model.text),
            (f"{projection}.", model.projection),
            (f"{conv}.", model.conv),
        )
        for name, tensor in part.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors")
    parts = [json.loads(part.config.to_json_string()) for part in (model.speech, model.text)]
    audio = {"do_normalize": True, "sampling_rate": 16000}
    _write_json(folder / "preprocessor_config.json", audio)
    _write_json(folder / "tokenizer_config.json", {"pad_token": "<|endoftext|>"})
    (folder / "vocab.json").write_text('{"text": 0}')  # The text tokenizer's, no recogniser's.
    if configs is not None:
        _write_json(folder / "config.json", dict(zip(configs, parts, strict=True)))
        return folder
    for name, config in zip(("speech_encoder", "text_encoder"), parts, strict=True):
        (folder / name).mkdir()
        _write_json(folder / name / "config.json", config)
    vocabulary = {token: index for index, token in enumerate(CHARACTERS)}
    _write_json(folder / "speech_encoder" / "vocab.json", vocabulary)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; a field set to None in `changes` is written as null."""
    _write_json(path, {**json.loads(path.read_text()), **changes})


def relative_error(ours: Any, theirs: Any) -> float:
    """‖ours − theirs‖ / ‖theirs‖ in float64."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def randomized(model: Any, seed: int) -> Any:
    """The model with other weights, in evaluation mode."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith(("norm.weight", "original0", "weight_g")):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return model.eval()


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1))
