"""From clips of audio to one padded batch for a speech tower."""

from collections.abc import Sequence

import numpy as np

from mrl_jax.core.arguments import PositiveInt, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError, MrlError
from mrl_jax.models.speech_tower import SpeechTowerConfig


@checked
def pad_clips(
    clips: Sequence[HostArray],
    config: SpeechTowerConfig,
    *,
    size: PositiveInt | None = None,
    names: Sequence[object] | None = None,
) -> tuple[HostArray, HostArray]:
    """Make one batch of clips: each normalised alone, then padded with exact zeros.

    Args:
        clips: mono audio at `config.sample_rate`, one [S] float array a clip.
        config: says how clips are normalised and how short they may be.
        size: samples to pad to; the longest clip's by default.
        names: what to call each clip in an error (file names); its number by default.

    Returns:
        samples [B, S] float32 and lengths [B] int32, in samples.

    Raises:
        MrlError: no clip at all; a clip that is not one row of floats, holds NaN or
            infinity, is shorter than one frame, or longer than `size`.
    """
    if len(clips) == 0:
        raise MrlError("there are no clips to embed", hint="pass one clip or more")
    if names is not None and len(names) != len(clips):
        raise ArgumentError(f"there are {len(names)} names of {len(clips)} clips")
    lengths = np.asarray([np.size(clip) for clip in clips], np.int32)
    size = int(lengths.max()) if size is None else size
    samples = np.zeros((len(clips), size), np.float32)
    for row, clip in enumerate(clips):
        name = f"clip {row}" if names is None else names[row]
        _check_clip(np.asarray(clip), config, size, name)
        samples[row, : lengths[row]] = normalize_clip(clip) if config.normalize_clips else clip
    return samples, lengths


@checked
def normalize_clip(clip: HostArray) -> HostArray:
    """Zero mean and unit variance over the whole clip, in float32; silence stays zero."""
    clip = np.asarray(clip, np.float32)
    return (clip - clip.mean()) / np.sqrt(clip.var() + np.float32(1e-7))


def _check_clip(clip: HostArray, config: SpeechTowerConfig, size: int, name: object) -> None:
    if clip.dtype.kind != "f":
        problem = f"the audio is of dtype {clip.dtype}, expected floats from -1 to 1"
        hint = "divide whole numbers by their range, 32768 for 16 bits"
    elif clip.ndim != 1:
        problem = f"the audio has shape {clip.shape}, expected one row of samples"
        hint = "mix the channels down to one"
    elif (bad := np.flatnonzero(~np.isfinite(clip))).size:
        problem = (
            f"{bad.size} of {clip.size} samples are NaN or infinite, the first at sample {bad[0]}"
        )
        hint = "decode the recording again, or leave it out"
    elif clip.size < config.min_samples:
        problem = (
            f"the audio has {clip.size} samples, shorter than one frame of {config.min_samples} "
            f"({1000 * config.min_samples / config.sample_rate:g} ms)"
        )
        hint = "leave the clip out, or join it to its neighbour"
    elif clip.size > size:
        problem = f"the audio has {clip.size} samples, more than the batch's {size}"
        hint = "cut the clip, or raise `size`"
    else:
        return
    raise MrlError(problem, where=name, hint=hint)
