"""Layer states of all clips, computed by all devices of all hosts: each host writes its own shards.

What is in a shard depends on the clips alone (`data.cache.speech.ShardPlan`), so that any number
of hosts writes the same shards, and a run that was killed keeps those that are whole.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from mrl_jax.core.addresses import address_of, shown
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import (
    assert_equal_across_hosts,
    batch_sharded,
    common_token,
    host_shard,
    is_primary,
    replicated,
    run_on_all,
    run_on_primary,
)
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import check_room, make_folder, write_errors
from mrl_jax.core.paths import user_path
from mrl_jax.core.remote import upload
from mrl_jax.core.run_lock import alone
from mrl_jax.data.build.dataset import SpeechDataset
from mrl_jax.data.cache.files import CACHE_FILE
from mrl_jax.data.cache.speech import (
    SHARD_BATCH,
    ShardPlan,
    check_shards,
    open_speech_cache,
    write_speech_index,
)
from mrl_jax.data.cache.speech_shard import (
    CACHE_DTYPE_KEY,
    cache_bytes,
    open_speech_shard,
    write_speech_shard,
)
from mrl_jax.inference.batching import padded_clips, run_batches
from mrl_jax.models.speech_tower import SpeechTower

States = Iterator[tuple[int, HostArray, HostArray | None]]
"""Row, states [T or more, Y, D] and scales [Y, D] of clips."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechCacheWriter:
    """Makes the cache of one data set and tower.

    Attributes:
        folder: of the cache.
        key: what it is made of, see `speech_cache_key`.
        tower, examples: that compute, and the clips.
    """

    folder: Path
    key: Mapping[str, str]
    tower: SpeechTower
    examples: SpeechDataset

    @functools.cached_property
    def plan(self) -> ShardPlan:
        """Which clips stand in which shard."""
        sizes = self.examples.num_samples
        frames = [self.tower.config.frame_count(int(size)) for size in sizes]
        return ShardPlan.of(np.asarray(frames, np.int64))

    @property
    def sizes(self) -> tuple[int, int]:
        """Layers, and their width."""
        return self.tower.config.num_layers, self.tower.config.width

    @property
    def needed_bytes(self) -> int:
        """Of the whole cache on the disk."""
        return self._bytes_of(self.plan.order)

    def _bytes_of(self, clips: HostArray) -> int:
        return cache_bytes(self.plan.frames[clips], *self.sizes, self.key[CACHE_DTYPE_KEY])

    def make(self) -> int:
        """Compute the shards that are not there yet, by all hosts, and describe them all.

        Returns:
            how many shards were there, as the first host saw it; 0 on the others.

        Raises:
            MrlError: on every host: hosts differ in what the cache is made of, or see different
                folders; shards of another cache are there; no room, or a disk that fails.
        """
        assert_equal_across_hosts(
            {f"{part} of the speech cache": v for part, v in self.key.items()}
        )
        kept: list[int] = []
        run_on_primary(lambda: kept.append(self._begin()))
        _check_same_folder(self.folder)
        run_on_all(self._write_own_shards)
        run_on_primary(self._write_index)
        return sum(kept)

    def _begin(self) -> int:
        """Make the folder; what cannot be finished is refused here. How many shards are there."""
        with write_errors(shown(self.folder)):
            make_folder(self.folder)
            done = check_shards(self.folder, self.key, self.plan)
            missing = set(range(self.plan.count)).difference(done)
            needed = sum(self._bytes_of(self.plan.clips(number)) for number in missing)
            check_room(self.folder, needed, shown(self.folder))
        return len(done)

    def _write_own_shards(self) -> None:
        host, hosts = host_shard()
        # The longest clips come first: dealt out in turn, hosts have about as many frames each.
        own = range(host, self.plan.count, hosts)
        missing = [number for number in own if not self._is_written(number)]
        if not missing:
            return
        states_of = states_program(self.tower, self.examples, self.key[CACHE_DTYPE_KEY])
        total = sum(len(self.plan.clips(number)) for number in missing)
        with tqdm(total=total, desc="speech", disable=not is_primary(), leave=False) as bar:
            for number in missing:
                clips = self.plan.clips(number)
                self._write(number, _counted(states_of(clips), bar))

    def _is_written(self, number: int) -> bool:
        place = self.folder / self.plan.name(number)
        if not (place / CACHE_FILE).is_file():  # An upload that was cut off, perhaps.
            return False
        return open_speech_shard(place, *self._contents(number)) is not None

    def _write(self, number: int, states: States) -> None:
        """Write a shard; one that another run wrote meanwhile serves as well."""
        try:
            write_speech_shard(
                self.folder / self.plan.name(number), *self._contents(number), states
            )
        except MrlError:
            if not self._is_written(number):
                raise

    def _contents(self, number: int) -> tuple[dict[str, str], HostArray, int, int]:
        """What a shard is made of, the frames of its clips, and the sizes of their states."""
        frames = self.plan.frames[self.plan.clips(number)]
        return (self.plan.key(number, self.key), frames, *self.sizes)

    def _write_index(self) -> None:
        if address_of(self.folder) is not None:
            user_path(Path(shown(self.folder)))  # The shards of the other hosts.
        frames, sizes = self.plan.frames, self.sizes
        with write_errors(shown(self.folder)), alone(self.folder):
            if open_speech_cache(self.folder, self.key, frames, *sizes) is None:
                write_speech_index(self.folder, self.key, self.plan, *sizes)
        upload(self.folder)


def _counted(states: States, bar: Any) -> States:
    for one in states:
        yield one
        bar.update()


def _check_same_folder(folder: Path) -> None:
    """Refuse hosts that do not see one folder, before they compute; each has a place of an address.

    Raises:
        MrlError: on every host: one does not see a file that the first one writes.
    """
    if jax.process_count() == 1 or address_of(folder) is not None:
        return
    path = folder / f".seen-{common_token()}"
    try:
        run_on_primary(path.touch)
        assert_equal_across_hosts({f"cache in {folder}": str(path.exists())})
    finally:
        if is_primary():
            with contextlib.suppress(OSError):
                path.unlink()


def states_program(
    tower: SpeechTower, examples: SpeechDataset, cache_dtype: str
) -> Callable[[HostArray], States]:
    """A function that computes the layer states of some clips, on all devices of this host.

    Rows that fill up a batch for the devices are dropped.
    """
    rows = batch_sharded(jax.local_devices())
    graphdef, arrays = nnx.split(tower)
    arrays = jax.device_put(arrays, replicated(rows))

    @jax.jit
    def compute(arrays: Any, samples: Any, lengths: Any) -> Any:
        states = nnx.merge(graphdef, arrays)(samples, lengths).layer_states
        return _cast_for_cache(jnp.moveaxis(states, 0, 2), cache_dtype)

    def states_of(clips: HostArray) -> States:
        def inputs(numbers: list[int]) -> tuple[HostArray, HostArray]:
            read = [examples.clip(int(clips[number])) for number in numbers]
            return padded_clips(read, tower.config, padding="masked")

        for numbers, (states, scales) in run_batches(
            examples.num_samples[clips],
            inputs,
            functools.partial(compute, arrays),
            batch_size=SHARD_BATCH,
            sharding=rows,
        ):
            for row, number in enumerate(numbers):
                yield int(number), states[row], None if scales is None else scales[row]

    return states_of


def _cast_for_cache(states: Any, cache_dtype: str) -> tuple[Any, Any]:
    """[B, T, Y, D] in the cache's dtype, and scales [B, Y, D] of int8, one for each channel."""
    if cache_dtype != "int8":
        return states.astype(cache_dtype), None
    wide = states.astype(jnp.float32)
    # Padded frames are zero, and so no peak.
    scales = jnp.maximum(jnp.max(jnp.abs(wide), axis=1), 1e-12) / 127.0
    return jnp.round(wide / scales[:, None]).astype(jnp.int8), scales
