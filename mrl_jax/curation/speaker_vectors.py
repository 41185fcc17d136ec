"""What a clip sounds like as one vector: statistics over time, which forget the words.

Mean and standard deviation of a tower's states, or without a tower of MFCCs. Early and middle
layers of speech towers hold the most of the speaker (Chen et al., 2022, WavLM, figure 2).
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from mrl_jax.checkpoints.towers import load_speech_tower
from mrl_jax.core.arguments import PositiveInt, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import require
from mrl_jax.inference.batching import FULL_BATCH, busy_places, embed_batches, padded_clips
from mrl_jax.inference.programs import compile_program
from mrl_jax.nn import param_tree
from mrl_jax.nn.pooling import mean_valid

COEFFICIENTS = 20
"""MFCCs beyond the first, which is the loudness."""


class StateStatistics:
    """Mean and standard deviation over time of each layer of a speech tower.

    Args:
        folder: of the tower.
        batch_size: clips in a batch.

    Raises:
        MrlError: no speech tower.
    """

    def __init__(self, folder: str | Path, *, batch_size: int = 16):
        tower: Any = load_speech_tower(folder)
        self.config = tower.config
        self.sample_rate: int = tower.config.sample_rate
        self.min_samples: int = tower.config.min_samples
        self.num_layers: int = tower.config.num_layers
        self._batch_size = batch_size
        self._padding = tower.padding
        self._pad = functools.partial(padded_clips, config=tower.config, padding=tower.padding)
        split = param_tree.split(tower)
        self._arrays = split.trained, split.frozen
        self._program = compile_program(split.rebuild, _layer_statistics)

    def layers(self, clips: Sequence[HostArray]) -> Float32[HostArray, "N Y W"]:
        """Of every layer: means and then standard deviations, W = 2 D."""
        return embed_batches(
            [len(clip) for clip in clips],
            lambda rows: self._pad([clips[i] for i in rows]),
            functools.partial(self._program, *self._arrays),
            batch_size=max(1, min(self._batch_size, len(clips))),
            full_length=FULL_BATCH,
            busy=busy_places("clips", self._padding),
            shrink_last=True,
        )

    def of_layer(self, layer: PositiveInt) -> Callable[[Sequence[HostArray]], HostArray]:
        """The statistics of one layer, counted from 1.

        Raises:
            MrlError: the tower has fewer.
        """
        if layer > self.num_layers:
            problem = f"layer is {layer}, and the tower has {self.num_layers}"
            raise MrlError(problem, hint=f"choose from 1 to {self.num_layers}")
        return lambda clips: self.layers(clips)[:, layer - 1]


def _layer_statistics(tower: Any, samples: Any, lengths: Any) -> Any:
    output = tower(samples, lengths)
    states = jnp.moveaxis(output.layer_states.astype(jnp.float32), 0, 1)
    mask = output.frame_mask[:, None]
    mean = mean_valid(states, mask)
    spread = mean_valid(jnp.square(states - mean[:, :, None]), mask)
    return jnp.concatenate((mean, jnp.sqrt(spread)), axis=-1)


@checked
def mfcc_statistics(
    clips: Sequence[HostArray], sample_rate: PositiveInt
) -> Float32[HostArray, "N W"]:
    """Mean and standard deviation over time of MFCCs and of their change; W = 80.

    Args:
        clips: [S] each, longer than 25 ms.
        sample_rate: samples a second.
    """
    require("librosa", by="comparing voices without a tower")
    import librosa

    rows = []
    for clip in clips:
        coefficients = librosa.feature.mfcc(
            y=clip.astype(np.float32),
            sr=sample_rate,
            n_mfcc=COEFFICIENTS + 1,
            n_fft=sample_rate // 40,
            hop_length=sample_rate // 100,
            n_mels=40,
        )[1:]
        change = np.diff(coefficients, axis=1, prepend=coefficients[:, :1])
        both = np.concatenate((coefficients, change))
        rows.append(np.concatenate((both.mean(axis=1), both.std(axis=1))))
    return np.asarray(rows, np.float32).reshape(len(clips), 4 * COEFFICIENTS)
