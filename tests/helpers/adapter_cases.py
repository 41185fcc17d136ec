"""LoRA adapters of every kind: those that are merged, and what makes others unfit."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tiny_adapter import PREFIX, SHAPES

MERGED: dict[str, tuple[dict[str, Any], float]] = {
    "plain": ({}, 6 / 4),
    "rank-stabilised": ({"use_rslora": True}, 6 / 2),
    "every layer": ({"modules": tuple(SHAPES), "rank": 2, "alpha": 16}, 8),
    "of a language model": ({"wrapped": "model."}, 6 / 4),
    "of a pattern": ({"target_modules": r".*\.(q|down)_proj"}, 6 / 4),
    "of every linear layer": ({"modules": tuple(SHAPES), "target_modules": "all-linear"}, 6 / 4),
    "some layers": ({"layers": 1, "layers_to_transform": [0]}, 6 / 4),
    "the first layer": ({"layers": 1, "layers_to_transform": 0}, 6 / 4),
    "all but the last": ({"layers": 1, "exclude_modules": r".*\.1\..*"}, 6 / 4),
}
"""Name: how the adapter is made, and the factor of its sums."""


def rename(folder: Path, old: str, new: str) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    changed = {key.replace(old, new): tensor for key, tensor in tensors.items()}
    save_file(changed, folder / "adapter_model.safetensors")


def add(folder: Path, key: str, *shape: int) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    more = {PREFIX + key: np.ones(shape, np.float32)}
    save_file(tensors | more, folder / "adapter_model.safetensors")


Q0 = "layers.0.self_attn.q_proj"
FIELDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "another method": ({"peft_type": "IA3"}, ("peft_type is 'IA3'", "only 'LORA'")),
    "DoRA": ({"use_dora": True}, ("use_dora is True, and DoRA is not supported",)),
    "ranks": ({"rank_pattern": {"q_proj": 8}}, ("rank_pattern is", "a rank for each layer")),
    "factors": ({"alpha_pattern": {"q_proj": 8}}, ("alpha_pattern is", "for each layer")),
    "saved layers": ({"modules_to_save": ["embed_tokens"]}, ("modules_to_save is",)),
    "other targets": (
        {"target_modules": ["q_proj", "embed_tokens"]},
        ("target_modules has 'embed_tokens'", "q_proj, k_proj"),
    ),
    "a changed base": ({"init_lora_weights": "pissa_niter_4"}, ("'pissa_niter_4'", "the base")),
    "tokens": ({"trainable_token_indices": [1]}, ("trainable_token_indices is [1]",)),
    "activated": ({"alora_invocation_tokens": [1, 2]}, ("activated LoRA",)),
    "unknown": ({"use_somelora": True}, ("use_somelora is True", "is not known here")),
    "no rank": ({"r": None}, ("r is missing",)),
    "another rank": ({"r": 8}, ("has lora_A (4, 48)", "expected a rank of 8")),
    "no factor": ({"lora_alpha": "16"}, ("lora_alpha is '16', expected a positive number",)),
}
"""Name: changes of adapter_config.json, and words of the refusal."""
FILES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "DoRA's tensors": (
        lambda f: add(f, f"{Q0}.lora_magnitude_vector", 64),
        (f"{Q0}.lora_magnitude_vector", "DoRA is not supported"),
    ),
    "an embedding": (
        lambda f: add(f, "embed_tokens.lora_embedding_A", 4, 101),
        ("holds base_model.model.embed_tokens.lora_embedding_A", "q_proj"),
    ),
    "a whole layer": (lambda f: add(f, "norm.weight", 32), ("model.norm.weight",)),
    "half a pair": (
        lambda f: rename(f, f"{PREFIX}{Q0}.lora_A", f"{PREFIX}layers.5.self_attn.q_proj.lora_A"),
        ("holds no lora_",),
    ),
    "another architecture": (
        lambda f: rename(f, "self_attn.q_proj", "attention.self.query"),
        ("is for another base", "layers.0.attention.self.query", "a Qwen3 model"),
    ),
    "more layers": (
        lambda f: rename(f, "layers.1.", "layers.7."),
        ("is for another base: layers.7.mlp.down_proj is not in the base", "org/tiny"),
    ),
    "no tensors": (
        lambda f: (f / "adapter_model.safetensors").unlink(),
        ("adapter: has no weights: expected adapter_model.safetensors",),
    ),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), ("no such file", "PEFT saved")),
}
"""Name: a change of the folder, and words of the refusal."""
