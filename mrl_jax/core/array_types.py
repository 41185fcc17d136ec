"""The dimension alphabet and the array aliases that every signature uses.

Array shapes are written with these letters, everywhere in the library:

    B  clips or texts in a batch        Y  stacked layers
    S  samples of audio                 N  query heads
    T  speech frames                    K  key/value heads
    L  tokens                           H  width of one head
    D  width of a tower                 F  width of an MLP
    E  width of an embedding            C  channels of a convolution
    V  vocabulary

The tests execute the annotations (jaxtyping with beartype), so no module postpones them.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

HostArray = np.ndarray[Any, np.dtype[Any]]
"""An array in host memory, of any shape and dtype."""

AnyArray = Array | HostArray
"""What a user may pass where a model begins: an array of JAX's or of numpy's."""

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
