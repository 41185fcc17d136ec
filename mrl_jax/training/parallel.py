"""The same step on one device, on all of a host's, and on a pod's.

"pmap"  replicated weights; each device runs the step on its rows, negatives are
        gathered, gradients averaged.
"mesh"  jit over a mesh; the batch is one global array and XLA places the collectives.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mrl_jax.errors import MrlError
from mrl_jax.training.step import LossConfig, Metrics, Rebuild, TrainState, make_train_step

Parallel = Literal["pmap", "mesh"]
AXIS = "batch"
Rows = TypeVar("Rows")
"""One step's input: a pytree of arrays with a row a pair."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """Where a run lives.

    Args:
        parallel: "pmap" or "mesh".
        devices: all devices of all hosts; JAX's by default.
    """

    parallel: Parallel = "pmap"
    devices: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        if self.parallel not in ("pmap", "mesh"):
            raise MrlError(f"train.parallel is {self.parallel!r}, expected pmap or mesh")

    @property
    def everywhere(self) -> list[Any]:
        return list(jax.devices() if self.devices is None else self.devices)

    @property
    def local(self) -> list[Any]:
        """This host's devices, in the global order."""
        return [d for d in self.everywhere if d.process_index == jax.process_index()]

    @property
    def axis_name(self) -> str | None:
        """The mapped axis that a step is made with; none where the batch is one array."""
        return AXIS if self.parallel == "pmap" else None

    @property
    def mesh(self) -> Mesh:
        """One axis, named as pmap's: over this host's devices for pmap, else over all.

        Arrays on it go into a pmapped function without a copy and without compiling
        it a second time.
        """
        chosen = self.local if self.parallel == "pmap" else self.everywhere
        return Mesh(np.asarray(chosen), (AXIS,), axis_types=(AxisType.Auto,))

    def check_batch(self, batch_size: int, accumulation_steps: int = 1) -> None:
        """Raises an `MrlError` unless rows can be shared out evenly."""
        parts = len(self.everywhere) * accumulation_steps
        if batch_size % parts:
            times = f" x {accumulation_steps} accumulation steps" if accumulation_steps > 1 else ""
            raise MrlError(
                f"data.batch.batch_size is {batch_size}, expected a multiple of {parts}: "
                f"{len(self.everywhere)} devices{times}",
                mend=f"make it {max(batch_size // parts, 1) * parts}, or use fewer devices",
            )

    def replicate(self, tree: Any) -> Any:
        """Put a tree of arrays on every device of the mesh."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def put_batch(self, batch: Rows) -> Rows:
        """This host's rows onto its devices: [devices, rows, ...] for pmap, else global."""
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        if self.parallel == "pmap":
            count = len(self.local)
            return jax.tree.map(
                lambda x: jax.device_put(
                    np.reshape(x, (count, x.shape[0] // count, *x.shape[1:])), sharding
                ),
                batch,
            )
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)

    def compile_step(
        self,
        rebuild: Rebuild,
        optimizer: optax.GradientTransformation,
        config: LossConfig,
        *,
        accumulation_steps: int = 1,
    ) -> Callable[[TrainState, Mapping[str, Any], Any], tuple[TrainState, Metrics]]:
        """The speech step, compiled."""
        return self.compile(
            make_train_step(
                rebuild,
                optimizer,
                config,
                accumulation_steps=accumulation_steps,
                axis_name=self.axis_name,
            )
        )

    def compile(
        self, step: Callable[[TrainState, Mapping[str, Any], Any], tuple[TrainState, Metrics]]
    ) -> Callable[[TrainState, Mapping[str, Any], Any], tuple[TrainState, Metrics]]:
        """A step made with `axis_name`, compiled once a batch shape; it consumes its state."""
        if self.parallel == "pmap":
            return jax.pmap(
                step,
                axis_name=AXIS,
                in_axes=(None, None, 0),
                out_axes=None,
                devices=self.everywhere,
                donate_argnums=(0,),
            )
        replicated = NamedSharding(self.mesh, PartitionSpec())
        return jax.jit(step, donate_argnums=(0,), out_shardings=replicated)
