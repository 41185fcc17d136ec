"""The losses by name; a new one is its own file and one line here."""

import dataclasses
from collections.abc import Callable

from mrl_jax.losses.matryoshka import NestedLoss, l1_cosine, matryoshka_infonce


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss between queries and documents.

    Attributes:
        compute: (queries [B, E], documents [B, E], *, dims, weights, where, axis_name) to a
            `NestedLoss`, as `l1_cosine`.
        contrastive: whether the other rows of a batch are negatives; `compute` then takes
            temperature, symmetric, query_ids and document_ids as well, as `matryoshka_infonce`.
    """

    compute: Callable[..., NestedLoss]
    contrastive: bool


LOSSES: dict[str, Loss] = {
    "matryoshka_infonce": Loss(compute=matryoshka_infonce, contrastive=True),
    "l1_cosine": Loss(compute=l1_cosine, contrastive=False),
}
"""By the name that an experiment's `loss.name` gives."""
