"""LoRA for Qwen3 towers: trained low-rank factors beside frozen projections (arXiv 2106.09685).

A projection y = x W becomes y = x W + α/r · (x A) B with A [in, r] and B [r, out]. W is never
changed, so it may be held in bfloat16 or in eight bits, and no gradient of its size is made.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mrl_jax.core.arguments import PositiveFloat, Range, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
from mrl_jax.nn.linear import multiply

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
PROJECTIONS = (*ATTENTION, *MLP)
"""The linear layers of every layer of a Qwen3 tower."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which projections get factors, and of what size.

    Attributes:
        rank: of the factors, in the text stage alone; 0 for none, the tower is then trained whole.
        alpha: the factors' product counts alpha / rank times.
        targets: projections that get them, in every layer: any of q_proj, k_proj, v_proj, o_proj,
            gate_proj, up_proj and down_proj.
    """

    rank: Annotated[int, Range(0.0, 2.0**16)] = 0
    alpha: PositiveFloat = 16.0
    targets: tuple[str, ...] = PROJECTIONS

    def __post_init__(self) -> None:
        known = f"expected some of {', '.join(PROJECTIONS)}"
        if not np.isfinite(self.alpha):
            raise ArgumentError(f"alpha is {self.alpha}, expected a finite number")
        if not self.targets:
            raise ArgumentError(f"targets is empty, {known}")
        for name in self.targets:
            if name not in PROJECTIONS:
                hint = did_you_mean(name, PROJECTIONS, otherwise="")
                raise ArgumentError(f"targets has {name!r}, {known}", hint=hint)
        if len(set(self.targets)) < len(self.targets):
            raise ArgumentError(f"targets has a name twice: {', '.join(self.targets)}")

    @property
    def scale(self) -> float:
        """What the factors' product is multiplied by."""
        return self.alpha / self.rank


class LoraLinear(nnx.Module):
    """A linear layer without bias, and low-rank factors beside its kernel.

    Args:
        linear: whose kernel [..., I, O] it takes, under the same name.
        rank, scale: of the factors, which are zeros here: see `initial_factors`.
    """

    def __init__(self, linear: nnx.Linear, *, rank: int, scale: float):
        self.kernel, self.dtype, self.scale = linear.kernel, linear.dtype, scale
        *stack, inputs, outputs = linear.kernel.shape
        self.lora_a = nnx.LoRAParam(jnp.zeros((*stack, inputs, rank), linear.param_dtype))
        self.lora_b = nnx.LoRAParam(jnp.zeros((*stack, rank, outputs), linear.param_dtype))

    def __call__(self, x: Float[Array, "*rows I"]) -> Float[Array, "*rows O"]:
        x, kernel, a, b = (
            jnp.asarray(value, self.dtype)
            for value in (x, self.kernel[...], self.lora_a[...], self.lora_b[...])
        )
        return multiply(x, kernel) + self.scale * multiply(multiply(x, a), b)


@checked
def abstract_lora(config: Qwen3Config, lora: LoraConfig, **options: Any) -> Qwen3Encoder:
    """A Qwen3 encoder with factors, as shapes: kernels have the paths that they have without.

    Factors are `nnx.LoRAParam` at `...q_proj.lora_a` [Y, in, r] and `lora_b` [Y, r, out].

    Args:
        config: sizes of the tower.
        lora: of a rank above 0.
        options: for the constructor of `Qwen3Encoder`.

    Raises:
        ArgumentError: a rank that is no less than a side of a projection.
    """
    if lora.rank < 1:
        raise ArgumentError("rank is 0, expected 1 or more")

    def make() -> Qwen3Encoder:
        tower = Qwen3Encoder(config, **options, rngs=nnx.Rngs(0))
        for name in lora.targets:
            part = _part(tower, name)
            linear = getattr(part, name)
            least = min(linear.kernel.shape[-2:])
            if lora.rank >= least:
                raise ArgumentError(
                    f"rank is {lora.rank}, expected less than {least}, the smaller side of {name}"
                )
            setattr(part, name, LoraLinear(linear, rank=lora.rank, scale=lora.scale))
        return tower

    return nnx.eval_shape(make)


def _part(tower: Qwen3Encoder, name: str) -> Any:
    return tower.layers.attention if name in ATTENTION else tower.layers.mlp


@checked
def factor_shapes(config: Qwen3Config, lora: LoraConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the factors by dotted path; arguments and errors as `abstract_lora`."""
    state = nnx.state(abstract_lora(config, lora), nnx.LoRAParam)
    return {".".join(map(str, path)): tuple(leaf.shape) for path, leaf in nnx.to_flat_state(state)}


@checked
def initial_factors(config: Qwen3Config, lora: LoraConfig, seed: int) -> dict[str, jax.Array]:
    """Factors in float32 by dotted path: A uniform within 1/√in, and B zero, as PEFT begins.

    The tower's outputs are those without factors. Arguments and errors as `abstract_lora`.
    """
    factors = {}
    for number, (path, shape) in enumerate(sorted(factor_shapes(config, lora).items())):
        key = jax.random.fold_in(jax.random.key(seed), number)
        bound = shape[1] ** -0.5 if path.endswith("lora_a") else 0.0
        factors[path] = jax.random.uniform(key, shape, jnp.float32, -bound, bound)
    return factors


@checked
def merge_factors(
    weights: Mapping[str, HostArray],
    factors: Mapping[str, HostArray],
    lora: LoraConfig,
    *,
    dtype: DTypeLike = np.float32,
) -> dict[str, HostArray]:
    """A tower's weights by dotted path, the factors' products added in float32.

    Args:
        weights: of the tower without factors; those that stay are not copied.
        factors: as `initial_factors` names them.
        lora: what they are of.
        dtype: of the sums that are given; one kernel at a time is there in float32.
    """
    merged = dict(weights)
    for path, a in factors.items():
        if path.endswith("lora_a"):
            name = path.removesuffix("lora_a")
            a, b = (np.asarray(x, np.float32) for x in (a, factors[f"{name}lora_b"]))
            kernel = np.asarray(weights[f"{name}kernel"], np.float32)
            kernel = kernel + np.float32(lora.scale) * np.matmul(a, b)
            merged[f"{name}kernel"] = kernel.astype(dtype, copy=False)
    return merged
