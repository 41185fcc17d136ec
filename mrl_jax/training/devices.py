"""The same step on one device, on all of a host's, and on a pod's.

"pmap"  replicated weights; each device runs the step on its rows, negatives are
        gathered, gradients averaged.
"mesh"  jit over a mesh; the batch is one global array and XLA places the collectives. With
        `fsdp` the frozen weights are sharded over that many devices, each of which gathers
        the weights of a layer just before it is computed.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mrl_jax.core.distributed import batch_sharded, replicated
from mrl_jax.core.errors import MrlError
from mrl_jax.nn.layer_stack import FSDP, InMesh
from mrl_jax.training.state import Step

Parallel = Literal["pmap", "mesh"]
AXIS = "batch"
SHARD_FROM = 1 << 14
"""Frozen arrays of fewer entries are replicated: sharding them saves little memory."""
Rows = TypeVar("Rows")
"""One step's input: a pytree of arrays with one row for each pair."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run, and how arrays are placed on them.

    Args:
        parallel: "pmap" or "mesh".
        devices: all devices of all hosts; JAX's by default.
        fsdp: devices that one copy of the frozen weights is sharded over; "mesh" only.
    """

    parallel: Parallel = "pmap"
    devices: Sequence[Any] | None = None
    fsdp: int = 1

    def __post_init__(self) -> None:
        if self.parallel not in ("pmap", "mesh"):
            raise MrlError(f"train.parallel is {self.parallel!r}, expected pmap or mesh")
        if self.fsdp < 1:
            raise MrlError(f"train.fsdp is {self.fsdp}, expected 1 or more")
        if self.fsdp > 1 and self.parallel != "mesh":
            raise MrlError(
                f"train.fsdp is {self.fsdp}, and pmap replicates its weights",
                hint="set train.parallel=mesh",
            )
        count = len(self.global_devices)
        if count % self.fsdp:
            raise MrlError(
                f"train.fsdp is {self.fsdp}, and there are {count} devices",
                hint=f"set it to a divisor of {count}",
            )

    @classmethod
    def named(cls, parallel: Parallel, *, count: int = 0, fsdp: int = 1) -> "Devices":
        """The first `count` devices, all of them by default.

        Raises:
            MrlError: there are fewer; there are several hosts, and `count` is not 0.
        """
        available = jax.devices()
        if not 0 <= count <= len(available):
            raise MrlError(
                f"train.devices is {count}, and there are {len(available)} "
                f"({available[0].platform})",
                hint=f"set it to {len(available)} at most, or to 0 for all of them",
            )
        if count and jax.process_count() > 1:
            raise MrlError(
                f"train.devices is {count}, and {jax.process_count()} hosts use all of theirs",
                hint="leave train.devices out",
            )
        return cls(parallel, available[:count] or None, fsdp)

    @property
    def global_devices(self) -> list[Any]:
        return list(jax.devices() if self.devices is None else self.devices)

    @property
    def local(self) -> list[Any]:
        """This host's devices, in the global order."""
        return [d for d in self.global_devices if d.process_index == jax.process_index()]

    @property
    def axis_name(self) -> str | None:
        """Name of pmap's mapped axis, which a step reduces over; None for a mesh."""
        return AXIS if self.parallel == "pmap" else None

    @property
    def mesh(self) -> Mesh:
        """One axis, named as pmap's: over this host's devices for pmap, else over all.

        Arrays on it go into a pmapped function without a copy or a second compilation. With
        `fsdp` there are two axes, and rows are sharded over both.
        """
        chosen = np.asarray(self.local if self.parallel == "pmap" else self.global_devices)
        if self.fsdp == 1:
            return Mesh(chosen, (AXIS,), axis_types=(AxisType.Auto,))
        return Mesh(chosen.reshape(-1, self.fsdp), (AXIS, FSDP), axis_types=(AxisType.Auto,) * 2)

    @property
    def rows(self) -> NamedSharding:
        """Sharding of a batch's rows."""
        axes = self.mesh.axis_names
        return NamedSharding(self.mesh, PartitionSpec(axes if len(axes) > 1 else AXIS))

    @property
    def global_batch_sharding(self) -> NamedSharding:
        """Sharding of rows over all devices of all hosts: for encoding, not for training."""
        if self.parallel == "mesh":
            return self.rows
        return batch_sharded(self.global_devices, AXIS)

    def to_global(self, tree: Any) -> Any:
        """Arrays of this host's devices as arrays on the mesh of all hosts, without a copy.

        Every host must hold the same values.
        """
        if self.parallel == "mesh":
            return tree
        whole = replicated(self.global_batch_sharding)

        def one(x: jax.Array) -> jax.Array:
            parts = [shard.data for shard in x.addressable_shards]
            return jax.make_array_from_single_device_arrays(x.shape, whole, parts)

        return jax.tree.map(one, tree)

    def check_batch(self, batch_size: int, accumulation_steps: int = 1) -> None:
        """Raises an `MrlError` unless devices and parts get equally many rows."""
        parts = len(self.global_devices) * accumulation_steps
        if batch_size % parts:
            times = f" x {accumulation_steps} accumulation steps" if accumulation_steps > 1 else ""
            raise MrlError(
                f"data.batch.batch_size is {batch_size}, expected a multiple of {parts}: "
                f"{len(self.global_devices)} devices{times}",
                hint=f"make it {max(batch_size // parts, 1) * parts}, or use fewer devices",
            )

    def replicate(self, tree: Any) -> Any:
        """Put a tree of arrays on every device of the mesh."""
        return jax.device_put(tree, replicated(self.rows))

    def place_frozen(self, tree: Any, *, least: int = SHARD_FROM) -> Any:
        """Put frozen arrays on every device, or sharded over `fsdp` devices."""
        place = self.frozen_sharding
        return jax.tree.map(lambda x: jax.device_put(x, place(x, least=least)), tree)

    def frozen_sharding(self, array: Any, *, least: int = SHARD_FROM) -> NamedSharding:
        """Sharding of a frozen array (or its shape): along the longest axis that `fsdp` divides.

        Arrays without such an axis, or of fewer than `least` entries, are replicated.
        """
        spec: list[str | None] = [None] * len(array.shape)
        even = [axis for axis, size in enumerate(array.shape) if size % self.fsdp == 0]
        if self.fsdp > 1 and even and array.size >= least:
            spec[max(even, key=lambda axis: array.shape[axis])] = FSDP
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def put_batch(self, batch: Rows) -> Rows:
        """This host's rows onto its devices: [devices, rows, ...] for pmap, else a global array."""
        sharding = self.rows
        if self.parallel == "pmap":
            count = len(self.local)
            parts = jax.tree.map(
                lambda x: np.reshape(x, (count, len(x) // count, *x.shape[1:])), batch
            )
            return jax.device_put(parts, sharding)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)

    def compile(self, step: Step) -> Step:
        """A step made with `axis_name`, compiled once for each batch shape; donates its state."""
        if self.parallel == "pmap":
            return jax.pmap(
                step,
                axis_name=AXIS,
                in_axes=(None, None, 0),
                out_axes=None,
                devices=self.global_devices,
                donate_argnums=(0,),
            )
        compiled = jax.jit(step, donate_argnums=(0,), out_shardings=replicated(self.rows))
        return compiled if self.fsdp == 1 else InMesh(compiled, self.mesh)
