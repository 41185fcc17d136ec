"""The losses; imported when first used."""

from typing import TYPE_CHECKING

from mrl_jax.core.lazy import homes_of, lazy_getattr

if TYPE_CHECKING:
    from mrl_jax.losses.config import *  # noqa: F403
    from mrl_jax.losses.ctc import *  # noqa: F403
    from mrl_jax.losses.matryoshka import *  # noqa: F403
    from mrl_jax.losses.registry import *  # noqa: F403

_NAMES = {
    "config": "LossConfig",
    "ctc": "ctc_losses",
    "matryoshka": "NestedLoss l1_cosine matryoshka_infonce over_separate",
    "registry": "LOSSES Loss",
}
__getattr__ = lazy_getattr(__name__, homes_of(__name__, _NAMES))
