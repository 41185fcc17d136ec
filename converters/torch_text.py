"""A Qwen3 text tower of transformers in PyTorch: token ids or vectors in, unit vectors out.

This file is written into exported folders. It reads Qwen3Model by the modules that hold its
weights, whose names the published checkpoints fix; padding may stand anywhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

MASKED = -1e30
"""Added to the score of a hidden key: far below any score, and still finite."""

ACTIVATIONS = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
}


def embed_places(
    tower: Any,
    sizes: Mapping[str, Any],
    vectors: Tensor,
    mask: Tensor,
    *,
    dense: Sequence[tuple[Tensor, Tensor | None]] = (),
    changes: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Unit-length embeddings [B, E] of rows of vectors.

    Args:
        tower: of transformers.
        sizes: "head_width", "rope_theta", "causal", "pooling" and "activations".
        vectors: [B, L, D], token embeddings or what stands in for them.
        mask: [B, L], True at valid places.
        dense: weight and bias of each layer behind the pooling.
        changes: low-rank changes of the attention's projections, see `_project`.
    """
    last = _last_hidden(tower, sizes, vectors, mask, changes or {})
    pooled = _pool(sizes["pooling"], last, mask)
    for (weight, bias), name in zip(dense, sizes["activations"], strict=True):
        pooled = ACTIVATIONS[name](functional.linear(pooled, weight, bias))
    return unit_length(pooled)


def unit_length(vectors: Tensor) -> Tensor:
    """Each row at unit length; a row of zeros stays one."""
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True).clamp(min=1e-24))


def _pool(how: str, vectors: Tensor, mask: Tensor) -> Tensor:
    """One vector a row: at its "last" or first ("cls") valid place, or their "mean"."""
    if how == "mean":
        total = torch.where(mask[:, :, None], vectors, torch.zeros_like(vectors)).sum(1)
        return total / mask.sum(1, keepdim=True).clamp(min=1)
    place = torch.arange(mask.shape[1], device=mask.device)[None, :]
    if how == "last":
        chosen = torch.where(mask, place, 0).amax(1)
    else:
        chosen = torch.where(mask, place, mask.shape[1] - 1).amin(1)
    index = chosen[:, None, None].expand(-1, 1, vectors.shape[2])
    return vectors.gather(1, index)[:, 0]


def _last_hidden(
    tower: Any, sizes: Mapping[str, Any], x: Tensor, mask: Tensor, changes: Mapping[str, Tensor]
) -> Tensor:
    """Vectors [B, L, D] after the final norm; those at padding are unspecified."""
    place = torch.arange(mask.shape[1], device=mask.device)
    allowed = mask[:, None, None, :]
    if sizes["causal"]:
        allowed = allowed & (place[None, :] <= place[:, None])[None, None]
    hidden = torch.where(allowed, 0.0, MASKED)
    position = (mask.to(torch.long).cumsum(1) - 1).clamp(min=0).float()
    width = sizes["head_width"]
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=mask.device) / width
    angles = position[:, :, None] * (1.0 / sizes["rope_theta"] ** exponents)[None, None, :]
    rotation = torch.cos(angles)[:, None], torch.sin(angles)[:, None]
    for number, layer in enumerate(tower.layers):
        own = {name: change[number] for name, change in changes.items()}
        normed = layer.input_layernorm(x)
        x = x + _attention(layer.self_attn, normed, hidden, rotation, width, own)
        normed, mlp = layer.post_attention_layernorm(x), layer.mlp
        x = x + mlp.down_proj(functional.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed))
    return tower.norm(x)


def _attention(
    attention: Any,
    x: Tensor,
    hidden: Tensor,
    rotation: tuple[Tensor, Tensor],
    width: int,
    changes: Mapping[str, Tensor],
) -> Tensor:
    def heads(name: str) -> Tensor:
        return _project(attention, name, x, changes).unflatten(2, (-1, width))

    query = _rotate(attention.q_norm(heads("q_proj")).transpose(1, 2), *rotation)
    key = _rotate(attention.k_norm(heads("k_proj")).transpose(1, 2), *rotation)
    value = heads("v_proj").transpose(1, 2)
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=hidden)
    return _project(attention, "o_proj", mixed.transpose(1, 2).flatten(2), changes)


def _project(attention: Any, name: str, x: Tensor, changes: Mapping[str, Tensor]) -> Tensor:
    """A projection, with the product of NAME_down and NAME_up added to its weights."""
    y = getattr(attention, name)(x)
    if f"{name}_down" in changes:
        y = y + (x @ changes[f"{name}_down"]) @ changes[f"{name}_up"]
    return y


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
