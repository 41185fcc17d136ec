"""index.json: what an index holds, how it is searched, and the model that embedded it."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypedDict

from mrl_jax.core.checksums import folder_digests, verify_files
from mrl_jax.core.errors import MrlError, existing_file, existing_folder
from mrl_jax.core.hub import hub_name_of, is_pinned
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.core.paths import referenced_path, relative_reference
from mrl_jax.core.records import read_record, write_description
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.first_text import FirstText
from mrl_jax.inference.index.backends import BACKENDS, EXACT
from mrl_jax.inference.index.documents import BUILD_AGAIN
from mrl_jax.nn import param_tree

FORMAT = 1
INDEX_FILE = "index.json"
IndexPrecision = Literal["float32", "float16", "int8", "binary", "binary+int8"]
PRECISIONS: tuple[IndexPrecision, ...] = ("float32", "float16", "int8", "binary", "binary+int8")


class IndexOptions(TypedDict, total=False):
    """How an index is made; nothing is needed. See `IndexConfig`."""

    dim: int | None
    precision: IndexPrecision
    backend: str
    prefix: int | None
    shortlist: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How vectors are stored and searched.

    Attributes:
        dim: coordinates that are stored; None for those of the embedder.
        precision: of what is stored. "binary+int8" are signs, which make a short list, and int8,
            which orders it.
        backend: "exact", or one of `BACKENDS`, which finds the short list.
        prefix: coordinates that the short list is made by; None for all.
        shortlist: documents that are scored again with all their coordinates.
    """

    dim: int | None = None
    precision: IndexPrecision = "float32"
    backend: str = EXACT
    prefix: int | None = None
    shortlist: int = 100

    def __post_init__(self) -> None:
        for name, known in (("precision", PRECISIONS), ("backend", (EXACT, *BACKENDS))):
            value = getattr(self, name)
            if value not in known:
                problem = f"{name} is {value!r}, expected one of {', '.join(known)}"
                raise MrlError(problem, hint=did_you_mean(value, known, otherwise="") or None)
        for name in ("dim", "prefix", "shortlist"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < 1 << 31:
                raise MrlError(f"{name} is {value}, expected 1 or more")
        if self.dim is not None and self.prefix is not None and self.prefix >= self.dim:
            problem = f"the prefix of {self.prefix} coordinates is not shorter than the stored"
            raise MrlError(f"{problem} vectors of {self.dim}", hint="choose a shorter one")

    def check_installed(self) -> None:
        """Raises an `MrlError` where the backend's package is absent."""
        if self.backend != EXACT:
            BACKENDS[self.backend].check(self.backend)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelReference:
    """The model that embedded the documents.

    Attributes:
        path: its folder, relative to that of the index, or OWNER/NAME@COMMIT on the hub; None
            where it is not known.
        digest: `ModelInfo.digest`, of its towers and head.
        rotation: digest of the rotation that was applied; None for none.
    """

    path: str | None
    digest: str
    rotation: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexInfo:
    """The contents of index.json.

    Attributes:
        documents: how many there are.
        config: how they are stored and searched; its dim is set.
        model: None for an index of vectors that came without a model.
        files: SHA-256 of the other files, by name.
    """

    documents: int
    config: IndexConfig
    model: ModelReference | None
    files: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.config.dim is None or self.documents < 1:
            raise ValueError("it has no documents, or no dim")


def write_info(folder: Path, info: IndexInfo) -> IndexInfo:
    """Write index.json, with the digests of the files that are there."""
    files = folder_digests(folder, lambda name: name != INDEX_FILE)
    info = dataclasses.replace(info, files=files)
    write_description(folder / INDEX_FILE, dataclasses.asdict(info), version=FORMAT)
    return info


def read_info(folder: Path, *, verify: bool = True) -> IndexInfo:
    """index.json, checked, and the other files compared with their digests if it is to `verify`.

    Raises:
        MrlError: no index, or a damaged one.
    """
    hint = "pass a folder that `mrl-jax index build` made"
    path = existing_file(existing_folder(folder, "an index", hint=hint) / INDEX_FILE, hint=hint)
    info = read_record(path, IndexInfo, version=FORMAT, what="an index", hint=BUILD_AGAIN)
    if verify:
        verify_files(folder, info.files, named_by=INDEX_FILE, hint=BUILD_AGAIN)
    return info


def reference_to(embedder: Embedder) -> ModelReference:
    """The model of an embedder, with an absolute path, or its name and commit on the hub."""
    rotation, folder = embedder.rotation, embedder.folder
    return ModelReference(
        path=None if folder is None else str(hub_name_of(folder) or folder.resolve()),
        digest=embedder.info.digest,
        rotation=None if rotation is None else param_tree.digest({"matrix": rotation.matrix}),
    )


def relative_to(model: ModelReference | None, folder: Path) -> ModelReference | None:
    """The reference as index.json in a folder has it."""
    if model is None or model.path is None or is_pinned(model.path):
        return model
    return dataclasses.replace(model, path=relative_reference(Path(model.path), folder))


def check_embedder(model: ModelReference | None, embedder: Embedder, *, where: object) -> None:
    """Refuse a model whose vectors cannot be compared with those of an index.

    Raises:
        MrlError: another model, or with another rotation; the index is of no model.
    """
    if model is None:
        problem = "was made of vectors without a model, so no model's queries fit it for certain"
        raise MrlError(problem, where=where, hint="search it by vectors")
    given = reference_to(embedder)
    if given.digest != model.digest:
        raise MrlError(
            f"is the index of another model: that has the digest {model.digest[:12]}, and the "
            f"model given {given.digest[:12]}",
            where=where,
            hint="pass the model that it was built with, or build an index with this one",
        )
    if given.rotation != model.rotation:
        there, here = (_rotation_name(x.rotation) for x in (model, given))
        problem = f"was embedded with {there}, and the model given has {here}"
        raise MrlError(problem, where=where, hint="load the model as it was then")


def _rotation_name(digest: str | None) -> str:
    return "no rotation" if digest is None else f"the rotation {digest[:12]}"


def load_referenced(
    model: ModelReference | None, folder: Path | None, first: FirstText | None = None
) -> Embedder:
    """The model of an index, from where it was when the index was made.

    Args:
        model, folder: of the index.
        first: as of `Embedder.load`.

    Raises:
        MrlError: the place is not known; what is there is another model, or none.
    """
    hint = "name the model: --model DIR, or `SearchIndex.load(folder, embedder=...)`"
    if model is None or model.path is None or folder is None:
        problem = "does not say where its model is"
        raise MrlError(problem, where=folder or "the index", hint=hint)
    place: str | Path = model.path
    if not is_pinned(model.path):
        place = Path(os.path.normpath(referenced_path(folder.resolve(), model.path)))
        if not place.is_dir():
            problem = f"its model is not at {place} any more"
            raise MrlError(problem, where=folder, hint=hint)
    embedder = Embedder.load(place, rotation=model.rotation is not None, first=first)
    check_embedder(model, embedder, where=folder)
    return embedder
