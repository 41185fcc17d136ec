"""Names, shapes and dtypes of the tensors of full-size checkpoints, without a weight.

python tests/helpers/published_keys.py      writes tests/converters/published_keys/*.json anew

They are those of transformers' own classes, built without memory ("meta") from the published
config.json. A line of a file is a dtype, a shape, and a name in which `{0-27}` stands for each of
these numbers.
"""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from converters.checkpoints import FLOAT_DTYPES, Checkpoint, TensorInfo

FOLDER = Path(__file__).parents[1] / "converters" / "published_keys"
CONVOLUTIONS = {
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
}
BASE = CONVOLUTIONS | {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "feat_extract_norm": "group",
}
LARGE = CONVOLUTIONS | {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}
BILLION = LARGE | {"hidden_size": 1280, "num_hidden_layers": 48, "intermediate_size": 5120}
CODEBOOK = {"num_codevectors_per_group": 320, "num_codevector_groups": 2}
QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": 151669,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
}
QWEN3_4B = QWEN3 | {
    "vocab_size": 151665,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Qwen3-Embedding-0.6B": ("Qwen3Model", "BF16", QWEN3),
    "Qwen3-Embedding-4B": ("Qwen3Model", "BF16", QWEN3_4B),
    # Untied, and without an output layer all the same.
    "Qwen3-Embedding-8B": (
        "Qwen3Model",
        "BF16",
        QWEN3_4B | {"hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False},
    ),
    "hubert-base-ls960": ("HubertModel", "F32", BASE | {"model_type": "hubert"}),
    "hubert-large-ll60k": ("HubertModel", "F32", LARGE | {"model_type": "hubert"}),
    "hubert-large-ls960-ft": (
        "HubertForCTC",
        "F32",
        LARGE | {"model_type": "hubert", "vocab_size": 32},
    ),
    "mHuBERT-147": (
        "HubertModel",
        "F32",
        BASE | {"model_type": "hubert", "conv_pos_batch_norm": True},
    ),
    "wav2vec2-base": (
        "Wav2Vec2ForPreTraining",
        "F32",
        BASE | CODEBOOK | {"model_type": "wav2vec2", "codevector_dim": 256},
    ),
    "wav2vec2-xls-r-300m": (
        "Wav2Vec2ForPreTraining",
        "F32",
        LARGE
        | CODEBOOK
        | {"model_type": "wav2vec2", "codevector_dim": 768, "proj_codevector_dim": 768},
    ),
    "mms-1b": (
        "Wav2Vec2ForPreTraining",
        "F32",
        BILLION
        | CODEBOOK
        | {"model_type": "wav2vec2", "codevector_dim": 1024, "proj_codevector_dim": 1024},
    ),
    "mms-1b-all": (
        "Wav2Vec2ForCTC",
        "F32",
        BILLION | {"model_type": "wav2vec2", "vocab_size": 154, "adapter_attn_dim": 16},
    ),
    "wavlm-large": (
        "WavLMModel",
        "F32",
        LARGE
        | {
            "model_type": "wavlm",
            "conv_bias": False,
            "num_buckets": 320,
            "max_bucket_distance": 800,
        },
    ),
}
"""Published name: transformers' class, dtype of the weights, fields of its config.json."""
Line = tuple[str, tuple[int, ...], str]
"""Dtype as safetensors calls it, shape and name of a tensor."""


def of_transformers(name: str) -> list[Line]:
    """The tensors of transformers' class, in its own order."""
    import torch
    import transformers

    class_name, dtype, fields = MODELS[name]
    stem = re.sub("(Model|For.*)$", "", class_name)
    config = getattr(transformers, f"{stem}Config")(**fields)
    with torch.device("meta"):
        model = getattr(transformers, class_name)(config)
    counts = {torch.int64: "I64"}
    return [
        (counts.get(value.dtype, dtype), tuple(value.shape), key)
        for key, value in model.state_dict().items()
    ]


def pack(lines: list[Line]) -> list[str]:
    """One text for all that differ only in a number between dots."""
    numbers: dict[Line, list[int]] = defaultdict(list)
    for dtype, shape, key in lines:
        found = re.search(r"(?<=\.)\d+(?=\.)", key)
        pattern = f"{key[: found.start()]}#{key[found.end() :]}" if found else key
        numbers[dtype, shape, pattern] += [int(found[0])] if found else []
    texts = []
    for (dtype, shape, pattern), of_pattern in numbers.items():
        for first, last in _runs(of_pattern) if of_pattern else [(0, 0)]:
            which = str(first) if first == last else f"{{{first}-{last}}}"
            sizes = "x".join(map(str, shape)) or "-"
            texts.append(f"{dtype} {sizes} {pattern.replace('#', which)}")
    return texts


def unpack(texts: list[str]) -> list[Line]:
    """What `pack` was given, in another order."""
    lines = []
    for text in texts:
        dtype, sizes, pattern = text.split(" ")
        shape = () if sizes == "-" else tuple(map(int, sizes.split("x")))
        found = re.search(r"\{(\d+)-(\d+)\}", pattern)
        numbers = range(int(found[1]), int(found[2]) + 1) if found else (None,)
        for number in numbers:
            key = pattern if found is None else pattern.replace(found[0], str(number))
            lines.append((dtype, shape, key))
    return lines


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs


def read(name: str) -> tuple[dict[str, Any], list[Line]]:
    """config.json and the tensors of one of `MODELS`, from its file."""
    raw = json.loads((FOLDER / f"{name}.json").read_text())
    return raw["config"], unpack(raw["tensors"])


def checkpoint_of(config: dict[str, Any], lines: list[Line], folder: Path) -> Checkpoint:
    """A checkpoint that nothing can be read of but its headers."""
    dtypes = FLOAT_DTYPES | {"I64": np.dtype(np.int64)}
    file = folder / "model.safetensors"
    tensors = {key: TensorInfo(shape, dtypes[dtype], file) for dtype, shape, key in lines}

    def refuse(key: str) -> Any:
        raise AssertionError(f"{key} was read, and there are shapes only")

    return Checkpoint(folder, config, tensors, refuse)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (class_name, _, fields) in MODELS.items():
        record = {"class": class_name, "config": fields, "tensors": pack(of_transformers(name))}
        text = json.dumps(record, indent=1, ensure_ascii=False)
        # Lists of numbers on one line.
        text = re.sub(r"\[\s+([\d,\s]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
        (FOLDER / f"{name}.json").write_text(text + "\n")
        print(f"{name}: {len(unpack(record['tensors']))} tensors")


if __name__ == "__main__":
    main()
