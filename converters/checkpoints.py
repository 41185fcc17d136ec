"""Published checkpoint folders: their config, their small files, and their tensors read lazily."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, describe_os_error, existing_file, first_line

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
OWN_FILES = ("tower.json", "report.json", "verification.json")
ALL_DTYPES = FLOAT_DTYPES | OTHER_DTYPES
DTYPES = {dtype.name: dtype for dtype in FLOAT_DTYPES.values()}
SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "[0-9]*_*/config.json")
WEIGHT_FILES = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
BIN_FILES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
DENSE_FILES = ("[0-9]*_Dense/model.safetensors", "[0-9]*_Dense/pytorch_model.bin")
DOWNLOAD_AGAIN = "download the checkpoint again"
PASS_CHECKPOINT = "pass a checkpoint folder, or a hub id such as Qwen/Qwen3-Embedding-0.6B"
FLOATS_ONLY = "take the checkpoint from before it was quantised, and leave index buffers out of it"


def damaged(problem: str, where: object, *, hint: str = DOWNLOAD_AGAIN) -> MrlError:
    """What is wrong with a file of a checkpoint."""
    return MrlError(problem, where=where, hint=hint)


def wrong_dtype(key: str, name: object, path: Path) -> MrlError:
    """Why a tensor cannot be a tower's weight."""
    hint = FLOATS_ONLY
    if name == "F64":
        hint = "save the weights in float32, in which towers compute"
    problem = f"{key} is of dtype {name}, expected one of {', '.join(FLOAT_DTYPES)}"
    return damaged(problem, path, hint=hint)


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """What a checkpoint's header says of one tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    file: Path


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose tensors are read one at a time, by published name.

    Attributes:
        config: the contents of config.json.
        revision: commit of the hub's snapshot, if it came from there.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    read: Callable[[str], HostArray]
    revision: str | None = None


def find_checkpoint(source: str, *, revision: str | None = None) -> Path:
    """The local folder of `source`: itself if it is one, else the hub's snapshot.

    Raises:
        MrlError: no such folder, and the hub does not have it or cannot be reached.
    """
    folder = Path(source)
    try:
        is_folder, exists = folder.is_dir(), folder.exists()
    except OSError as error:
        raise MrlError(f"cannot be read: {describe_os_error(error)}", where=source) from error
    if is_folder:
        if revision is not None:
            problem = f"is a local folder, which has no revision {revision!r}"
            raise MrlError(problem, where=source, hint="leave --revision out")
        return folder
    if exists:
        raise MrlError("is a file, expected a checkpoint folder or a hub id", where=source)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
        raise MrlError("no such folder", where=source, hint=PASS_CHECKPOINT)
    return _download(source, revision)


def open_checkpoint(folder: Path, *, config: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read config.json, unless `config` stands for it, and the headers of the weight files.

    Raises:
        MrlError: a file is missing, truncated, or not what its name says.
    """
    raw: Mapping[str, Any] | None = config
    if raw is None:
        raw = existing_config(folder)
    tensors, read = open_tensors(folder)
    parent = folder.resolve()
    revision = parent.name if parent.parent.name == "snapshots" else None
    return Checkpoint(folder, raw, tensors, read, revision)


def existing_config(folder: Path) -> dict[str, Any]:
    """The contents of a folder's config.json.

    Raises:
        MrlError: there is none, or it is damaged.
    """
    hint = "expected a Hugging Face checkpoint folder"
    return read_json(existing_file(folder / "config.json", hint=hint))


def open_tensors(folder: Path) -> "Opened":
    """The headers of a folder's weight files, and a function that reads a tensor by name.

    Raises:
        MrlError: a file is missing, truncated, or not what its name says.
    """
    files, weight_map = _weight_files(folder)
    opened = _open_bin(files) if files[0].suffix == ".bin" else _open_safetensors(files)
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
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MrlError(f"cannot be read: {describe_os_error(error)}", where=path) from error
    except (ValueError, RecursionError) as error:
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


def _download(hub_id: str, revision: str | None) -> Path:
    import huggingface_hub

    # On the hub, * goes into folders: a training run's own are not wanted.
    others = ("*/*.safetensors*", "*/*.bin*", "checkpoint-*/*", "onnx/*")

    def snapshot(patterns: tuple[str, ...], ignored: tuple[str, ...] = others) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=list(ignored),
            )
        )

    try:
        folder = snapshot(SMALL_FILES + WEIGHT_FILES)
        if not any((folder / name).is_file() for name in WEIGHT_FILES):
            _require_torch(hub_id)  # Before gigabytes are fetched that nothing can read.
            folder = snapshot(SMALL_FILES + BIN_FILES)
        modules = folder / "modules.json"
        if modules.is_file() and "Dense" in modules.read_text(encoding="utf-8"):
            folder = snapshot(DENSE_FILES, ())
        return folder
    except MrlError:
        raise
    except Exception as error:  # The HTTP client beneath raises kinds of its own.
        problem, hint = _hub_problem(error, revision)
        raise MrlError(problem, where=hub_id, hint=hint) from error


def _hub_problem(error: Exception, revision: str | None) -> tuple[str, str]:
    """What went wrong with a download, and what helps."""
    from huggingface_hub import errors

    first = first_line(error)
    match error:
        case errors.GatedRepoError():
            problem = "the hub wants an agreement for this model"
            hint = "accept it on the model's page and log in with `hf auth login`"
        case errors.RepositoryNotFoundError():
            problem = "neither a local folder nor a model on the hub"
            hint = "check the spelling; for a private model log in with `hf auth login`"
        case errors.RevisionNotFoundError():
            problem = f"the hub has no revision {revision!r} of this model"
            hint = "pass a branch, tag or commit that its page lists"
        case errors.HFValidationError():
            problem, hint = f"neither a local folder nor a hub id ({first})", PASS_CHECKPOINT
        case _:
            kind = type(error).__name__
            problem = f"no such folder, and the hub could not be reached ({kind}: {first})"
            hint = "check the network, or pass a folder that holds the checkpoint"
    return problem, hint


Opened = tuple[dict[str, TensorInfo], Callable[[str], HostArray]]
"""The `tensors` and `read` of a `Checkpoint`."""


def _weight_files(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The weight files, and the index's map from names to files if there is one."""
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
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
        with safe_open(path, framework="numpy", backend="pread") as file:
            yield file
    except SafetensorError as error:
        size = path.stat().st_size
        raise damaged(f"is not a whole safetensors file ({size} bytes; {error})", path) from error
    except OSError as error:
        raise MrlError(f"cannot be read: {describe_os_error(error)}", where=path) from error


def _open_bin(files: list[Path]) -> Opened:
    _require_torch(files[0])
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


def _require_torch(where: object) -> None:
    """PyTorch from 2.6 on: before, `weights_only` could be made to run code."""
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
