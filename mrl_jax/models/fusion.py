"""The late-fusion head: speech frames to vectors that stand in for token embeddings.

Source: arXiv 2602.19991, section 3: all layers of the speech tower side by side, one
linear layer, one convolution that halves the frame rate.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from mrl_jax.array_types import Array, Bool, Float, Float32, HostArray
from mrl_jax.models.two_towers import Calibration, Head, layer_scales

KERNEL = STRIDE = 2
"""Frames to one speech token: 50 frames a second become 25 tokens."""


class FusionHead(Head):
    """Maps layer states [Y, B, T, D] to speech tokens [B, T // 2, width], in float32.

    Layer states and token embeddings may differ a thousandfold in size. A text tower that
    is fed speech tokens far larger than its own embeddings passes them on unread, and
    weights small enough to bridge the gap would be lost in the first steps of Adam. So
    two fixed factors bridge it while training (`calibrate`), and are multiplied into the
    weights afterwards (`fold`): the architecture stays the published one.

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
        self.layer_scale = Calibration(jnp.ones(num_layers, jnp.float32))
        self.token_scale = Calibration(jnp.ones((), jnp.float32))

    def __call__(self, layer_states: Float[Array, "Y B T D"]) -> Float32[Array, "B U E"]:
        scale = self.layer_scale[...][:, None, None, None]
        states = jnp.moveaxis(layer_states.astype(jnp.float32) * scale, 0, 2)
        frames = self.frame_projection(states.reshape(*states.shape[:2], -1))
        return self.frame_downsample(frames) * self.token_scale[...]

    def calibrate(
        self,
        layer_states: Float[Array, "Y B T D"],
        frame_mask: Bool[Array, "B T"],
        token_size: Float32[Array, ""],
    ) -> None:
        """Choose the factors: states of mean square 1 go in, tokens of `token_size` come out.

        Args:
            layer_states: of some clips.
            frame_mask: their valid frames.
            token_size: root mean square of the text tower's token embeddings.
        """
        self.layer_scale[...] = layer_scales(layer_states, frame_mask)
        self.token_scale[...] = jnp.ones((), jnp.float32)
        # Each of the new weights' layers keeps the mean square of what goes in, about.
        tokens = self(layer_states)
        pairs = frame_mask[:, : KERNEL * tokens.shape[1]].reshape(*tokens.shape[:2], KERNEL)
        heard = jnp.all(pairs, axis=-1)[:, :, None].astype(jnp.float32)
        number = jnp.maximum(jnp.sum(heard), 1.0) * tokens.shape[-1]
        size = jnp.sqrt(jnp.sum(jnp.square(tokens) * heard) / number)
        self.token_scale[...] = token_size / jnp.maximum(size, 1e-12)

    def start(
        self,
        weights: Float[HostArray, "F E"],
        bias: Float[HostArray, " E"],
        rest: Float[HostArray, " E"],
    ) -> None:
        """Choose the weights: a token is `rest`, and what each of its frames adds to it.

        Args:
            weights, bias: from the scaled states of a frame, side by side, to what it adds.
            rest: the token in which nothing is said.
        """
        size = float(np.asarray(self.token_scale[...]))
        both = np.broadcast_to(np.eye(len(rest)) / size, (KERNEL, len(rest), len(rest)))
        self.frame_projection.kernel[...] = jnp.asarray(weights, jnp.float32)
        self.frame_downsample.kernel[...] = jnp.asarray(both, jnp.float32)
        assert self.frame_downsample.bias is not None
        self.frame_downsample.bias[...] = jnp.asarray((rest + KERNEL * bias) / size, jnp.float32)

    def fold(self) -> dict[str, HostArray]:
        """The weights with the factors multiplied in, by path."""
        layer_scale, token_scale = (
            np.asarray(x[...]) for x in (self.layer_scale, self.token_scale)
        )
        kernel = np.asarray(self.frame_projection.kernel[...])
        rows = np.repeat(layer_scale, kernel.shape[0] // len(layer_scale))
        downsample = self.frame_downsample
        assert downsample.bias is not None
        return {
            "frame_projection.kernel": kernel * rows[:, None],
            "frame_downsample.kernel": np.asarray(downsample.kernel[...]) * token_scale,
            "frame_downsample.bias": np.asarray(downsample.bias[...]) * token_scale,
        }
