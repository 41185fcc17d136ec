"""A tower for people whose own model is written in Flax Linen."""

from typing import Any

from flax import linen, nnx

from mrl_jax.core.arguments import checked
from mrl_jax.core.errors import ArgumentError
from mrl_jax.models.qwen3 import Qwen3Encoder
from mrl_jax.models.speech_tower import SpeechTower
from mrl_jax.nn import param_tree


@checked
def to_linen(tower: Qwen3Encoder | SpeechTower) -> tuple[linen.Module, dict[str, dict[str, Any]]]:
    """A Linen module that computes what `tower` computes, and its variables.

    The module is `nnx.bridge.ToLinen` around the tower's own class, so it stands alone or as a
    submodule of another; `module.apply(variables, ..., nnx_method="embed")` calls a method.

    Returns:
        The module, and {"params": nested weights}, to be held out of the optimiser
        where the tower is to stay frozen.

    Raises:
        ArgumentError: `tower` is no tower.
    """
    if not isinstance(tower, nnx.Module) or not isinstance(tower, Qwen3Encoder | SpeechTower):
        raise ArgumentError(
            f"to_linen takes a Qwen3Encoder or a HubertEncoder, got {type(tower).__name__}; "
            "of a recogniser, pass its .encoder"
        )
    names = ("dtype", "remat", "unroll", *(("padding",) if isinstance(tower, SpeechTower) else ()))
    options: dict[str, Any] = {name: getattr(tower, name) for name in names}
    first = next(iter(param_tree.flat_weights(tower).values()))
    options["param_dtype"] = first.get_value().dtype
    module = nnx.bridge.to_linen(type(tower), tower.config, **options)
    return module, {"params": nnx.to_pure_dict(nnx.state(tower, (nnx.Param, param_tree.Frozen)))}
