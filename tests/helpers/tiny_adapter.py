"""A LoRA adapter as PEFT saves it, and its sums computed by numpy from the definition."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

PREFIX = "base_model.model."
SHAPES = {
    "self_attn.q_proj": (64, 32),
    "self_attn.k_proj": (32, 32),
    "self_attn.v_proj": (32, 32),
    "self_attn.o_proj": (32, 64),
    "mlp.gate_proj": (48, 32),
    "mlp.up_proj": (48, 32),
    "mlp.down_proj": (32, 48),
}
"""(out, in) of the linear layers of `tiny_checkpoints`."""


def save_adapter(
    folder: Path,
    *,
    modules: Sequence[str] = ("self_attn.q_proj", "mlp.down_proj"),
    layers: int = 2,
    rank: int = 4,
    alpha: float = 6,
    wrapped: str = "",
    seed: int = 0,
    **config: Any,
) -> Path:
    """A folder with adapter_config.json and adapter_model.safetensors.

    Args:
        folder: to be made, or there already.
        modules: of `SHAPES`.
        layers, rank, alpha: of the adapter.
        wrapped: "model." for an adapter of a causal language model.
        config: changes to the config.
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        for module in modules:
            rows, columns = SHAPES[module]
            name = f"{PREFIX}{wrapped}layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = rng.normal(size=(rank, columns)) * 0.2
            tensors[f"{name}.lora_B.weight"] = rng.normal(size=(rows, rank)) * 0.2
    folder.mkdir(exist_ok=True)
    single = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    save_file(single, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    fields = {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "auto_mapping": {"base_model_class": "Qwen3Model"},
        "base_model_name_or_path": "org/tiny",
        "inference_mode": True,
        "bias": "none",
        "lora_dropout": 0.05,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": [module.rsplit(".", 1)[-1] for module in modules],
        "use_dora": False,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "init_lora_weights": True,
        "loftq_config": {},
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


def merged_tensors(base: Path, adapter: Path, scale: float) -> dict[str, np.ndarray]:
    """The base's tensors with `scale` · B A added where the adapter has a pair."""
    tensors = load_file(base / "model.safetensors")
    pairs = load_file(adapter / "adapter_model.safetensors")
    for name, a in pairs.items():
        if name.endswith("lora_A.weight"):
            b = pairs[name.replace("lora_A", "lora_B")]
            bare = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            key = f"{bare.removeprefix('model.')}.weight"
            tensors[key] = (tensors[key] + scale * (b.astype(np.float64) @ a)).astype(np.float32)
    return tensors
