"""Query vectors of which each dim has its own, instead of a prefix of one vector."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError, MrlError


@dataclasses.dataclass(frozen=True)
class SeparateVectors:
    """Query vectors of a dual encoder that has a linear layer for each dim.

    Attributes:
        wide: the vectors of all `dims`, in that order, side by side.
    """

    wide: Float32[HostArray, "R W"]
    dims: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.wide.shape[1] != sum(self.dims):
            raise ArgumentError(f"{self.wide.shape[1]} numbers a row, expected {sum(self.dims)}")

    def __len__(self) -> int:
        return len(self.wide)

    def __getitem__(self, rows: Any) -> "SeparateVectors":
        return SeparateVectors(self.wide[rows], self.dims)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and the widest dim."""
        return len(self.wide), max(self.dims)

    def at(self, dim: int | None) -> Float32[HostArray, "R P"]:
        """The vectors of one dim, of the widest for None.

        Raises:
            MrlError: a dim without vectors.
        """
        dim = max(self.dims) if dim is None else dim
        check_separate(dim, self.dims)
        start = sum(self.dims[: self.dims.index(dim)])
        return self.wide[:, start : start + dim]


Vectors = HostArray | SeparateVectors
"""[R, E] whose prefixes are embeddings too, or separate vectors."""


def check_separate(dim: int, dims: Sequence[int], *, where: str | None = None) -> None:
    """Refuse a dim that a model with separate query vectors has none for.

    Args:
        dims: `separate_dims` of the model; nothing is refused where they are empty.
        where: the option that named the dim.

    Raises:
        MrlError: naming those that there are.
    """
    if dims and dim not in dims:
        problem = f"the model has no query vector for the dimension {dim}: its dimensions are"
        known = f"separate, {', '.join(map(str, dims))}"
        raise MrlError(f"{problem} {known}", where=where, hint="choose one of those")


def check_dim(
    dim: int, width: int, separate: Sequence[int], *, option: str = "", hint: str | None = None
) -> None:
    """Refuse a dim that a model does not have.

    Args:
        width: of the model's vectors.
        separate: `separate_dims` of the model.
        option: that named the dim, for errors.
        hint: what to do about one beyond the width.

    Raises:
        MrlError: it is not 1 to the width, or none of the separate ones.
    """
    if not 1 <= dim <= width:
        problem = f"{option or 'dim'} is {dim}, expected 1 to {width}, the model's width"
        raise MrlError(problem, hint=hint)
    check_separate(dim, separate, where=option or None)


def numbers_of(vectors: Vectors) -> Float32[HostArray, "R W"]:
    """The rows as one array, separate vectors side by side."""
    return vectors.wide if isinstance(vectors, SeparateVectors) else vectors


def placed(vectors: Vectors, rows: Int[HostArray, " R"], total: int) -> Vectors:
    """`total` rows: the vectors at the indices `rows`, and zeros elsewhere."""
    numbers = numbers_of(vectors)
    filled = np.zeros((total, numbers.shape[1]), np.float32)
    filled[rows] = numbers
    return SeparateVectors(filled, vectors.dims) if isinstance(vectors, SeparateVectors) else filled
