"""Noise on the vectors of a query's tokens, on the device."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int, UInt32

from mrl_jax.core.array_types import AnyArray
from mrl_jax.data.batches.token_noise import VectorNoise


def noisy_vectors(
    vectors: Float32[Array, "B L D"], table: Float[Array, "V D"], noise: VectorNoise
) -> Float32[Array, "B L D"]:
    """Vectors of tokens with the noise of a batch: first mixed, then with normal noise.

    The table may be in half precision, where it is frozen.
    """
    if noise.weight is not None:
        vectors = mixed_vectors(vectors, table, noise.other, noise.weight)
    if noise.normal is not None:
        vectors = vectors + normal_noise(table, noise.seeds, noise.normal)
    return vectors


def mixed_vectors(
    vectors: Float32[Array, "B L D"],
    table: Float[Array, "V D"],
    other: Int[AnyArray, "B L"],
    weight: Float32[AnyArray, "B L"],
) -> Float32[Array, "B L D"]:
    """(1 - weight) of each token's vector and `weight` of the other token's."""
    share = jnp.asarray(weight)[..., None]
    others = jnp.take(table, jnp.asarray(other), axis=0).astype(vectors.dtype)
    return (1 - share) * vectors + share * others


def normal_noise(
    table: Float[Array, "V D"],
    seeds: UInt32[AnyArray, " B"],
    deviation: Float32[AnyArray, "B L"],
) -> Float32[Array, "B L D"]:
    """Normal noise of `deviation` times the table's root mean square, a function of row's seeds."""
    size = lax.stop_gradient(jnp.sqrt(jnp.mean(jnp.square(table.astype(jnp.float32)))))
    shape = (deviation.shape[1], table.shape[1])
    draw = jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), shape, jnp.float32))
    return (size * jnp.asarray(deviation))[..., None] * draw(jnp.asarray(seeds))
