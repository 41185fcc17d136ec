"""Formats that weights are published in and that are not read here: each by its own name."""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError

FILES = {
    "*.gguf": "GGUF weights of llama.cpp",
    "ggml*.bin": "GGML weights of llama.cpp",
    "*.onnx": "an ONNX graph",
    "openvino_model.*": "an OpenVINO graph",
    "*.tflite": "a TensorFlow Lite graph",
    "*.mlmodel": "a Core ML model",
    "*.mlpackage/*": "a Core ML model",
    "*.engine": "a TensorRT engine",
    "*.h5": "TensorFlow weights",
    "*.ckpt.index": "TensorFlow weights",
    "*.msgpack": "Flax weights",
    "rust_model.ot": "rust-bert weights",
    "*.nemo": "a NeMo archive",
    "consolidated*": "weights in the names of their authors' own code",
    "*.pt": "a PyTorch training checkpoint (as of fairseq)",
    "*.pth": "a PyTorch training checkpoint",
    "*.ckpt": "a PyTorch training checkpoint",
    "*.distcp": "a sharded PyTorch training checkpoint",
    "optimizer.bin": "the state of a training run",
}
"""What a file holds, by the pattern of its name; the first that fits is said."""
METHODS = {
    "awq": "AWQ",
    "gptq": "GPTQ",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8 (FBGEMM)",
    "compressed-tensors": "compressed-tensors (llm-compressor)",
    "bitsandbytes": "bitsandbytes",
    "modelopt": "NVIDIA ModelOpt",
    "mxfp4": "MXFP4",
}
"""Methods of quantisation by the `quant_method` of config.json; others are said as they stand."""
METHOD_FILES = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "NVIDIA ModelOpt",
}
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def file_format(names: Iterable[str]) -> tuple[str, str] | None:
    """Name of a file whose format is known and not read here, and what it holds."""
    names = sorted(names)
    for pattern, format in FILES.items():
        for name in names:
            if fnmatch.fnmatch(name.rsplit("/", 1)[-1], pattern) or fnmatch.fnmatch(name, pattern):
                return name, format
    return None


def refuse_format(folder: Path, names: Iterable[str], *, where: object) -> None:
    """Refuse files of another format, if there are any among these, by its name.

    Args:
        folder: where a README.md may say what the model was made from.
        names: relative to the folder.
        where: what to call the source in an error.

    Raises:
        MrlError: one of them is.
    """
    match = file_format(names)
    if match is not None:
        name, format = match
        raise MrlError(
            f"holds {format} ({name}), expected safetensors weights",
            where=where,
            hint=load_instead(folder),
        )


def files_in(folder: Path) -> list[str]:
    """Names of a folder's files and of those in its folders, relative to it."""
    paths = [*folder.glob("*"), *folder.glob("*/*")]
    return [path.relative_to(folder).as_posix() for path in paths if path.is_file()]


def check_unquantised(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse quantised weights by the method that config.json or a file beside it names.

    Raises:
        MrlError: there is one.
    """
    method, field = None, "quantization_config"
    options = config.get("quantization_config", config.get("compression_config"))
    mlx = config.get("quantization")
    if isinstance(mlx, Mapping):  # MLX writes quantization_config as well, without a method.
        method, field = f"MLX in {mlx.get('bits', '?')} bits", "quantization"
    elif isinstance(options, Mapping) and options:
        named = str(options.get("quant_method", options.get("quantization_method", "")))
        method = METHODS.get(named.lower(), named) or "an unnamed method"
        if method == "bitsandbytes":
            method += " in 4 bits" if options.get("load_in_4bit") else " in 8 bits"
    elif options:
        method = repr(options)
    else:
        for name, known in METHOD_FILES.items():
            if (folder / name).is_file():
                method, field = known, name
    if method is not None:
        where = folder / (field if field.endswith(".json") else "config.json")
        said = "" if field.endswith(".json") else f" ({field})"
        raise MrlError(
            f"the weights are quantised by {method}{said}, expected float weights",
            where=where,
            hint=load_instead(folder, config),
        )


def quantised_tensor(name: str, dtype: str) -> str | None:
    """What left a tensor that is of no float dtype, where its name or dtype tells."""
    leaf = name.rsplit(".", 1)[-1]
    if dtype.startswith("F8") or leaf in ("weight_scale_inv", "weight_scale"):
        return "FP8 weights"
    if leaf in ("qweight", "qzeros", "g_idx"):
        return "GPTQ or AWQ weights"
    if leaf in ("weight_packed", "weight_shape", "weight_zero_point"):
        return "weights of compressed-tensors"
    if leaf == "SCB" or "quant_state" in name or leaf in ("absmax", "quant_map"):
        return "bitsandbytes weights"
    if leaf == "weight" and dtype == "U32":
        return "MLX weights"
    if leaf == "weight" and dtype in ("U8", "I8"):
        return "weights in 8 bits or fewer (as of bitsandbytes)"
    return None


def check_no_pointer(path: Path) -> None:
    """Refuse a file that stands for one which git did not fetch.

    Raises:
        MrlError: it is a pointer of Git LFS.
    """
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise MrlError(
                "is a Git LFS pointer, and the file that it stands for was not fetched",
                where=path,
                hint="run `git lfs pull` in the checkpoint's folder",
            )


def load_instead(folder: Path, config: Mapping[str, Any] | None = None) -> str:
    """A hint that names the float checkpoint, if the folder says what it was made from."""
    base = base_model(folder, config or {})
    named = f", {base}, which this folder names" if base else ""
    return f"convert the float checkpoint in safetensors that it was made from{named}"


def base_model(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Hub id of the model that another was made from, by README.md or config.json."""
    readme = folder / "README.md"
    if readme.is_file():
        text = readme.read_text(encoding="utf-8", errors="replace")[:20_000]
        front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        pattern = r"^base_model:[ \t]*(?:\n[ \t]*-[ \t]*)?[\"']?([\w.-]+/[\w.-]+)"
        if front and (match := re.search(pattern, front[1], re.MULTILINE)):
            return match[1]
    name = config.get("_name_or_path")
    return name if isinstance(name, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", name) else None
