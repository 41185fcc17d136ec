"""Arrays read by memory map: those that Orbax wrote, as Orbax reads them, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mrl_jax.checkpoints.arrays import save_arrays
from mrl_jax.checkpoints.mapped_arrays import ALIGNMENT, read_mapped, read_to_device
from mrl_jax.core.errors import MrlError

RNG = np.random.default_rng(0)
ARRAYS = {
    "layers.kernel": RNG.standard_normal((3, 8, 5)).astype(np.float32),
    "layers.bias": RNG.standard_normal(7).astype(jnp.bfloat16),
    "temperature": np.asarray(0.5, np.float32),
    "codes": RNG.integers(-128, 127, (4, 9)).astype(np.int8),
}
SHAPES = {path: array.shape for path, array in ARRAYS.items()}


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "a folder" / "weights"
    save_arrays(place, ARRAYS)
    return place


def test_they_are_what_orbax_reads(folder):
    import orbax.checkpoint as ocp

    read = read_mapped(folder.parent / ".." / folder.parent.name / folder.name, SHAPES)
    with ocp.PyTreeCheckpointer() as checkpointer:
        theirs = checkpointer.restore(folder)
    flat = flatten_dict(theirs, sep=".")
    assert set(flat) == set(read) == set(ARRAYS)
    for path, array in ARRAYS.items():
        assert read[path].dtype == array.dtype
        np.testing.assert_array_equal(read[path], array)
        np.testing.assert_array_equal(read[path], np.asarray(flat[path]))
        assert read[path].ctypes.data % ALIGNMENT == 0


def test_jax_takes_them_without_a_copy(folder):
    array = read_mapped(folder, ["layers.kernel"])["layers.kernel"]
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    assert jax.device_put(array, place).unsafe_buffer_pointer() == array.ctypes.data


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_are_cast_on_the_device(folder, dtype):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    paths = ("layers.kernel", "layers.bias")
    shapes = {path: SHAPES[path] for path in paths}
    placed = read_to_device(folder, shapes, dtype=dtype, sharding=place)
    for path in paths:
        assert placed[path].dtype == dtype
        assert placed[path].sharding == place
        np.testing.assert_array_equal(placed[path], ARRAYS[path].astype(dtype))


def test_they_outlive_their_files(folder):
    array = read_mapped(folder, ["layers.kernel"])["layers.kernel"]
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.write_bytes(b"")
    np.testing.assert_array_equal(array, ARRAYS["layers.kernel"])


def test_numbers_that_are_missing_are_no_zeros(folder):
    import tensorstore as ts

    base = {"driver": "file", "path": f"{folder}/"}
    place = {"driver": "ocdbt", "base": base, "path": "layers.kernel/"}
    store = ts.KvStore.open(place).result()
    (block,) = {key for key in store.list().result() if not key.startswith(b".")}
    store.write(block, None).result()
    with pytest.raises(MrlError, match="the array cannot be read"):
        read_mapped(folder, ["layers.kernel"])
    assert list(read_mapped(folder, ["layers.bias"])) == ["layers.bias"]


def test_what_is_refused(folder, tmp_path):
    with pytest.raises(MrlError, match=r"the array is missing|are missing"):
        read_mapped(tmp_path / "nothing", SHAPES)
    with pytest.raises(MrlError, match="the head cannot be read"):
        read_mapped(folder, ["other"], what="the head", hint="train again")
    with pytest.raises(MrlError, match=r"layers.bias has the shape \(7,\), expected \(8,\)"):
        read_mapped(folder, SHAPES, shapes={**SHAPES, "layers.bias": (8,)})
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MrlError, match="cannot be read"):
        read_mapped(folder, SHAPES)
