"""Folders in other layouts, other formats and quantised weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

TRANSFORMER = "sentence_transformers.models.Transformer"
MODULES = [
    {"idx": 0, "name": "0", "path": "0_Transformer", "type": TRANSFORMER},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
FORMATS: list[tuple[list[str], str]] = [
    (["Qwen3-Embedding-0.6B-Q8_0.gguf"], "GGUF weights of llama.cpp (Qwen3"),
    (["onnx/model.onnx", "onnx/model.onnx_data"], "an ONNX graph (onnx/model.onnx)"),
    (["openvino_model.xml", "openvino_model.bin"], "an OpenVINO graph"),
    (["tf_model.h5"], "TensorFlow weights (tf_model.h5)"),
    (["flax_model.msgpack"], "Flax weights"),
    (["hubert_base_ls960.pt"], "a PyTorch training checkpoint (as of fairseq)"),
    (["consolidated.00.pth", "params.json"], "their authors' own code"),
    (["speech.nemo"], "a NeMo archive"),
]
"""Files of a folder, and words of the refusal."""
QUANTISED: list[tuple[dict[str, Any], str]] = [
    ({"quantization_config": {"quant_method": "fp8"}}, "quantised by FP8"),
    ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantised by AWQ"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised by GPTQ"),
    (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        "quantised by bitsandbytes in 4 bits",
    ),
    ({"quantization_config": {"quant_method": "hqq"}}, "quantised by hqq"),
    ({"quantization_config": {"bits": 4}}, "quantised by an unnamed method"),
    ({"quantization": {"group_size": 64, "bits": 4}}, "quantised by MLX in 4 bits"),
]
"""Changes of config.json, and words of the refusal."""
QUANTISED_TENSORS: list[tuple[str, Any, str]] = [
    ("layers.0.self_attn.q_proj.qweight", np.int32, "GPTQ or AWQ weights"),
    ("layers.0.self_attn.q_proj.weight.absmax", np.uint8, "bitsandbytes weights"),
    ("layers.0.self_attn.q_proj.weight", np.uint32, "MLX weights"),
    ("layers.0.self_attn.q_proj.weight_packed", np.int32, "compressed-tensors"),
]
"""A tensor too many, its dtype, and words of the refusal."""


def old_layout(checkpoint: Path, folder: Path, inner: str = "0_Transformer") -> Path:
    """As sentence-transformers before version 3 saved a model."""
    shutil.copytree(checkpoint, folder / inner)
    (folder / inner / "tokenizer_config.json").write_text("{}")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}')
    modules = [{**MODULES[0], "path": inner}, MODULES[1]]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder
