"""The trained heads in PyTorch: from the states of a speech tower to speech tokens or vectors.

This file is written into exported folders. A head holds its tensors as buffers; `HEADS` has each
by its kind.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

PAIR = 2
"""Frames to a speech token: 50 frames a second become 25 tokens."""


class Head(nn.Module):
    """Tensors of a head, and its options."""

    def __init__(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]):
        super().__init__()
        self.options = dict(options)
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def tensor(self, name: str) -> Tensor | None:
        """A tensor that not every head of the kind has."""
        return getattr(self, name, None)


class FusionHead(Head):
    """Late fusion: the states of all layers, two frames to a speech token."""

    projection: Tensor  # [E, Y · D]
    downsample: Tensor  # [E, E, 2]
    downsample_bias: Tensor  # [E]

    def forward(
        self, states: list[Tensor], mask: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Speech tokens [B, U, E], their counts [B], and how many had no room [B]."""
        frames = functional.linear(torch.cat(states, -1), self.projection)
        tokens = functional.conv1d(
            frames.transpose(1, 2), self.downsample, self.downsample_bias, stride=PAIR
        )
        counts = torch.div(mask.sum(1), PAIR, rounding_mode="floor")
        return tokens.transpose(1, 2), counts, torch.zeros_like(counts)


class SoftHead(Head):
    """Soft tokens: the expected token embedding under a CTC layer's probabilities."""

    ctc_weight: Tensor  # [V, D]
    ctc_bias: Tensor  # [V]
    token_table: Tensor  # [V, E], the text tower's embedding of each output
    logit_scale: Tensor  # []
    logit_bias: Tensor  # [V]

    def forward(
        self, states: list[Tensor], mask: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `FusionHead`'s."""
        options, blank = self.options, self.options["blank"]
        logits = functional.linear(last, self.ctc_weight, self.ctc_bias)
        silent, best = torch.softmax(logits, -1)[:, :, blank], logits.argmax(-1)
        logits = logits * self.logit_scale + self.logit_bias
        change, residual = None, self.tensor("residual")
        if residual is not None:
            change = functional.linear(torch.cat(states, -1), residual)
            if options["residual"] == "logits":
                logits, change = logits + change, None
        keep = mask
        if options["compress_blank"] is not None:
            keep = mask & (silent <= options["compress_blank"])
        weights, wanted = _groups(keep, best, pairs=options["compress_blank"] is None)
        probable = torch.einsum("btu,btc->buc", weights, torch.softmax(logits, -1))
        if options["compress_blank"] is not None:
            number = torch.arange(probable.shape[2], device=probable.device)
            probable = probable * torch.where(number == blank, options["blank_weight"], 1.0)
            probable = probable / probable.sum(2, keepdim=True).clamp(min=1e-12)
        vectors = probable @ self.token_table
        if change is not None:
            vectors = vectors + torch.einsum("btu,btc->buc", weights, change)
        # In float64, as this library computes it, so that no rounding moves a bound.
        room = torch.ceil(mask.sum(1).double() * options["tokens_per_frame"] - 1e-6)
        counts = torch.minimum(wanted, room.clamp(min=1).to(wanted.dtype))
        return vectors, counts, wanted - counts


def _groups(keep: Tensor, best: Tensor, *, pairs: bool) -> tuple[Tensor, Tensor]:
    """Weights [B, T, U] of each frame in each speech token, and how many tokens a row has.

    Every run of kept frames with one best output, and nothing dropped in between, is a token; or
    every two frames are, and a last single one is left out. There is room for all: U is T.
    """
    place = torch.arange(keep.shape[1], device=keep.device)
    if pairs:
        token = torch.div(place, PAIR, rounding_mode="floor")
        weights = (token[:, None] == place[None, :]).float()[None] / PAIR
        wanted = torch.div(keep.sum(1), PAIR, rounding_mode="floor")
        return weights.expand(keep.shape[0], -1, -1), wanted
    before = functional.pad(keep[:, :-1], (1, 0))
    same = functional.pad(best[:, 1:] == best[:, :-1], (1, 0))
    starts = (keep & ~(before & same)).to(torch.long)
    run = torch.where(keep, starts.cumsum(1) - 1, -1)
    member = (run[:, :, None] == place[None, None, :]).float()
    return member / member.sum(1, keepdim=True).clamp(min=1.0), starts.sum(1)


class PoolingHead(Head):
    """The dual encoder: one learned query attends over the frames of all layers."""

    query: Tensor  # [Y · D]
    weight: Tensor  # [E, Y · D]
    bias: Tensor  # [E]

    def forward(self, states: list[Tensor], mask: Tensor) -> Tensor:
        """Vectors [B, E], not normalised; a clip without a frame pools zeros."""
        frames = torch.cat(states, -1)
        scores = (frames @ self.query) / frames.shape[2] ** 0.5
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
        weights = torch.where(mask, torch.softmax(scores, 1), 0.0)
        pooled = (weights[:, None, :] @ frames)[:, 0]
        return functional.linear(pooled, self.weight, self.bias)


HEADS: dict[str, type[Head]] = {
    "late_fusion": FusionHead,
    "soft_ctc": SoftHead,
    "dual_encoder": PoolingHead,
}
"""By the kind of the model."""
