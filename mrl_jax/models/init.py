"""Random weights of new towers."""

from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from mrl_jax.core.array_types import HostArray
from mrl_jax.models.ctc import CtcVocabulary, HubertCtc, abstract_hubert_ctc
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder, abstract_qwen3
from mrl_jax.nn import param_tree

Module = TypeVar("Module", bound=nnx.Module)


def initial_recogniser(config: HubertConfig, vocabulary: CtcVocabulary, seed: int) -> HubertCtc:
    """A recogniser whose kernels are normal with variance 1/inputs, biases 0, norms identities."""
    module = abstract_hubert_ctc(config, len(vocabulary.tokens), vocabulary=vocabulary)
    rng = np.random.default_rng(seed)

    def draw(path: str, shape: tuple[int, ...]) -> HostArray:
        *parts, leaf = path.split(".")
        if leaf in ("scale", "magnitude", "variance"):
            return np.ones(shape, np.float32)
        if leaf in ("bias", "mean"):
            return np.zeros(shape, np.float32)
        inputs = np.prod(shape["layers" in parts : -1])  # Stacked layers have an axis in front.
        return rng.standard_normal(shape, dtype=np.float32) / np.sqrt(inputs, dtype=np.float32)

    return _drawn(module, draw)


def filterbank_kernel(taps: int, channels: int, sample_rate: int) -> HostArray:
    """Windowed sinusoids at mel-spaced frequencies, each in four phases a quarter turn apart.

    After the activation, the four together give a frequency's strength whatever its phase.
    Higher frequencies are amplified, against the spectral tilt of speech; the mean norm is 1,
    that of random kernels.

    Returns:
        [taps, 1, channels] float32.
    """
    count = -(-channels // 4)
    low, high = 1127 * np.log1p(np.array([100, 0.475 * sample_rate]) / 700)
    mels = np.linspace(low, high, count)
    hertz = np.repeat(700 * np.expm1(mels / 1127), 4)[:channels]
    phases = np.tile(np.pi / 2 * np.arange(4), count)[:channels]
    seconds = (np.arange(taps) - taps / 2)[:, None] / sample_rate
    waves = np.cos(2 * np.pi * hertz * seconds + phases) * (hertz / 1000) ** 0.7
    waves *= np.hanning(taps + 1)[:-1, None]
    waves /= np.sqrt(np.square(waves).sum(axis=0).mean())
    return waves[:, None, :].astype(np.float32)


def start_as_filterbank(model: HubertCtc) -> HubertCtc:
    """Put `filterbank_kernel` into the first convolution, in place; returns `model`."""
    kernel = model.encoder.feature_encoder.blocks[0].conv.kernel
    rate = model.encoder.config.sample_rate
    kernel[...] = jnp.asarray(filterbank_kernel(kernel.shape[0], kernel.shape[2], rate))
    return model


def _drawn(module: Module, draw: Callable[[str, tuple[int, ...]], HostArray]) -> Module:
    """An abstract module with weights by `draw(path, shape)`.

    They are drawn in numpy: nnx's own way compiles for every shape, for seconds.
    """
    leaves = param_tree.flat_weights(module)
    return param_tree.fill(module, {path: draw(path, leaf.shape) for path, leaf in leaves.items()})


def initial_tower(config: Qwen3Config, seed: int) -> Qwen3Encoder:
    """A tower with kernels of variance 1/inputs, token embeddings of 0.02², identities as norms."""
    rng = np.random.default_rng(seed)

    def draw(path: str, shape: tuple[int, ...]) -> HostArray:
        if path.endswith(".scale"):
            return np.ones(shape, np.float32)
        inputs = 2500 if path.endswith(".embedding") else shape[-2]
        return rng.standard_normal(shape, dtype=np.float32) / np.sqrt(inputs, dtype=np.float32)

    return _drawn(abstract_qwen3(config), draw)
