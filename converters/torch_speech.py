"""A speech tower of transformers in PyTorch, whose results no padding changes.

This file is written into exported folders. It reads HubertModel, Wav2Vec2Model, UniSpeechSatModel
and WavLMModel by the modules that hold their weights, whose names the published checkpoints fix.
The pass over them is written out, because transformers' own counts padding in the group norm of
base models, and gives the layers' states in another form in each version.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

MASKED = -1e30
"""Added to the score of a hidden key: far below any score, and still finite."""


def speech_states(
    tower: Any, samples: Tensor, lengths: Tensor | None
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The states of a padded batch of clips.

    Args:
        tower: of transformers.
        samples: [B, S] float32, each clip normalised alone, then padded.
        lengths: [B], samples of each; None reads padding as speech.

    Returns:
        the output of every layer, each [B, T, D]; the mask [B, T], True at frames of speech; and
        the output of the encoder [B, T, D]. Padded frames are zero.
    """
    config, encoder = tower.config, tower.encoder
    x = _features(tower, samples, lengths)
    place = torch.arange(x.shape[1], device=x.device)
    mask = torch.ones_like(x[:, :, 0], dtype=torch.bool)
    if lengths is not None:
        mask = place[None, :] < frame_counts(config, lengths)[:, None]

    def zero_padding(states: Tensor) -> Tensor:
        return torch.where(mask[:, :, None], states, torch.zeros_like(states))

    x = zero_padding(x)
    positions = encoder.pos_conv_embed
    placed = x.transpose(1, 2)
    if getattr(positions, "batch_norm", None) is not None:
        placed = zero_padding(positions.batch_norm(placed).transpose(1, 2)).transpose(1, 2)
    # An even kernel gives one frame too many: the published models drop the last.
    moved = positions.conv(placed)[:, :, : x.shape[1]].transpose(1, 2)
    x = x + functional.gelu(moved)
    pre_norm = bool(config.do_stable_layer_norm)
    if not pre_norm:
        x = encoder.layer_norm(x)
    hidden = torch.where(mask, 0.0, MASKED)[:, None, None, :]
    bias = _position_bias(encoder.layers[0].attention, place)
    states = []
    for layer in encoder.layers:
        x = _layer(layer, x, hidden, bias, pre_norm=pre_norm)
        states.append(zero_padding(x))
    last = encoder.layer_norm(x) if pre_norm else x
    return states, mask, zero_padding(last)


def frame_counts(config: Any, lengths: Tensor) -> Tensor:
    """Frames that so many samples give."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
    return lengths.clamp(min=0)


def normalize_clips(samples: Tensor, lengths: Tensor) -> Tensor:
    """Zero mean and unit variance of each clip [B, S] over its own samples; zeros behind them."""
    mask = torch.arange(samples.shape[1], device=samples.device)[None, :] < lengths[:, None]
    weight, count = mask.to(samples.dtype), lengths.clamp(min=1)[:, None].to(samples.dtype)
    centred = samples - (samples * weight).sum(1, keepdim=True) / count
    variance = (centred.square() * weight).sum(1, keepdim=True) / count
    return centred / torch.sqrt(variance + 1e-7) * weight


def _features(tower: Any, samples: Tensor, lengths: Tensor | None) -> Tensor:
    """The feature convolutions and the projection behind them, [B, T, D]."""
    config, x = tower.config, samples[:, None, :]
    for layer in tower.feature_extractor.conv_layers:
        x, norm = layer.conv(x), getattr(layer, "layer_norm", None)
        if isinstance(norm, torch.nn.GroupNorm):
            x = norm(x) if lengths is None else _group_norm(norm, x, lengths, config)
        elif norm is not None:
            x = norm(x.transpose(1, 2)).transpose(1, 2)
        x = functional.gelu(x)
    x, projection = x.transpose(1, 2), tower.feature_projection
    if getattr(projection, "layer_norm", None) is not None:
        x = projection.layer_norm(x)
    return projection.projection(x)


def _group_norm(norm: Any, x: Tensor, lengths: Tensor, config: Any) -> Tensor:
    """A norm of each channel over the frames [B, C, T] of a clip, without those of padding."""
    kernel, stride = config.conv_kernel[0], config.conv_stride[0]
    frames = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
    valid = torch.arange(x.shape[2], device=x.device)[None, :] < frames[:, None]
    weight, count = valid[:, None, :].to(x.dtype), frames.clamp(min=1)[:, None, None].to(x.dtype)
    mean = (x * weight).sum(2, keepdim=True) / count
    variance = ((x - mean).square() * weight).sum(2, keepdim=True) / count
    normed = (x - mean) * torch.rsqrt(variance + norm.eps)
    return normed * norm.weight[None, :, None] + norm.bias[None, :, None]


def _layer(layer: Any, x: Tensor, hidden: Tensor, bias: Tensor | None, *, pre_norm: bool) -> Tensor:
    if pre_norm:
        x = x + _attention(layer.attention, layer.layer_norm(x), hidden, bias)
        x = x + _feed_forward(layer.feed_forward, layer.final_layer_norm(x))
        adapter = getattr(layer, "adapter_layer", None)
        return x if adapter is None else x + adapter(x)
    x = layer.layer_norm(x + _attention(layer.attention, x, hidden, bias))
    return layer.final_layer_norm(x + _feed_forward(layer.feed_forward, x))


def _feed_forward(feed_forward: Any, x: Tensor) -> Tensor:
    return feed_forward.output_dense(functional.gelu(feed_forward.intermediate_dense(x)))


def _attention(attention: Any, x: Tensor, hidden: Tensor, bias: Tensor | None) -> Tensor:
    """Self-attention [B, T, D] with a mask that is added, and in WavLM a gated bias."""
    count = attention.num_heads

    def heads(states: Tensor) -> Tensor:
        return states.unflatten(2, (count, -1)).transpose(1, 2)

    query, key, value = (
        heads(projection(x))
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    if bias is not None:
        drawn = attention.gru_rel_pos_linear(heads(x)).unflatten(3, (2, 4)).sum(-1)
        update, reset = torch.sigmoid(drawn).chunk(2, dim=-1)
        gate = update * (reset * attention.gru_rel_pos_const - 1.0) + 2.0
        hidden = hidden + gate * bias[None]
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=hidden)
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


def _position_bias(attention: Any, place: Tensor) -> Tensor | None:
    """WavLM's bias [heads, T, T] by the distance of two frames; None in other models."""
    table = getattr(attention, "rel_attn_embed", None)
    if table is None:
        return None
    distance = place[None, :] - place[:, None]
    half = attention.num_buckets // 2
    near, far = half // 2, distance.abs()
    scale = math.log(attention.max_distance / near)
    grown = torch.log(far.clamp(min=1).float() / near) / scale * (half - near)
    shared = (near + grown.to(torch.long)).clamp(max=half - 1)
    bucket = torch.where(far < near, far, shared) + (distance > 0).to(torch.long) * half
    return table(bucket).permute(2, 0, 1)
