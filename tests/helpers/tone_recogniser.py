"""A recogniser that knows the tones of `tiny_run`: a random tower whose output layer is fitted."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import soundfile
import tiny_run
from flax import nnx

from mrl_jax.checkpoints.new_towers import save_speech_tower
from mrl_jax.checkpoints.towers import load_hubert_ctc
from mrl_jax.demo.towers import speech_config
from mrl_jax.models.ctc import CtcVocabulary, HubertCtc
from mrl_jax.models.init import initial_recogniser
from mrl_jax.models.inputs import pad_clips
from mrl_jax.nn import param_tree

RATE = tiny_run.RATE
TONE, PAUSE = 0.16, 0.14
"""Seconds of a word, and behind it."""


def tones(words: Sequence[int], seed: int = 0) -> np.ndarray:
    """Tones with a weaker one of its own pitch before, between and behind them."""
    rng = np.random.default_rng(seed)

    def tone(number: int, level: float, seconds: float) -> np.ndarray:
        time = np.arange(round(RATE * seconds)) / RATE
        phase = rng.uniform(0.0, 2 * np.pi)
        return level * np.sin(2 * np.pi * (300 + 250 * number) * time + phase)

    pause = len(tiny_run.WORDS)
    parts = [tone(pause, 0.1, PAUSE)]
    for word in words:
        parts += [tone(word, 0.3, TONE), tone(pause, 0.1, PAUSE)]
    clip = np.concatenate(parts)
    return (clip + 0.003 * rng.standard_normal(len(clip))).astype(np.float32)


def spans(count: int) -> np.ndarray:
    """Seconds [count, 2] of each tone of a clip."""
    starts = PAUSE + (TONE + PAUSE) * np.arange(count)
    return np.stack((starts, starts + TONE), axis=1)


def make_recogniser(folder: Path) -> Path:
    """Fit the output layer by least squares to frames whose tone is known."""
    vocabulary = CtcVocabulary(
        ("<pad>", *(f"{word} " for word in tiny_run.WORDS)), word_delimiter=None
    )
    config = dataclasses.replace(
        speech_config(width=96, num_layers=1), conv_channels=(96,) * 3, position_groups=4
    )
    recogniser = initial_recogniser(config, vocabulary, 1)
    # Without attention and positions every frame is what is heard there.
    for path, leaf in param_tree.flat_weights(recogniser.encoder).items():
        layer = path.startswith("layers.") and "norm" not in path
        if layer or path == "position_conv.magnitude":
            leaf.set_value(jnp.zeros_like(leaf.get_value()))
    words = [np.random.default_rng(seed).permutation(5).tolist() for seed in range(60)]
    clips = [tones(one, seed) for seed, one in enumerate(words)]
    hidden = recogniser.encoder(*pad_clips(clips, config, size=len(clips[0]))).last_hidden
    table = np.asarray(hidden, np.float64)
    seconds = (np.arange(table.shape[1]) * config.frame_samples + config.min_samples / 2) / RATE
    targets = np.zeros(table.shape[:2], np.int64)
    for row, one in enumerate(words):
        for word, (start, end) in zip(one, spans(5), strict=True):
            targets[row, (seconds >= start) & (seconds < end)] = 1 + word
    table = np.concatenate((table, np.ones((*table.shape[:2], 1))), axis=-1).reshape(-1, 97)
    gram = table.T @ table + 1e-2 * np.eye(97)
    weights = 5 * np.linalg.solve(gram, table.T @ np.eye(6)[targets.ravel()])
    recogniser.lm_head.kernel = nnx.Param(jnp.asarray(weights[:-1], jnp.float32))
    recogniser.lm_head.bias = nnx.Param(jnp.asarray(weights[-1], jnp.float32))
    save_speech_tower(folder, recogniser)
    return folder


def write_clip(path: Path, words: Sequence[int], seed: int = 0) -> str:
    soundfile.write(path, tones(words, seed), RATE)
    return str(path)


def loaded(folder: Path) -> HubertCtc:
    return load_hubert_ctc(folder)
