"""A rotation of the embedding, fitted once, after which the leading coordinates vary most.

It is orthogonal, and no mean is subtracted when it is applied, so cosines of whole vectors do not
change; only prefixes do. It belongs to one trained head, whose digest it carries.
"""

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, describe_os_error, write_hint
from mrl_jax.core.files import write_bytes
from mrl_jax.core.records import readable_as
from mrl_jax.core.remote import upload

ROTATION_FILE = "rotation.safetensors"
FORMAT = "mrl_jax rotation 2"
ROTATE_AGAIN = "fit it again: `mrl-jax rotate --overwrite`"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotation:
    """A fitted rotation, and what it was fitted for.

    Attributes:
        matrix: orthogonal; its columns are the new coordinates, first to last.
        head_digest: of the trained head it belongs to.
        data, data_digest: what it was fitted on.
        fitted_on: which vectors of it, as "documents".
        centred: whether their mean was subtracted while fitting.
        rows: how many there were.
        texts: `text_keys` of the texts of `data`, whether they or recordings were fitted on.
    """

    matrix: Float32[HostArray, "E E"]
    head_digest: str
    data: str
    data_digest: str
    fitted_on: str
    centred: bool
    rows: int
    texts: Shaped[HostArray, " T"]

    def seen(self, texts: Iterable[str]) -> int:
        """How many of `texts` it was fitted on."""
        return int(np.isin(text_keys(texts), self.texts).sum())


def text_keys(texts: Iterable[str]) -> Shaped[HostArray, " T"]:
    """The first eight bytes of each text's SHA-256."""
    keys = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]
    return np.frombuffer(b"".join(keys), "<u8").astype(np.uint64)


@checked
def fit_rotation(
    vectors: Float[HostArray, "N E"], *, centred: bool = True
) -> Float32[HostArray, "E E"]:
    """Principal directions as the columns of an orthogonal matrix, strongest first.

    Args:
        vectors: embeddings, one a row.
        centred: subtract the mean of the vectors, here and nowhere else.

    Raises:
        MrlError: no vectors, or one that is not finite.
    """
    return leading_directions(vectors, centred=centred).astype(np.float32)


@checked
def apply_rotation(
    vectors: Float32[HostArray, "N E"], rotation: Rotation
) -> Float32[HostArray, "N E"]:
    """The same vectors in the new coordinates.

    Raises:
        MrlError: vectors of another width.
    """
    width = len(rotation.matrix)
    if vectors.shape[1] != width:
        problem = f"the rotation is for vectors of width {width}, and these have {vectors.shape[1]}"
        raise MrlError(problem, hint="rotate whole embeddings, then cut prefixes")
    return vectors @ rotation.matrix


@checked
def save_rotation(folder: Path, rotation: Rotation, *, overwrite: bool = False) -> Path:
    """Write the rotation into a model's folder, whole or not at all.

    Raises:
        MrlError: there is one already and `overwrite` is not given; the place cannot be
            written to.
    """
    path = folder / ROTATION_FILE
    check_absent(folder, overwrite=overwrite)
    fields = dataclasses.asdict(rotation)
    arrays = {name: np.ascontiguousarray(fields.pop(name)) for name in ("matrix", "texts")}
    metadata = {"format": FORMAT, **{name: str(value) for name, value in fields.items()}}
    try:
        write_bytes(path, save(arrays, metadata))
    except OSError as error:
        problem = f"could not be written: {describe_os_error(error)}"
        raise MrlError(problem, where=path, hint=write_hint(error)) from error
    upload(path)
    return path


@checked
def check_absent(folder: Path, *, overwrite: bool) -> None:
    """Raises an `MrlError` where a rotation is there and may not be replaced."""
    path = folder / ROTATION_FILE
    if path.exists() and not overwrite:
        hint = "pass --overwrite to replace it"
        raise MrlError("the rotation exists already", where=path, hint=hint)


@checked
def read_rotation(folder: Path, *, head_digest: str) -> Rotation | None:
    """The rotation of a model's folder; None where there is none.

    Args:
        folder: the model's.
        head_digest: of its trained head.

    Raises:
        MrlError: the rotation is damaged, or is that of another head.
    """
    path = folder / ROTATION_FILE
    if not path.is_file():
        return None
    with readable_as("a rotation", path, hint=ROTATE_AGAIN):
        arrays, fields = _read_tensors(path)
        if fields.pop("format", None) != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        matrix, texts = arrays["matrix"], arrays["texts"]
        if texts.ndim != 1 or texts.dtype != np.uint64:
            raise ValueError(f"its texts are {texts.dtype} of shape {texts.shape}")
        if matrix.shape != (len(matrix),) * 2 or matrix.dtype != np.float32:
            raise ValueError(f"its matrix is {matrix.dtype} of shape {matrix.shape}")
        gram = matrix.T.astype(np.float64) @ matrix
        if not np.abs(gram - np.eye(len(matrix))).max() < 1e-4:
            raise ValueError("its matrix is not orthogonal")
        read = {"centred": {"True": True, "False": False}.__getitem__, "rows": int}
        values = {name: read.get(name, str)(text) for name, text in fields.items()}
        rotation = Rotation(matrix=matrix, texts=texts, **values)
    if rotation.head_digest != head_digest:
        raise MrlError(
            f"is the rotation of another model: it was fitted for the head "
            f"{rotation.head_digest[:12]}, and this is {head_digest[:12]}",
            where=path,
            hint=ROTATE_AGAIN,
        )
    return rotation


def _read_tensors(path: Path) -> tuple[dict[str, HostArray], dict[str, str]]:
    """All arrays of a safetensors file, and its metadata."""
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return arrays, dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(str(error)) from error


@checked
def leading_directions(
    vectors: Float[HostArray, "N E"], *, centred: bool
) -> Float[HostArray, "E E"]:
    """An orthogonal matrix whose columns are the directions of most energy, first to last.

    Columns beyond the rank complete it. The largest entry of each column is positive, so
    that the same vectors give the same matrix.
    """
    check_vectors(vectors)
    matrix = vectors.astype(np.float64)
    matrix = matrix - matrix.mean(axis=0) if centred else matrix
    # Completing the basis of few rows takes the triangle only, not all rows of the matrix.
    triangle = np.linalg.qr(matrix, mode="r") if len(matrix) > matrix.shape[1] else matrix
    directions = np.linalg.svd(triangle, full_matrices=True)[2].T
    largest = np.abs(directions).argmax(axis=0)
    return directions * np.sign(directions[largest, np.arange(len(largest))])


@checked
def check_vectors(vectors: Float[HostArray, "N E"], kind: str = "embedding") -> None:
    """Raises an `MrlError` where there are no vectors, or one is not finite."""
    if not vectors.size:
        raise MrlError(f"there is no {kind} to measure", hint="check that the set is not empty")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise MrlError(
            f"the vector of {kind} {int(np.argmin(finite))} is not finite",
            hint="check the model's weights and the input: NaN and infinity have no spectrum",
        )
