"""Sizes and variants of a HuBERT encoder: the published base, large and xlarge models.

Sources: as in `models.hubert`.
"""

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp

from mrl_jax.core.arguments import Size, checked
from mrl_jax.core.checks import check_positive
from mrl_jax.core.errors import ArgumentError
from mrl_jax.models.speech_tower import Count

MOST_CONVOLUTIONS = 64
"""Each of them is a module of its own; the published models have seven."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class HubertConfig:
    """Sizes and variants of a HuBERT encoder. The presets are the published checkpoints'.

    Attributes:
        width, num_layers, num_heads, mlp_width: sizes of the transformer.
        norm_epsilon: of all norms.
        conv_channels, conv_kernels, conv_strides: one entry for each feature convolution.
        feature_norm: "group": a norm over time after the first convolution only (base);
            "layer": a layer norm after every convolution (large, xlarge).
        conv_bias: whether the feature convolutions have a bias.
        projection_norm: whether features are layer-normed before their projection.
        pre_norm: norms before attention and MLP, and one after the last layer (large,
            xlarge), instead of after each (base).
        position_kernel: taps of the convolution that stands for a position embedding.
        position_groups: groups of its channels.
        position_norm: "weight": its kernel is weight-normed (nearly all); "batch": batch norm
            of what it reads (mHuBERT-147).
        adapter_width: inner width of the language adapter behind each layer (MMS), which only
            pre-norm variants have; None without adapters.
        normalize_clips: whether clips are scaled to zero mean and unit variance first.
        sample_rate: samples a second that the encoder was trained on.
    """

    width: Size
    num_layers: Size
    num_heads: Size
    mlp_width: Size
    norm_epsilon: float = 1e-5
    conv_channels: tuple[Size, ...] = (512,) * 7
    conv_kernels: tuple[Size, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[Size, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    feature_norm: Literal["group", "layer"] = "group"
    projection_norm: bool = True
    pre_norm: bool = False
    position_kernel: Size = 128
    position_groups: Size = 16
    position_norm: Literal["weight", "batch"] = "weight"
    adapter_width: Size | None = None
    normalize_clips: bool = True
    sample_rate: Size = 16_000

    def __post_init__(self) -> None:
        check_positive(self, "norm_epsilon")
        if len(self.conv_channels) > MOST_CONVOLUTIONS:
            raise ValueError(f"{len(self.conv_channels)} convolutions")
        if not len(self.conv_channels) == len(self.conv_kernels) == len(self.conv_strides) > 0:
            raise ArgumentError(
                "conv_channels, conv_kernels and conv_strides must have one entry a "
                f"convolution each; got {len(self.conv_channels)}, {len(self.conv_kernels)} "
                f"and {len(self.conv_strides)}"
            )
        for name in ("num_heads", "position_groups"):
            if self.width % (parts := getattr(self, name)):
                problem = f"width is {self.width}, expected a multiple of {name}, {parts}"
                raise ArgumentError(problem)
        for name, allowed in (("feature_norm", "group layer"), ("position_norm", "weight batch")):
            if (value := getattr(self, name)) not in allowed.split():
                expected = " or ".join(map(repr, allowed.split()))
                raise ArgumentError(f"{name} is {value!r}, expected {expected}")
        if self.adapter_width is not None and not self.pre_norm:
            raise ArgumentError("adapter_width is set, and only pre-norm variants have adapters")

    @classmethod
    def base(cls) -> "HubertConfig":
        """HuBERT-base (95 M parameters)."""
        return cls(width=768, num_layers=12, num_heads=12, mlp_width=3072)

    @classmethod
    def large(cls) -> "HubertConfig":
        """HuBERT-large (316 M parameters)."""
        return cls(
            width=1024,
            num_layers=24,
            num_heads=16,
            mlp_width=4096,
            conv_bias=True,
            feature_norm="layer",
            pre_norm=True,
        )

    @classmethod
    def xlarge(cls) -> "HubertConfig":
        """HuBERT-xlarge (963 M parameters)."""
        return dataclasses.replace(cls.large(), width=1280, num_layers=48, mlp_width=5120)

    def frame_count(self, samples: Count) -> Count:
        """Frames that `samples` samples give: floor((n − k) / s) + 1 over the convolutions.

        Works on a number and, elementwise, on an array. Too few samples give 0.
        """
        frames = samples
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            frames = (frames - kernel) // stride + 1
        if isinstance(frames, int):
            return max(frames, 0)
        return jnp.maximum(frames, 0)

    @property
    def frame_samples(self) -> int:
        """Samples from one frame to the next (320 in the published models)."""
        return math.prod(self.conv_strides)

    @property
    def min_samples(self) -> int:
        """The fewest samples that give a frame (400 in the published models)."""
        samples = 1
        for kernel, stride in list(zip(self.conv_kernels, self.conv_strides, strict=True))[::-1]:
            samples = (samples - 1) * stride + kernel
        return samples
