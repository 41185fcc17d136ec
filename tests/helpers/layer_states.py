"""States of a speech tower with three layers of very different size."""

import jax
import jax.numpy as jnp
import numpy as np


def layer_states(middle: float) -> tuple[jax.Array, jax.Array]:
    """[3, 2, 9, 8] states, `middle` the size of the second layer; the mask of 9 and 5 frames."""
    rng = np.random.default_rng(0)
    sizes = np.asarray([1.0, middle, 0.02], np.float32)[:, None, None, None]
    values = rng.standard_normal((3, 2, 9, 8), dtype=np.float32) * sizes
    mask = np.ones((2, 9), bool)
    mask[1, 5:] = False
    return jnp.asarray(values), jnp.asarray(mask)
