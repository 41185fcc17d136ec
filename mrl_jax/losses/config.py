"""`LossConfig`: which loss a run minimises."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from mrl_jax.core.arguments import checked
from mrl_jax.core.errors import MrlError
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.losses.matryoshka import NestedLoss
from mrl_jax.losses.registry import LOSSES


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimised.

    Attributes:
        name: of `LOSSES`: "matryoshka_infonce", or "l1_cosine": regression onto the text embedding.
        dims: widths of the nested prefixes.
        weights: weight of each; equal if empty.
        temperature: of InfoNCE; the initial one if it is trained.
        learn_temperature: train it, with the head.
        symmetric: average InfoNCE over both directions.
    """

    name: str = "matryoshka_infonce"
    dims: tuple[int, ...] = (1024, 512, 256, 128)
    weights: tuple[float, ...] = ()
    temperature: float = 0.05
    learn_temperature: bool = False
    symmetric: bool = False

    def __post_init__(self) -> None:
        if self.name not in LOSSES:
            problem = f"loss.name is {self.name!r}, expected {' or '.join(LOSSES)}"
            raise MrlError(problem, hint=did_you_mean(self.name, LOSSES, otherwise=""))
        if not self.dims or len(set(self.dims)) != len(self.dims) or min(self.dims) < 1:
            raise MrlError(f"loss.dims is {self.dims}, expected different widths from 1 on")
        if self.weights and len(self.weights) != len(self.dims):
            raise MrlError(
                f"loss.weights has {len(self.weights)} weights, expected {len(self.dims)}: "
                "one a dim"
            )
        if self.weights and (min(self.weights) < 0 or sum(self.weights) <= 0):
            raise MrlError(f"loss.weights is {self.weights}, expected none below 0, one above it")
        if not self.temperature > 0:
            raise MrlError(f"loss.temperature is {self.temperature}, expected above 0")

    def bind(
        self,
        *,
        temperature: Any,
        query_ids: Any,
        document_ids: Any,
        where: Any = None,
        axis_name: str | None = None,
    ) -> Callable[..., NestedLoss]:
        """The loss as a function of (queries [B, E], documents [B, E], *, dims, weights).

        Its other arguments are bound here, see `matryoshka_infonce`.
        """
        loss = LOSSES[self.name]
        options: dict[str, Any] = {"where": where, "axis_name": axis_name}
        if loss.contrastive:
            options |= {
                "temperature": temperature,
                "symmetric": self.symmetric,
                "query_ids": query_ids,
                "document_ids": document_ids,
            }
        return functools.partial(loss.compute, **options)
