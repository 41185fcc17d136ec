"""Layer states of a frozen speech tower, computed once and read back by every run after it.

A cache holds all layers of every frame, so that a head is trained without the tower. It is made in
shards, which several hosts write at once and a killed run keeps:

shard-00000-of-00002/   `data.cache.speech_shard`: the clips of that shard, and their digests
shard-00001-of-00002/
cache.json              written last: what the cache was made of, and a digest of every shard

The longest clips stand in the first shard, as clips of like length are encoded together. Older
caches are one shard, which has the name of the cache.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
from jaxtyping import Int

from mrl_jax.core.addresses import address_of
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.batch import StoredSpeech
from mrl_jax.core.errors import MrlError
from mrl_jax.data.cache.files import (
    CACHE_FILE,
    REMOVE,
    read_cache_of,
    verify_cache,
    write_cache_file,
)
from mrl_jax.data.cache.speech_shard import (
    CACHE_DTYPE_KEY,
    MAKE_AGAIN,
    SpeechShard,
    open_speech_shard,
)

SHARD_BATCH = 16
"""Clips that are encoded together; a shard has whole batches of them."""
MOST_SHARDS = 256
"""Of a cache, as each is a file that every reader holds open."""
SHARD_NAME = re.compile(r"shard-\d{5}-of-\d{5}")


def speech_cache_key(
    *, clips: str, split: str, tower: str, dtype: str, cache_dtype: str
) -> dict[str, str]:
    """What a cache is made of: name → digest (of the built data set and the tower) or value.

    The tower computes in `dtype`, and its states are stored in `cache_dtype`.
    """
    key = {"data": clips, "split": split, "speech tower": tower, "dtype": dtype}
    return key | {CACHE_DTYPE_KEY: cache_dtype}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """Which clips stand in which shard: the same on every host, however many there are.

    Attributes:
        frames: [N], of each clip.
        shard_clips: clips of a shard; the last one may have fewer.
    """

    frames: HostArray
    shard_clips: int

    @classmethod
    def of(cls, frames: HostArray) -> "ShardPlan":
        """The plan of a new cache: shards as small as a batch, unless there would be too many."""
        batches = -(-len(frames) // SHARD_BATCH)
        return cls(frames=frames, shard_clips=SHARD_BATCH * max(-(-batches // MOST_SHARDS), 1))

    @property
    def count(self) -> int:
        """How many shards there are."""
        return -(-len(self.frames) // self.shard_clips)

    @functools.cached_property
    def order(self) -> Int[HostArray, " N"]:
        """All clips, the longest first; of equal ones the first in the data set."""
        return np.argsort(-self.frames, kind="stable")

    def name(self, shard: int) -> str:
        """The name of a shard's folder."""
        return f"shard-{shard:05d}-of-{self.count:05d}"

    def clips(self, shard: int) -> Int[HostArray, " R"]:
        """The clips of a shard, row by row."""
        return self.order[shard * self.shard_clips : (shard + 1) * self.shard_clips]

    def key(self, shard: int, key: Mapping[str, str]) -> dict[str, str]:
        """What a shard is made of, in a cache that is made of `key`."""
        return {**key, "shard": self.name(shard)}

    def places(self) -> Int[HostArray, "N 2"]:
        """The shard of every clip, and its row there."""
        ranks = np.empty(len(self.order), np.int64)
        ranks[self.order] = np.arange(len(self.order))
        return np.stack(np.divmod(ranks, self.shard_clips), axis=1)


class SpeechCache:
    """States of N clips, left on the disk until they are read.

    May be read by several threads and processes.

    Args:
        shards: that hold them.
        places: [N, 2], the shard of every clip, and its row there.
        frames: [N], of each clip.
        cache_dtype: of the states.
    """

    def __init__(
        self,
        shards: Sequence[SpeechShard],
        places: Int[HostArray, "N 2"],
        frames: Int[HostArray, " N"],
        cache_dtype: str,
    ):
        self._shards, self._places = shards, places
        self.frames, self._cache_dtype = frames, cache_dtype

    def rows(self, clips: HostArray, size: int) -> StoredSpeech:
        """The states of some clips, padded to `size` frames.

        Raises:
            MrlError: those of a clip are not the ones that were written.
        """
        array = self._shards[0].states
        wide = np.zeros((len(clips), size, *array.shape[1:]), array.dtype)
        scales = []
        for row, clip in enumerate(clips.tolist()):
            shard, place = self._places[clip].tolist()
            states, scale = self._shards[shard].clip(place, number=clip)
            wide[row, : len(states)] = states
            scales.append(scale)
        return StoredSpeech(
            states=wide.view(ml_dtypes.bfloat16) if self._cache_dtype == "bfloat16" else wide,
            scales=np.stack(scales) if self._cache_dtype == "int8" else None,
            frames=self.frames[clips].astype(np.int32),
        )


def open_speech_cache(
    folder: Path,
    key: Mapping[str, str],
    frames: HostArray,
    layers: int,
    width: int,
    *,
    verify: bool = True,
) -> SpeechCache | None:
    """A cache that was made before; None where there is none, or one that is not finished.

    Args:
        folder, key: of the cache, and what it is made of.
        frames, layers, width: [N] of each clip; Y; D.
        verify: compare every shard with its digest, and each clip when it is first read.

    Raises:
        MrlError: it was made of something other than `key`, or is damaged.
    """
    if _is_unfinished(folder):
        return None
    info = read_cache_of(folder, key, hint=MAKE_AGAIN)
    if info is None:
        return None
    dtype = key[CACHE_DTYPE_KEY]
    if "shards" not in info.sizes:
        shard = open_speech_shard(folder, key, frames, layers, width, verify=verify)
        assert shard is not None
        whole = ShardPlan(frames=frames, shard_clips=max(len(frames), 1))
        places = np.stack((np.zeros_like(whole.order), np.arange(len(frames))), axis=1)
        return SpeechCache([shard], places, frames, dtype)
    plan = ShardPlan(frames=frames, shard_clips=max(info.sizes.get("shard_clips", 1), 1))
    if plan.count != info.sizes["shards"]:
        problem = f"names {info.sizes['shards']} shards, expected {plan.count}"
        raise MrlError(problem, where=folder / CACHE_FILE, hint=MAKE_AGAIN)
    if verify:
        verify_cache(folder, info, hint=MAKE_AGAIN)
    shards = []
    for number in range(plan.count):
        place, made_of = folder / plan.name(number), plan.key(number, key)
        own = frames[plan.clips(number)]
        shard = open_speech_shard(place, made_of, own, layers, width, verify=verify)
        if shard is None:
            raise MrlError(f"is missing, and {CACHE_FILE} names it", where=place, hint=MAKE_AGAIN)
        shards.append(shard)
    return SpeechCache(shards, plan.places(), frames, dtype)


def check_shards(folder: Path, key: Mapping[str, str], plan: ShardPlan) -> list[int]:
    """The shards of a cache of `key` that an earlier run has left in a folder.

    Raises:
        MrlError: the folder holds shards of another cache, half of one, or something else.
    """
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    names -= {CACHE_FILE}  # Another run is as far as that meanwhile.
    known = {plan.name(number): number for number in range(plan.count)}
    done = []
    for name in sorted(names):
        made_of = plan.key(known[name], key) if name in known else key
        if not SHARD_NAME.fullmatch(name):
            problem = f"holds {name}, which is no part of a speech cache"
            raise MrlError(problem, where=folder, hint=MAKE_AGAIN)
        has_description = (folder / name / CACHE_FILE).exists()
        if has_description:
            read_cache_of(folder / name, made_of, hint=MAKE_AGAIN)
        if name not in known:
            problem = f"is a shard of another cache, expected {plan.count} of them"
            raise MrlError(problem, where=folder / name, hint=MAKE_AGAIN)
        if has_description:
            done.append(known[name])
        elif address_of(folder) is None and not _is_empty_folder(folder / name):
            # At an address it was not uploaded to its end, and is written again.
            problem = f"is no whole shard, as it has no {CACHE_FILE}"
            raise MrlError(problem, where=folder / name, hint=REMOVE)
    return done


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def write_speech_index(
    folder: Path, key: Mapping[str, str], plan: ShardPlan, layers: int, width: int
) -> None:
    """Write the description of a cache, once all of its shards are there.

    Raises:
        MrlError: a shard is missing.
    """
    names = [f"{plan.name(number)}/{CACHE_FILE}" for number in range(plan.count)]
    for name in names:
        if not (folder / name).is_file():
            hint = "let all hosts see the same folder, and start the run again"
            raise MrlError(
                "is missing, though its host has written it", where=folder / name, hint=hint
            )
    sizes = {"clips": len(plan.frames), "frames": int(plan.frames.sum())}
    sizes |= {"layers": layers, "width": width}
    sizes |= {"shards": plan.count, "shard_clips": plan.shard_clips}
    write_cache_file(folder, key, names, sizes, apart=True)


def _is_unfinished(folder: Path) -> bool:
    """Whether there are shards, or leftovers of them, and no description of all yet."""
    if not folder.is_dir():
        return False
    names = [path.name for path in folder.iterdir()]
    parts = [name.startswith(".") or SHARD_NAME.fullmatch(name) for name in names]
    return bool(names) and all(parts)
