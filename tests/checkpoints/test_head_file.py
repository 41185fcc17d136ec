"""A head as one safetensors file: the same arrays bit for bit, and what is refused."""

import dataclasses
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from tiny_run import make_model

from mrl_jax.checkpoints.head_file import HEAD_FILE, head_bytes, read_head_arrays
from mrl_jax.checkpoints.models import describe_model, load_model, read_model_info
from mrl_jax.core.errors import MrlError


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_arrays_of_every_dtype_and_shape_come_back(dtype, tmp_path):
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    rng = np.random.default_rng(0)
    arrays = {"head.a": rng.standard_normal((3, 2)).astype(kind).T, "head.b": np.zeros((), kind)}
    (tmp_path / HEAD_FILE).write_bytes(head_bytes(arrays))
    again = read_head_arrays(tmp_path / HEAD_FILE, hint="")
    assert set(again) == set(arrays)
    for path, array in arrays.items():
        assert (again[path].dtype, again[path].shape) == (array.dtype, array.shape)
        assert again[path].tobytes() == array.tobytes()


def test_a_head_file_is_loaded_as_the_folder_was_and_another_is_refused(tmp_path):
    folder = make_model(tmp_path)
    info = read_model_info(folder)
    arrays = read_head_arrays(folder / info.head, hint="")

    def load(**changed: np.ndarray) -> object:
        (folder / HEAD_FILE).write_bytes(head_bytes({**arrays, **changed}))
        described = describe_model(folder, dataclasses.replace(info, head=HEAD_FILE))
        return load_model(folder, described)

    load()
    name = min(arrays)
    with pytest.raises(MrlError, match=r"is not the one that model\.json names"):
        load(**{name: arrays[name] + np.float32(1)})
    with pytest.raises(MrlError, match=r"is of another architecture: head\.more is"):
        load(**{"head.more": np.zeros(3, np.float32)})
    header = b'{"head.a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}'
    for contents in (b"no tensors at all", len(header).to_bytes(8, "little") + header + b"0"):
        (folder / HEAD_FILE).write_bytes(contents)
        with pytest.raises(MrlError, match="the trained head cannot be read"):
            load_model(folder, dataclasses.replace(info, head=HEAD_FILE), verify=False)
    (folder / HEAD_FILE).unlink()
    with pytest.raises(MrlError, match="the trained head is missing"):
        load_model(folder, dataclasses.replace(info, head=HEAD_FILE), verify=False)


def test_all_arrays_of_a_folder_need_a_folder(tmp_path: Path):
    with pytest.raises(MrlError, match="the trained head is missing"):
        read_head_arrays(tmp_path / "head-1", hint="")
    (tmp_path / "head-2").mkdir()
    with pytest.raises(MrlError, match="the trained head cannot be read"):
        read_head_arrays(tmp_path / "head-2", hint="")
