"""From a text's token vectors to its embedding, as sentence-transformers' folders describe it.

Source: Reimers and Gurevych, 2019 (arXiv 1908.10084), and the modules `Pooling` and `Dense` of
their library.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrl_jax.core.arguments import Size, checked
from mrl_jax.core.errors import ArgumentError
from mrl_jax.nn.activations import gelu
from mrl_jax.nn.pooling import mean_valid, pool_first, pool_last

Pooling = Literal["last", "mean", "cls"]
Activation = Literal["identity", "tanh", "relu", "gelu", "silu", "sigmoid"]


def _pool_mean(vectors: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    return mean_valid(vectors, mask)


POOLINGS: Mapping[Pooling, Callable[[Any, Any], Any]] = {
    "last": pool_last,
    "mean": _pool_mean,
    "cls": pool_first,
}
"""(token vectors [B, L, D], mask [B, L]) to [B, D]: the last valid place, as Qwen3-Embedding does
it, the mean over valid places, or the first valid place."""

ACTIVATIONS: Mapping[Activation, Callable[[Any], Any]] = {
    "identity": lambda x: x,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": gelu,
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
}


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """A linear layer behind the pooling.

    Attributes:
        width: of its output.
        bias: whether it has one.
        activation: of its output.
    """

    width: Size
    bias: bool
    activation: Activation

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            expected = " or ".join(ACTIVATIONS)
            raise ArgumentError(f"activation is {self.activation!r}, expected {expected}")


def pool_packed(
    vectors: Float[Array, "places D"],
    texts: Int[Array, " places"],
    firsts: Int[Array, " texts"],
    lengths: Int[Array, " texts"],
    pooling: Pooling,
) -> Float[Array, "texts D"]:
    """What `POOLINGS` give for each of several texts whose token vectors stand in one sequence.

    Args:
        vectors: of all places; those of a text stand one after another.
        texts: number of the text that each place is of; as many as there are texts for padding.
        firsts, lengths: place of each text's first token, and its number of tokens, 1 or more.
    """
    if pooling != "mean":
        return vectors[firsts if pooling == "cls" else firsts + lengths - 1]
    vectors = jnp.where((texts < len(firsts))[:, None], vectors.astype(jnp.float32), 0.0)
    total = jax.ops.segment_sum(vectors, texts, num_segments=len(firsts) + 1)[:-1]
    return total / lengths[:, None].astype(jnp.float32)
