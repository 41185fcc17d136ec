"""Inference in batches: rows sorted by length, padded to few shapes, placed on the devices."""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float32, Int
from tqdm import tqdm

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import put_global
from mrl_jax.core.errors import MrlError
from mrl_jax.models.inputs import pad_clips
from mrl_jax.models.speech_tower import Padding, SpeechTowerConfig
from mrl_jax.nn.block_attention import BLOCK, blocks_pay

SECOND = 16_000
"""The shortest padded length of a clip, in samples."""
GROWTH = 1.3
"""Padded lengths grow by this factor, so that long and short clips need few shapes."""
FINE_GROWTH, MUCH_AUDIO = 1.12, 1500 * SECOND
"""The same on a CPU from so many samples on, whose padding costs more than shapes do; `mrl-jax
embed` decodes half an hour at once."""
LONG_GROWTH = 1.05
"""The same for clips in blocks of frames, whose time is worth more than another compilation."""
FULL_BATCH = 30 * SECOND
"""The longest clips, in samples, that fill a batch; of longer ones it has fewer."""

BUSY_PLACES = {"clips": 40 * SECOND, "texts": 1024}
"""Samples, and tokens, of a batch that keep a CPU as busy as more of them."""


def busy_places(kind: Literal["clips", "texts"], padding: Padding = "masked") -> int | None:
    """`BUSY_PLACES` on a CPU; None on accelerators, which are busier with more.

    Where padding is read as speech, None as well: vectors must not depend on the device.
    """
    bounded = jax.default_backend() == "cpu" and padding == "masked"
    return BUSY_PLACES[kind] if bounded else None


def device_count(sharding: jax.sharding.Sharding | None) -> int:
    """Devices that share a batch."""
    return 1 if sharding is None else len(sharding.device_set)


def padded_places(tokens: int | HostArray) -> Any:
    """Places that texts of so many tokens are padded to: multiples of 16."""
    return -(-tokens // 16) * 16


def clip_growth(lengths: Sequence[int] | HostArray) -> float:
    """By what the padded lengths of clips of so many samples grow."""
    much = bool(jax.default_backend() == "cpu" and np.sum(lengths, dtype=np.int64) >= MUCH_AUDIO)
    return FINE_GROWTH if much else GROWTH


def run_batches(
    lengths: Sequence[int] | HostArray,
    inputs: Callable[[list[int]], tuple[Any, ...]],
    program: Callable[..., Any],
    *,
    batch_size: int,
    sharding: jax.sharding.Sharding | None = None,
    shrink_last: bool = False,
    full_length: int | None = None,
    busy: int | None = None,
    progress: str | None = None,
) -> Iterator[tuple[HostArray, Any]]:
    """Run a compiled program over all rows, the longest first.

    A short batch is filled up with copies of its first row, so that fewer shapes are compiled;
    the outputs of the copies are dropped.

    Args:
        lengths: of each row, in samples or tokens.
        inputs: row numbers to the padded arrays [B, ...] of a batch.
        program: those arrays to a pytree of arrays [B, ...].
        batch_size: rows in a batch, rounded up to a multiple of the devices.
        sharding: of the inputs, over the devices of all hosts if it has them; the program
            then gives every host the whole output. None leaves them to the program.
        shrink_last: fill a short batch up to a power of two times the devices only, so that
            one row alone does not cost a whole batch.
        full_length: the longest rows that fill a batch. It has fewer of longer ones, so that
            no batch holds more than `batch_size` such rows; None for no such bound.
        busy: places after which rows of other lengths would only be padded further: if there
            is more than one batch, none has more of them before padding, but for one row for
            each device; None for no such bound.
        progress: name of a progress bar.

    Yields:
        row numbers [R], and the program's output for them on the host, each array [R, ...].
    """
    devices = device_count(sharding)
    batch_size = -(-batch_size // devices) * devices

    def most(longest: int) -> int:
        rows = batch_size
        if full_length is not None and longest > full_length:
            rows = max(batch_size * full_length // longest // devices, 1) * devices
        if busy is not None and len(lengths) > batch_size:
            each = max(busy // max(longest, 1) // devices, 1)
            # A power of two, so that few shapes are compiled.
            rows = min(rows, devices * 2 ** (each.bit_length() - 1))
        return rows

    for rows in sorted_batches(lengths, most, progress=progress):
        limit = most(int(lengths[rows[0]]))
        size = devices if shrink_last else limit
        while size < len(rows):
            size *= 2
        copies = min(size, limit) - len(rows)
        arrays = inputs([*rows.tolist(), *[int(rows[0])] * copies])
        if sharding is not None:
            arrays = put_global(arrays, sharding)
        outputs = jax.tree.map(np.asarray, program(*arrays))
        yield rows, jax.tree.map(operator.itemgetter(slice(len(rows))), outputs)


def sorted_batches(
    lengths: Sequence[int] | HostArray,
    batch_size: int | Callable[[int], int],
    *,
    progress: str | None = None,
) -> Iterator[Int[HostArray, " R"]]:
    """Row numbers, at most `batch_size` at a time, the longest first.

    `batch_size` may be a function of the longest row's length. Rows of like lengths waste little
    padding, and a batch too large for memory fails at once.
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    with tqdm(total=len(order), desc=progress, disable=progress is None, leave=False) as bar:
        start = 0
        while start < len(order):
            longest = int(lengths[order[start]])
            size = batch_size if isinstance(batch_size, int) else batch_size(longest)
            rows = order[start : start + size]
            yield rows
            bar.update(len(rows))
            start += len(rows)


def embed_batches(
    lengths: Sequence[int] | HostArray,
    inputs: Callable[[list[int]], tuple[Any, ...]],
    program: Callable[..., Any],
    *,
    check: Callable[[HostArray, HostArray], None] | None = None,
    **options: Any,
) -> Float32[HostArray, "..."]:
    """`run_batches` of a program that gives vectors [B, ...], put back into the order of the rows.

    With `check` the program gives pairs of vectors and something else, which is checked: it is
    called with the row numbers and that.

    Raises:
        MrlError: there are no rows.
    """
    vectors: HostArray | None = None
    for rows, batch in run_batches(lengths, inputs, program, **options):
        if check is not None:
            batch, other = batch
            check(rows, other)
        if vectors is None:
            vectors = np.zeros((len(lengths), *batch.shape[1:]), np.float32)
        vectors[rows] = batch
    if vectors is None:
        raise MrlError("there is nothing to embed", hint="pass one clip or text, or more")
    return vectors


def padded_clips(
    clips: Sequence[HostArray],
    config: SpeechTowerConfig,
    *,
    padding: Padding,
    growth: float = GROWTH,
    names: Sequence[object] | None = None,
) -> tuple[HostArray, HostArray]:
    """`pad_clips` to one of few lengths, or to the longest clip where padding is read as speech.

    The lengths grow by `growth`, see `clip_growth`. Clips that are computed in blocks of frames are
    padded to whole blocks.
    """
    size = longest = max(len(clip) for clip in clips)
    if padding == "masked":
        size = SECOND
        while size < longest:
            size = -(-int(size * growth) // 320) * 320
        if blocks_pay(config.frame_count(longest)):
            size = _whole_blocks(longest, config)
    return pad_clips(clips, config, size=size, names=names)


def _whole_blocks(longest: int, config: SpeechTowerConfig) -> int:
    """Samples of whole blocks of frames, of few numbers, that hold the longest clip."""
    blocks = 1
    while blocks * BLOCK < config.frame_count(longest):
        blocks = max(blocks + 1, int(blocks * LONG_GROWTH))
    return max(longest, (blocks * BLOCK - 1) * config.frame_samples + config.min_samples)
