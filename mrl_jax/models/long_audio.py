"""A speech encoder over long clips, in blocks of frames, so that memory grows with their length.

The same modules compute the same states as for short clips, but for rounding: the convolutions run
over overlapping stretches of samples, a group norm over time gets its statistics in a pass of its
own, attention is in blocks (`nn.block_attention`), and all that looks at one frame alone runs
block by block. States are [J, B, F, D] inside: J blocks of F frames.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int

from mrl_jax.models.position_conv import reach
from mrl_jax.nn.activations import gelu
from mrl_jax.nn.attention import attend_fused, fused
from mrl_jax.nn.block_attention import BLOCK, DistanceBias, attend_to, key_blocks, zero_beyond
from mrl_jax.nn.norms import TimeGroupNorm

Blocks = Float[Array, "J B F D"]
Lengths = Int[Array, " B"]


def map_blocks(
    run: Callable[[Int[Array, ""], Any], Any], blocks: Any, lengths: Lengths, size: int
) -> Any:
    """`run(first, block)` for every block; zeros where all rows are over by its first frame.

    Args:
        run: from the number of a block's first frame and the block to a pytree of arrays.
        blocks: a pytree of arrays [J, ...].
        lengths: frames of each row.
        size: frames in a block, F.
    """
    longest = jnp.max(lengths)

    def one(numbered: tuple[Any, Any]) -> Any:
        number, block = numbered
        shapes = jax.eval_shape(run, number, block)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        first = number * size
        return lax.cond(first < longest, lambda block: run(first, block), lambda _: zeros, block)

    count = len(jax.tree.leaves(blocks)[0])
    return lax.map(one, (jnp.arange(count), blocks))


def features_in_blocks(
    encoder: Any,
    samples: Float[Array, "B S"],
    sample_lengths: Lengths | None,
    frame_lengths: Lengths,
    size: int = BLOCK,
) -> Blocks:
    """The feature convolutions and the projection behind them, zeros beyond each row's frames.

    Args:
        encoder: a `HubertEncoder`.
        samples: the clips.
        sample_lengths: samples of each that the group norm counts; None for all.
        frame_lengths: frames of each.
        size: frames in a block.
    """
    config = encoder.config
    count = -(-config.frame_count(samples.shape[1]) // size)
    hop, stretch = config.frame_samples, (size - 1) * config.frame_samples + config.min_samples
    needed = (count - 1) * size * hop + stretch
    padded = jnp.pad(samples, ((0, 0), (0, max(0, needed - samples.shape[1]))))
    statistics = None
    if config.feature_norm == "group":
        statistics = group_statistics(encoder, samples, sample_lengths, size)

    def run(first: Int[Array, ""], _: Any) -> Float[Array, "B F D"]:
        part = lax.dynamic_slice_in_dim(padded, first * hop, stretch, axis=1)
        x = part[:, :, None]
        for index, block in enumerate(encoder.feature_encoder.blocks):
            x = block(x, None, statistics if index == 0 else None)
        if encoder.projection_norm is not None:
            x = encoder.projection_norm(x)
        return zero_beyond(encoder.projection(x), frame_lengths, first)

    return map_blocks(run, jnp.zeros((count, 1)), frame_lengths, size)


def group_statistics(
    encoder: Any, samples: Float[Array, "B S"], lengths: Lengths | None, size: int
) -> tuple[Float32[Array, "B 1 C"], Float32[Array, "B 1 C"]]:
    """Mean and variance over time of the first convolution's outputs, read in stretches.

    Those of the stretches are joined as by Chan, Golub and LeVeque, 1979: every variance is
    taken around its own mean.
    """
    config, block = encoder.config, encoder.feature_encoder.blocks[0]
    kernel, stride = config.conv_kernels[0], config.conv_strides[0]
    assert isinstance(block.norm, TimeGroupNorm)
    total = (samples.shape[1] - kernel) // stride + 1
    if lengths is None:
        valid = jnp.full(len(samples), total, jnp.int32)
    else:
        valid = (lengths - kernel) // stride + 1
    size = size * config.frame_samples // stride
    count = -(-total // size)
    stretch = (size - 1) * stride + kernel
    needed = (count - 1) * size * stride + stretch
    padded = jnp.pad(samples, ((0, 0), (0, max(0, needed - samples.shape[1]))))

    def join(carry: tuple[Any, Any, Any], number: Int[Array, ""]) -> tuple[Any, None]:
        seen, mean, squares = carry
        first = number * size
        part = lax.dynamic_slice_in_dim(padded, first * stride, stretch, axis=1)
        x = block.conv(part[:, :, None]).astype(jnp.float32)
        weight = (jnp.arange(size)[None, :] + first < valid[:, None]).astype(jnp.float32)
        new = jnp.sum(weight, axis=1)[:, None, None]
        weight = weight[:, :, None]
        own_mean = jnp.sum(x * weight, axis=1, keepdims=True) / jnp.maximum(new, 1.0)
        own_squares = jnp.sum(jnp.square(x - own_mean) * weight, axis=1, keepdims=True)
        both = jnp.maximum(seen + new, 1.0)
        apart = own_mean - mean
        mean = mean + apart * (new / both)
        squares = squares + own_squares + jnp.square(apart) * (seen * (new / both))
        return (seen + new, mean, squares), None

    join = jax.checkpoint(join, prevent_cse=False)
    zeros = jnp.zeros((len(samples), 1, config.conv_channels[0]), jnp.float32)
    start = (zeros[:, :, :1], zeros, zeros)
    (seen, mean, squares), _ = lax.scan(join, start, jnp.arange(count))
    return mean, squares / jnp.maximum(seen, 1.0)


def add_positions(encoder: Any, x: Blocks, lengths: Lengths) -> Blocks:
    """States with what the convolution over their neighbours adds, normed in post-norm variants."""
    J, size = x.shape[0], x.shape[2]
    before, behind = reach(encoder.config.position_kernel)
    # One block behind and one before hold all neighbours, or there are blocks of more frames.
    assert max(before, behind) <= size
    options = {"axis": 0, "keepdims": False}

    def normed(first: Int[Array, ""], states: Float[Array, "B F D"]) -> Float[Array, "B F D"]:
        if encoder.position_norm is None:
            return states
        return zero_beyond(encoder.position_norm(states), lengths, first)

    def run(first: Int[Array, ""], states: Float[Array, "B F D"]) -> Float[Array, "B F D"]:
        number = first // size
        left, right = (
            normed(first + step * size, lax.dynamic_index_in_dim(x, number + step, **options))
            for step in (-1, 1)
        )
        # An index outside of the blocks gives the first or the last one.
        left = jnp.where(number > 0, left, jnp.zeros_like(left))[:, size - before :]
        right = jnp.where(number < J - 1, right, jnp.zeros_like(right))[:, :behind]
        around = jnp.concatenate((left, normed(first, states), right), axis=1)
        placed = states + gelu(encoder.position_conv(around, edges=True))
        if not encoder.config.pre_norm:
            placed = encoder.encoder_norm(placed)
        return zero_beyond(placed, lengths, first)

    return map_blocks(jax.checkpoint(run, prevent_cse=False), x, lengths, size)


def layer_in_blocks(
    layer: Any, x: Blocks, lengths: Lengths, by_distance: Float32[Array, "N distances"] | None
) -> Blocks:
    """A `HubertLayer`, zeros beyond each row's frames.

    Args:
        layer: the layer.
        x: its input.
        lengths: frames of each row.
        by_distance: the bias of WavLM's attention for each distance of two frames.
    """
    attention, size = layer.attention, x.shape[2]

    def heads(states: Float[Array, "B F D"]) -> Float[Array, "B F N H"]:
        return states.reshape(*states.shape[:2], attention.num_heads, -1)

    def keys(first: Int[Array, ""], states: Float[Array, "B F D"]) -> Any:
        read = layer.before_attention(states)
        return heads(attention.k_proj(read)), heads(attention.v_proj(read))

    read_keys, read_values = map_blocks(keys, x, lengths, size)
    blocks = key_blocks(read_keys, read_values, lengths)

    def run(first: Int[Array, ""], states: Float[Array, "B F D"]) -> Float[Array, "B F D"]:
        read = layer.before_attention(states)
        gates = attention.gates(read)
        bias = None
        if gates is not None and by_distance is not None:
            bias = DistanceBias(gates, by_distance)
        mixed = attend_to(heads(attention.q_proj(read)), blocks, first=first, bias=bias)
        mixed = attention.out_proj(mixed.reshape(states.shape))
        return zero_beyond(layer.after_attention(states, mixed), lengths, first)

    return map_blocks(run, x, lengths, size)


def layer_with_fused_attention(
    layer: Any, x: Blocks, lengths: Lengths, by_distance: Float32[Array, "N distances"] | None
) -> Blocks:
    """`layer_in_blocks` whose attention is cuDNN's, which keeps no scores of a whole clip."""
    attention, (J, B, F, _) = layer.attention, x.shape

    def project(first: Int[Array, ""], states: Float[Array, "B F D"]) -> Any:
        read = layer.before_attention(states)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        return tuple(one(read).reshape(B, F, attention.num_heads, -1) for one in projections)

    whole = (
        jnp.moveaxis(one, 0, 1).reshape(B, J * F, *one.shape[3:])
        for one in map_blocks(project, x, lengths, F)
    )
    mixed = attend_fused(*whole, lengths=jnp.maximum(lengths, 1))
    mixed = jnp.moveaxis(mixed.reshape(B, J, F, -1), 1, 0)

    def run(first: Int[Array, ""], both: Any) -> Float[Array, "B F D"]:
        states, mixed = both
        after = layer.after_attention(states, attention.out_proj(mixed))
        return zero_beyond(after, lengths, first)

    return map_blocks(run, (x, mixed), lengths, F)


def layer_call(encoder: Any, by_distance: Any) -> Callable[..., Blocks]:
    """How a layer of this encoder runs over blocks: by fused attention where that applies."""
    head = encoder.config.width // encoder.config.num_heads
    query = jnp.zeros((1, 1, encoder.config.num_heads, head), encoder.dtype)
    return layer_with_fused_attention if by_distance is None and fused(query) else layer_in_blocks
