"""The same step on one device, on all of a host's, and on a pod's.

"pmap"  replicated weights; each device runs the step on its rows, negatives are
        gathered, gradients averaged.
"mesh"  jit over a mesh; the batch is one global array and XLA places the collectives. With
        `fsdp` the frozen weights are shared out over that many devices, each of which
        holds a part and gathers a layer's when it comes to it.
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


SHARED_FROM = 1 << 14
"""Entries from which on a frozen array is shared out: smaller ones cost more to gather."""


Rows = TypeVar("Rows")
"""One step's input: a pytree of arrays with a row a pair."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """Where a run lives.

    Args:
        parallel: "pmap" or "mesh".
        devices: all devices of all hosts; JAX's by default.
        fsdp: devices that one copy of the frozen weights is shared out over; "mesh" only.
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
            MrlError: there are fewer; some of several hosts' devices are asked for.
        """
        found = jax.devices()
        if not 0 <= count <= len(found):
            raise MrlError(
                f"train.devices is {count}, and there are {len(found)} ({found[0].platform})",
                hint=f"set it to {len(found)} at most, or to 0 for all of them",
            )
        if count and jax.process_count() > 1:
            raise MrlError(
                f"train.devices is {count}, and {jax.process_count()} hosts bring all of theirs",
                hint="leave train.devices out",
            )
        return cls(parallel, found[:count] or None, fsdp)

    @property
    def global_devices(self) -> list[Any]:
        return list(jax.devices() if self.devices is None else self.devices)

    @property
    def local(self) -> list[Any]:
        """This host's devices, in the global order."""
        return [d for d in self.global_devices if d.process_index == jax.process_index()]

    @property
    def axis_name(self) -> str | None:
        """The mapped axis that a step is made with; none where the batch is one array."""
        return AXIS if self.parallel == "pmap" else None

    @property
    def mesh(self) -> Mesh:
        """One axis, named as pmap's: over this host's devices for pmap, else over all.

        Arrays on it go into a pmapped function without a copy and without compiling
        it a second time. With `fsdp` there are two, and rows are shared out over both.
        """
        chosen = np.asarray(self.local if self.parallel == "pmap" else self.global_devices)
        if self.fsdp == 1:
            return Mesh(chosen, (AXIS,), axis_types=(AxisType.Auto,))
        return Mesh(
            chosen.reshape(-1, self.fsdp), (AXIS, FSDP), axis_types=(AxisType.Auto, AxisType.Auto)
        )

    @property
    def rows(self) -> NamedSharding:
        """Where the rows of a batch go."""
        axes = self.mesh.axis_names
        return NamedSharding(self.mesh, PartitionSpec(axes if len(axes) > 1 else AXIS))

    @property
    def global_batch_sharding(self) -> NamedSharding:
        """Where rows go that all devices of all hosts share: for what is encoded, not trained."""
        if self.parallel == "mesh":
            return self.rows
        return batch_sharded(self.global_devices, AXIS)

    def to_global(self, tree: Any) -> Any:
        """Arrays of this host's devices as arrays on the mesh of all hosts; no copy.

        Every host must hold the same.
        """
        if self.parallel == "mesh":
            return tree
        whole = replicated(self.global_batch_sharding)

        def one(x: jax.Array) -> jax.Array:
            parts = [shard.data for shard in x.addressable_shards]
            return jax.make_array_from_single_device_arrays(x.shape, whole, parts)

        return jax.tree.map(one, tree)

    def check_batch(self, batch_size: int, accumulation_steps: int = 1) -> None:
        """Raises an `MrlError` unless rows can be shared out evenly."""
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
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def place_frozen(self, tree: Any, *, least: int = SHARED_FROM) -> Any:
        """Put frozen arrays on every device, or a part of each on every one of `fsdp`."""
        place = self.frozen_sharding
        return jax.tree.map(lambda x: jax.device_put(x, place(x, least=least)), tree)

    def frozen_sharding(self, array: Any, *, least: int = SHARED_FROM) -> NamedSharding:
        """Where a frozen array goes: cut along the longest of its axes that can be.

        Args:
            array: or its shape, as `jax.ShapeDtypeStruct` has it.
            least: entries from which on an array is cut; whole where none of its axes can be.
        """
        spec: list[str | None] = [None] * len(array.shape)
        even = [axis for axis, size in enumerate(array.shape) if size % self.fsdp == 0]
        if self.fsdp > 1 and even and array.size >= least:
            spec[max(even, key=lambda axis: array.shape[axis])] = FSDP
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def put_batch(self, batch: Rows) -> Rows:
        """This host's rows onto its devices: [devices, rows, ...] for pmap, else global."""
        sharding = self.rows
        if self.parallel == "pmap":
            count = len(self.local)
            return jax.tree.map(
                lambda x: jax.device_put(
                    np.reshape(x, (count, x.shape[0] // count, *x.shape[1:])), sharding
                ),
                batch,
            )
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)

    def compile(self, step: Step) -> Step:
        """A step made with `axis_name`, compiled once a batch shape; it consumes its state."""
        if self.parallel == "pmap":
            return jax.pmap(
                step,
                axis_name=AXIS,
                in_axes=(None, None, 0),
                out_axes=None,
                devices=self.global_devices,
                donate_argnums=(0,),
            )
        whole = NamedSharding(self.mesh, PartitionSpec())
        compiled = jax.jit(step, donate_argnums=(0,), out_shardings=whole)
        return compiled if self.fsdp == 1 else InMesh(compiled, self.mesh)
