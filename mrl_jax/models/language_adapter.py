"""The adapter that MMS puts behind every layer, one set of weights for each language.

Source: Pratap et al., 2023 (arXiv 2305.13516, section 5.4), in the form of the published
checkpoints in Hugging Face format.
"""

from typing import Unpack

from flax import nnx
from jaxtyping import Array, Float

from mrl_jax.nn.layer_stack import Dtypes
from mrl_jax.nn.linear import Linear
from mrl_jax.nn.norms import LayerNorm


class LanguageAdapter(nnx.Module):
    """A norm and two linear layers around a ReLU; its output is added to its input outside.

    Args:
        width: of the layer's states, D.
        inner: width between the two linear layers.
        rngs: source of the initial weights; the stream `params` is read.
    """

    def __init__(self, width: int, inner: int, *, rngs: nnx.Rngs, **dtypes: Unpack[Dtypes]):
        # The published models keep torch's default epsilon here.
        self.norm = LayerNorm(width, epsilon=1e-5, param_dtype=dtypes["param_dtype"])
        self.down = Linear(width, inner, rngs=rngs, **dtypes)
        self.up = Linear(inner, width, rngs=rngs, **dtypes)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.up(nnx.relu(self.down(self.norm(x))))
