"""The late-fusion head: speech frames to vectors that stand in for token embeddings.

Source: arXiv 2602.19991, section 3: all layers of the speech tower side by side, one
linear layer, one convolution that halves the frame rate.
"""

import jax.numpy as jnp
from flax import nnx

from mrl_jax.array_types import Array, Float, Float32

KERNEL = STRIDE = 2
"""Frames to one speech token: 50 frames a second become 25 tokens."""


class FusionHead(nnx.Module):
    """Maps layer states [Y, B, T, D] to speech tokens [B, T // 2, width], in float32.

    Args:
        num_layers: layers of the speech tower, Y.
        speech_width: width of the speech tower, D.
        text_width: width of the text tower.
        rngs: source of the initial weights; the stream `params` is read.
    """

    def __init__(self, num_layers: int, speech_width: int, text_width: int, *, rngs: nnx.Rngs):
        self.frame_projection = nnx.Linear(
            num_layers * speech_width, text_width, use_bias=False, rngs=rngs
        )
        self.frame_downsample = nnx.Conv(
            text_width,
            text_width,
            kernel_size=(KERNEL,),
            strides=(STRIDE,),
            padding="VALID",
            rngs=rngs,
        )

    def __call__(self, layer_states: Float[Array, "Y B T D"]) -> Float32[Array, "B U E"]:
        states = jnp.moveaxis(layer_states.astype(jnp.float32), 0, 2)
        frames = self.frame_projection(states.reshape(*states.shape[:2], -1))
        return self.frame_downsample(frames)
