"""One of several hosts that make a speech cache: a command for `forked_train.ForkServer`."""

import argparse
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from mrl_jax.checkpoints.towers import load_hubert
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import initialize_distributed
from mrl_jax.core.errors import MrlError
from mrl_jax.data.build.dataset import SpeechDataset
from mrl_jax.data.cache.speech import speech_cache_key
from mrl_jax.training.precompute_speech import SpeechCacheWriter


class Clips(SpeechDataset):
    """A data set that counts what is read, and stops its process, or fails, at some clip."""

    def __init__(self, folder: Path, *, kill_at: int = -1, fail_at: int = -1, break_at: int = -1):
        super().__init__(folder, "train")
        self.read: list[int] = []
        self._kill_at, self._fail_at, self._break_at = kill_at, fail_at, break_at

    def clip(self, index: int) -> HostArray:
        if len(self.read) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if len(self.read) == self._fail_at:
            raise MrlError("cannot be read", where=f"clip {index}")
        if len(self.read) == self._break_at:
            raise RuntimeError("out of memory")
        self.read.append(index)
        return super().clip(index)


def writer_of(
    world: Path, folder: Path, *, tower: str = "towers", clips: Clips | None = None
) -> SpeechCacheWriter:
    """What makes the cache of a world's data and tower in float32."""
    clips = clips or Clips(world / "built")
    key = speech_cache_key(
        clips=clips.digest, split="train", tower=tower, dtype="float32", cache_dtype="float32"
    )
    loaded = load_hubert(world / tower / "speech")
    return SpeechCacheWriter(folder=folder, key=key, tower=loaded, examples=clips)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinator")
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kill-at", type=int, default=-1)
    parser.add_argument("--fail-at", type=int, default=-1)
    parser.add_argument("--break-at", type=int, default=-1)
    parser.add_argument("--tower", default="towers")
    parser.add_argument("world", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    if args.coordinator:
        initialize_distributed(args.coordinator, args.process, args.processes)
    stops = {"kill_at": args.kill_at, "fail_at": args.fail_at, "break_at": args.break_at}
    clips = Clips(args.world / "built", **stops)
    kept = writer_of(args.world, args.folder, tower=args.tower, clips=clips).make()
    print(f"{len(set(clips.read))} clips read, {kept} shards kept")
    return 0
