"""The losses; imported when first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrl_jax.losses.config import LossConfig as LossConfig
    from mrl_jax.losses.ctc import ctc_losses as ctc_losses
    from mrl_jax.losses.matryoshka import NestedLoss as NestedLoss
    from mrl_jax.losses.matryoshka import l1_cosine as l1_cosine
    from mrl_jax.losses.matryoshka import matryoshka_infonce as matryoshka_infonce
    from mrl_jax.losses.matryoshka import over_separate as over_separate
    from mrl_jax.losses.registry import LOSSES as LOSSES
    from mrl_jax.losses.registry import Loss as Loss

_HOMES = {
    "LOSSES": "registry",
    "Loss": "registry",
    "LossConfig": "config",
    "NestedLoss": "matryoshka",
    "ctc_losses": "ctc",
    "l1_cosine": "matryoshka",
    "matryoshka_infonce": "matryoshka",
    "over_separate": "matryoshka",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
