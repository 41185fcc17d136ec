"""From examples to records: decoded by threads, given in order, what is unfit left out."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.decode import clip_seconds, decode_clip
from mrl_jax.data.audio.encode import flac_bytes, quantize
from mrl_jax.data.audio.verdict import unfit
from mrl_jax.data.build.info import BuildOptions, Skipped
from mrl_jax.data.sets.manifest import EmbeddedAudio, Example
from mrl_jax.data.sets.parquet import EmbeddedReader, recording_of

_SHOWN = 5
_GATHERED = 10


class RecordStream:
    """Makes the records of one split after the other, and keeps their index rows.

    Args:
        pool: the threads that decode.
        options: what is made of the recordings.
        total: examples in all splits.
        ahead: recordings held in memory at once, at most.
        progress: called with 1 after each example.

    Attributes:
        index: by split, the row of each record.
        skipped: what was left out.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        options: BuildOptions,
        *,
        total: int,
        ahead: int,
        progress: Callable[[int], Any],
    ):
        self._pool, self._options = pool, options
        self._total, self._ahead, self._progress = total, ahead, progress
        self._max_broken = int(options.max_broken_fraction * total)
        self._embedded = EmbeddedReader(options.columns.audio)
        self.index: dict[str, list[dict[str, Any]]] = {}
        self.skipped: list[Skipped] = []

    def records(self, split: str, examples: Iterable[Example]) -> Iterator[tuple[str, bytes]]:
        """The id and FLAC bytes of each example that is fit, in their order.

        Raises:
            MrlError: as `check_broken`, ten recordings later; a split has nothing left.
        """
        rows = self.index.setdefault(split, [])
        for example, record in self._in_order(examples):
            self._progress(1)
            if isinstance(record, Skipped):
                self.skipped.append(record)
                self.check_broken(slack=_GATHERED)
                continue
            flac, num_samples = record
            rows.append({**vars(example), "num_samples": num_samples})
            del rows[-1]["audio"]
            yield example.id, flac
        if not rows:
            self.check_broken()
            reasons = [f"{s.audio}: {s.reason}" for s in self.skipped if s.split == split]
            raise MrlError(
                f"the split {split!r} has no recording left: {'; '.join(reasons[:_SHOWN])}",
                hint="correct the recordings, or change the limits of length",
            )

    def check_broken(self, slack: int = 0) -> None:
        """Give up where more recordings are broken than may be, and `slack` more.

        Raises:
            MrlError: with their number, and the first few and what is wrong with them.
        """
        broken = [skipped for skipped in self.skipped if skipped.kind == "broken"]
        if len(broken) <= self._max_broken + slack:
            return
        first = "; ".join(f"{s.audio} ({s.id}): {s.reason}" for s in broken[:_SHOWN])
        raise MrlError(
            f"{len(broken)} recordings{' or more' if slack else ''} of {self._total} are broken, "
            f"and {self._max_broken} may be: {first}{'; ...' if len(broken) > _SHOWN else ''}",
            hint="correct them, leave them out, or raise --max-broken-fraction",
        )

    def _in_order(
        self, examples: Iterable[Example]
    ) -> Iterator[tuple[Example, Skipped | tuple[bytes, int]]]:
        pending: deque[tuple[Example, Future[Skipped | tuple[bytes, int]]]] = deque()
        try:
            for example in examples:
                # Tables are read here, a few rows at a time, and not by several threads.
                cell = None
                if isinstance(example.audio, EmbeddedAudio):
                    cell = self._embedded.cell(example.audio)
                pending.append((example, self._pool.submit(self._make, example, cell)))
                if len(pending) >= self._ahead:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            for _, future in pending:
                future.cancel()

    def _make(self, example: Example, cell: Any) -> Skipped | tuple[bytes, int]:
        """The record of an example; `cell` is what a table holds of its recording."""

        def skipped(kind: str, reason: str) -> Skipped:
            row = {"id": example.id, "split": example.split, "audio": str(example.audio)}
            return Skipped(**row, kind=kind, reason=reason)

        if not example.text:
            return skipped("broken", "the row has no text")
        source = example.audio
        if isinstance(source, EmbeddedAudio):
            try:
                source = recording_of(source, cell)
            except MrlError as error:
                return skipped("broken", error.problem)
            if source is None:
                return skipped("broken", "the row holds no recording")
        options = self._options
        try:
            seconds = clip_seconds(source, name=example.audio)
            if options.max_seconds < seconds < float("inf") and options.long == "skip":
                return skipped("long", f"{seconds:.2f} s, longer than {options.max_seconds:g} s")
            # A second more, to see the length of streams that do not say it.
            limit = options.max_seconds + 1
            clip = decode_clip(source, options.sample_rate, name=example.audio, max_seconds=limit)
        except MrlError as error:
            return skipped("broken", error.problem)
        longest = int(options.max_seconds * options.sample_rate)
        if clip.size > longest + 1 and options.long == "skip":
            return skipped("long", f"longer than {options.max_seconds:g} s")
        clip = clip[:longest]
        if problem := unfit(clip):  # The rest may have had the only sound.
            return skipped("broken", problem)
        if clip.size < options.min_seconds * options.sample_rate:
            seconds = clip.size / options.sample_rate
            return skipped("short", f"{seconds:.2f} s, shorter than {options.min_seconds:g} s")
        return flac_bytes(quantize(clip), options.sample_rate), clip.size
