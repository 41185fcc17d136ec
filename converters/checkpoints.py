"""Published checkpoint folders: their config, their small files, and their tensors read lazily."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, describe_os_error, existing_file, first_line
from mrl_jax.core.json_text import parse_json

from .formats import (
    check_no_pointer,
    check_unquantised,
    files_in,
    quantised_tensor,
    refuse_format,
)

FLOAT_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
OTHER_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
"""Dtypes that no weight of a tower may have, and that other tensors of a checkpoint do have."""
ALL_DTYPES = FLOAT_DTYPES | OTHER_DTYPES
DTYPE_NAMES = {dtype: name for name, dtype in ALL_DTYPES.items()}
DTYPES = {dtype.name: dtype for dtype in FLOAT_DTYPES.values()}
OWN_FILES = ("tower.json", "report.json", "verification.json", "adapter_config.json")
WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""The file of weights that are whole, and the index of those in shards; the first is read."""
SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "[0-9]*_*/config.json")
DOWNLOAD_AGAIN = "download the checkpoint again"
FLOATS_ONLY = "take the checkpoint from before it was quantised, and leave index buffers out of it"


def damaged(problem: str, where: object, *, hint: str = DOWNLOAD_AGAIN) -> MrlError:
    """What is wrong with a file of a checkpoint."""
    return MrlError(problem, where=where, hint=hint)


def wrong_dtype(key: str, name: str, path: Path) -> MrlError:
    """Why a tensor whose dtype is called `name` cannot be a weight."""
    hint = FLOATS_ONLY
    if name == "F64":
        hint = "save the weights in float32, in which towers compute"
    problem = f"{key} is of dtype {name}, expected one of {', '.join(FLOAT_DTYPES)}"
    if method := quantised_tensor(key, name):
        problem = f"holds {method}: {problem}"
    return damaged(problem, path, hint=hint)


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """What a checkpoint's header says of one tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    file: Path


def check_floats(tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse tensors whose dtype no weight may have.

    Raises:
        MrlError: one of them is of such a dtype.
    """
    for key, tensor in tensors.items():
        if tensor.dtype not in DTYPES.values():
            raise wrong_dtype(key, DTYPE_NAMES[tensor.dtype], tensor.file)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose tensors are read one at a time, by published name.

    Attributes:
        config: the contents of config.json.
        revision: commit of the hub's snapshot, if it came from there.
        adapter: the `lora.Adapter` that `read` merges into the weights; None without one.
        language: whose adapter its tensors are, if one was chosen.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    read: Callable[[str], HostArray]
    revision: str | None = None
    adapter: Any = None
    language: str | None = None


def open_checkpoint(folder: Path, *, config: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read config.json, unless `config` stands for it, and the headers of the weight files.

    Raises:
        MrlError: a file is missing, truncated, or not what its name says.
    """
    if not has_weights(folder):
        refuse_format(folder, files_in(folder), where=folder)
    if config is None:
        hint = "expected a Hugging Face checkpoint folder"
        config = dict(read_json(existing_file(folder / "config.json", hint=hint)))
    check_unquantised(folder, config)
    tensors, read = open_tensors(folder)
    return Checkpoint(folder, config, tensors, read, hub_revision(folder))


def has_weights(folder: Path) -> bool:
    """Whether a folder itself holds weights that `open_checkpoint` reads."""
    return any((folder / name).is_file() for names in WEIGHTS for name in names)


def hub_revision(folder: Path) -> str | None:
    """Commit of the hub's snapshot that a folder is, or lies in; None for another."""
    whole = folder.resolve()
    places = (whole, *whole.parents[:2])
    return next((one.name for one in places if one.parent.name == "snapshots"), None)


def open_tensors(folder: Path) -> "Opened":
    """The headers of a folder's weight files, and a function that reads a tensor by name.

    Raises:
        MrlError: a file is missing, truncated, or not what its name says.
    """
    files, weight_map = _weight_files(folder)
    opened = open_weights(files)
    if weight_map is not None:
        _check_index(folder, weight_map, opened[0])
    return opened


def read_json(path: Path, *, kind: type = dict) -> Any:
    """A JSON object from a file, or a list where that is the `kind`.

    Raises:
        MrlError: unreadable, not JSON, or of another kind.
    """
    value: Any
    try:
        value = parse_json(path.read_bytes())
    except OSError as error:
        raise MrlError(f"cannot be read: {describe_os_error(error)}", where=path) from error
    except ValueError as error:
        raise damaged(f"is not JSON ({error})", path) from error
    if not isinstance(value, kind):
        raise damaged(f"is not a JSON {'object' if kind is dict else kind.__name__}", path)
    return value


def copy_small_files(source: Path, target: Path) -> list[str]:
    """Copy config, tokenizer and feature-extractor files, never code; returns their names."""
    copied = []
    for pattern in SMALL_FILES:
        for path in sorted(source.glob(pattern)):
            name = path.relative_to(source).as_posix()
            hidden = name.startswith(".")  # Such as the folder that is being written.
            if hidden or name in OWN_FILES or name.endswith(".index.json") or not path.is_file():
                continue
            try:
                contents = path.read_bytes()
            except OSError as error:
                raise MrlError(f"cannot be read: {describe_os_error(error)}", where=path) from error
            (target / name).parent.mkdir(exist_ok=True)
            (target / name).write_bytes(contents)
            copied.append(name)
    return copied


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


Opened = tuple[dict[str, TensorInfo], Callable[[str], HostArray]]
"""The `tensors` and `read` of a `Checkpoint`."""


def open_weights(files: list[Path]) -> Opened:
    """Headers of weight files, all .safetensors or all .bin, and what reads a tensor by name.

    Raises:
        MrlError: a file is truncated, or not what its name says.
    """
    return _open_bin(files) if files[0].suffix == ".bin" else _open_safetensors(files)


def _weight_files(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The weight files, and the index's map from names to files if there is one."""
    for single, index in WEIGHTS:
        if (folder / single).is_file():
            return [folder / single], None
        if (folder / index).is_file():
            weight_map = read_json(folder / index).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise damaged("has no weight_map", folder / index)
            shards = sorted({str(shard) for shard in weight_map.values()})
            for shard in shards:
                if Path(shard).name != shard:
                    raise damaged(
                        f"names the shard {shard!r}, expected a plain file name", folder / index
                    )
                if not (folder / shard).is_file():
                    problem = f"names the shard {shard}, which is not there"
                    raise damaged(problem, folder / index, hint="download the missing file")
            return [folder / shard for shard in shards], weight_map
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    problem = "has no weights: expected model.safetensors, its index, or pytorch_model.bin"
    if others:
        problem += f"; found {', '.join(others[:4])} without an index"
    raise damaged(problem, folder)


def _check_index(
    folder: Path, weight_map: Mapping[str, str], tensors: Mapping[str, TensorInfo]
) -> None:
    for key, shard in weight_map.items():
        if key not in tensors:
            raise damaged(f"does not hold {key}, which the index expects there", folder / shard)
        if (file := tensors[key].file).name != shard:
            raise damaged(f"holds {key}, which the index expects in {shard}", file)


def _open_safetensors(files: list[Path]) -> Opened:
    tensors: dict[str, TensorInfo] = {}
    for path in files:
        with _reading(path) as file:
            for key in file.keys():  # noqa: SIM118 - not a mapping
                header = file.get_slice(key)
                name = header.get_dtype()
                if name not in ALL_DTYPES:
                    raise wrong_dtype(key, name, path)
                _add(tensors, key, TensorInfo(tuple(header.get_shape()), ALL_DTYPES[name], path))

    def read(key: str) -> HostArray:
        # Read, not mapped: mapped pages would count against memory a second time.
        with _reading(tensors[key].file) as file:
            return file.get_tensor(key)

    return tensors, read


@contextlib.contextmanager
def _reading(path: Path) -> Any:
    try:
        check_no_pointer(path)
        with safe_open(path, framework="numpy", backend="pread") as file:
            yield file
    except SafetensorError as error:
        size = path.stat().st_size
        raise damaged(f"is not a whole safetensors file ({size} bytes; {error})", path) from error
    except OSError as error:
        raise MrlError(f"cannot be read: {describe_os_error(error)}", where=path) from error


def _open_bin(files: list[Path]) -> Opened:
    require_torch(files[0])
    import torch

    dtypes = {getattr(torch, dtype.name): dtype for dtype in ALL_DTYPES.values()}
    tensors: dict[str, TensorInfo] = {}
    values: dict[str, Any] = {}
    for path in files:
        try:
            # weights_only: tensors and plain containers, no code is run. Files from before
            # torch 1.6 are no zip archives, and cannot be mapped.
            state = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
        except Exception as error:  # torch raises whatever its unpickler raised.
            problem = f"cannot be read as plain weights ({first_line(error)})"
            hint = f"{DOWNLOAD_AGAIN}, or get the safetensors version"
            raise damaged(problem, path, hint=hint) from error
        if not isinstance(state, dict):
            raise damaged("is not a mapping of tensors", path)
        for key, value in state.items():
            if not isinstance(value, torch.Tensor) or value.dtype not in dtypes:
                kind = getattr(value, "dtype", type(value).__name__)
                raise damaged(f"{key} is {kind}, expected a float tensor", path, hint=FLOATS_ONLY)
            _add(tensors, str(key), TensorInfo(tuple(value.shape), dtypes[value.dtype], path))
            values[str(key)] = value

    def read(key: str) -> HostArray:
        value = values[key].detach().contiguous()
        if value.dtype == torch.bfloat16:  # numpy has none of its own.
            return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return value.numpy()

    return tensors, read


def require_torch(where: object) -> None:
    """PyTorch from 2.6 on: before, `weights_only` could be made to run code.

    Raises:
        MrlError: it is not installed, or too old.
    """
    problem = "these weights are pickled (.bin), which takes PyTorch 2.6 or later to read"
    if importlib.util.find_spec("torch") is not None:
        import torch

        if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6):
            return
        problem += f", and {torch.__version__} is installed"
    hint = "install the extra, `pip install 'mrl_jax[bin]'`, or get the safetensors version"
    raise MrlError(problem, where=where, hint=hint)


def _add(tensors: dict[str, TensorInfo], key: str, info: TensorInfo) -> None:
    if key in tensors:
        raise damaged(f"holds {key} a second time, after {tensors[key].file.name}", info.file)
    tensors[key] = info
