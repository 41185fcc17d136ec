"""The LoRA factors that a run of the text stage left, as the folder that PEFT loads."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from mrl_jax.checkpoints.adapters import ADAPTER_FILE, AdapterInfo, read_adapter
from mrl_jax.checkpoints.new_towers import NEW_NAMING
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.files import check_apart, staged_folder, write_json

from .lora import CONFIG, WEIGHTS
from .qwen3 import TABLE
from .rules import published_names

PREFIX = "base_model.model."
"""What PEFT puts before the names of its base."""


def is_adapter(folder: Path) -> bool:
    """Whether the folder is one of `save_adapter`."""
    return (folder / ADAPTER_FILE).is_file()


def export_adapter(folder: Path, out: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write adapter_config.json and adapter_model.safetensors; gives a summary.

    Args:
        folder: workdir/adapter of a run of the text stage.
        out: the folder to make.
        overwrite: replace `out` if it exists.

    Raises:
        MrlError: `folder` is damaged or was changed, or `out` cannot be written.
    """
    info, factors = read_adapter(folder)
    check_apart(folder, out)
    tensors = peft_tensors(factors)
    needed = sum(array.nbytes for array in tensors.values())
    with staged_folder(out, marker=CONFIG, overwrite=overwrite, needs_bytes=needed) as staging:
        write_json(staging / CONFIG, peft_config(info))
        (staging / WEIGHTS[0]).write_bytes(save(tensors, metadata={"format": "pt"}))
    base = info.source or "the checkpoint that `mrl-jax convert export` makes of the first tower"
    return {
        "kind": f"LoRA of rank {info.lora.rank}",
        "tensors": len(tensors),
        "files": [WEIGHTS[0]],
        "dtype": "float32",
        "note": f"its base is {base}",
    }


def peft_config(info: AdapterInfo) -> dict[str, Any]:
    """The contents of adapter_config.json."""
    alpha = info.lora.alpha
    return {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": info.source or None,
        "revision": info.revision or None,
        "r": info.lora.rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "target_modules": list(info.lora.targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "inference_mode": True,
    }


def peft_tensors(factors: dict[str, HostArray]) -> dict[str, HostArray]:
    """lora_A [r, in] and lora_B [out, r] of every layer in float32, under PEFT's names.

    Args:
        factors: stacked, by the dotted paths of `models.lora`.
    """
    tensors = {}
    for path, stacked in factors.items():
        place, name = path.rsplit(".", 1)
        shapes = {f"encoder.{place}.kernel": stacked.shape}
        part = {"lora_a": "lora_A", "lora_b": "lora_B"}[name]
        for item in published_names(TABLE, shapes, NEW_NAMING):
            factor = item.layout.inverse(stacked[item.layer]).astype(np.float32)
            module = item.key.removesuffix(".weight")
            tensors[f"{PREFIX}{module}.{part}.weight"] = np.asarray(factor, order="C")
    return tensors
