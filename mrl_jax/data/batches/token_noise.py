"""Noise on the tokens of training queries: errors and doubts as a recogniser has them."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenNoise:
    """Noise on the tokens of queries while a text tower is trained; all of it is off by default.

    It is drawn anew in every step. Documents, prompts and end tokens are never changed. Each
    fraction is the probability of a token, whatever else is done to it.

    Attributes:
        normal: standard deviation of normal noise on the vectors of tokens, relative to the root
            mean square of the table of token embeddings.
        mix: fraction of tokens whose vector is mixed with that of another token of the batch,
            whose weight is uniform in 0 to 1: a token in doubt.
        drop: fraction of tokens that are left out: a token missed.
        swap: fraction of tokens replaced by another token of the batch: a token misheard.
    """

    normal: float = 0.0
    mix: float = 0.0
    drop: float = 0.0
    swap: float = 0.0

    def __post_init__(self) -> None:
        if not (self.normal >= 0 and math.isfinite(self.normal)):
            raise MrlError(f"noise.normal is {self.normal}, expected 0 or more")
        for name in ("mix", "swap"):
            if not 0 <= getattr(self, name) <= 1:
                raise MrlError(f"noise.{name} is {getattr(self, name)}, expected 0 to 1")
        if not 0 <= self.drop < 1:
            raise MrlError(f"noise.drop is {self.drop}, expected 0 or more and less than 1")

    @property
    def is_on(self) -> bool:
        """Whether anything is changed."""
        return any(vars(self).values())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorNoise:
    """What is to be done to the vectors of a batch's queries, row by row.

    Random numbers on the device come from seeds of the rows, so that they are the same wherever
    a row is computed, and whenever it is computed again.

    Attributes:
        normal: [B, L] float32, standard deviation of the normal noise on each token, relative to
            the root mean square of the table; None for no such noise.
        seeds: [B] uint32, of the normal noise of each row; None likewise.
        other: [B, L] int32, the token that each token is mixed with; None for no mixing.
        weight: [B, L] float32, of the other token: 0 leaves a token as it is; None likewise.
    """

    normal: Any = None
    seeds: Any = None
    other: Any = None
    weight: Any = None


def draw_noise(
    noise: TokenNoise,
    tokens: HostArray,
    mask: HostArray,
    changeable: HostArray,
    *,
    key: Sequence[int],
) -> tuple[HostArray, HostArray, VectorNoise]:
    """The queries of a batch with tokens swapped and dropped, and what is left to do.

    Args:
        tokens, mask: [B, L] int32 and bool, of the whole batch.
        changeable: [B, L] bool, True at the tokens that may change.
        key: seed and step; the result is a function of the arguments only.

    Returns:
        tokens [B, L], of which `other` are those of the batch; mask [B, L], False at dropped
        tokens; and the noise on vectors.
    """
    rng = np.random.default_rng(key)
    # Drawn whether they are used or not: one fraction does not change what another draws.
    drop, swap, mix, weight = rng.random((4, *tokens.shape))
    swapped, mixed = (_others(tokens, changeable, rng) for _ in range(2))
    seeds = rng.integers(0, 1 << 32, len(tokens), np.uint32)
    vectors: dict[str, HostArray] = {}
    if noise.normal:
        vectors["normal"] = np.where(changeable, np.float32(noise.normal), np.float32(0))
        vectors["seeds"] = seeds
    if noise.mix:
        chosen = changeable & (mix < noise.mix)
        vectors["other"] = mixed
        vectors["weight"] = np.where(chosen, weight, 0.0).astype(np.float32)
    changed = np.where(changeable & (swap < noise.swap), swapped, tokens)
    kept = mask & ~(changeable & (drop < noise.drop))
    return changed, kept, VectorNoise(**vectors)


def _others(tokens: HostArray, changeable: HostArray, rng: np.random.Generator) -> HostArray:
    """[B, L]: in each changeable place the token of another such place, drawn at random."""
    places, others = np.flatnonzero(changeable), tokens.copy()
    if len(places) > 1:
        further = rng.integers(1, len(places), len(places))
        drawn = places[(np.arange(len(places)) + further) % len(places)]
        others.flat[places] = tokens.flat[drawn]
    return others
