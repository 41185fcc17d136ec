"""What is on record about a model: its towers' sources, its run, its evaluations."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.checkpoints.models import ModelInfo
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.addresses import scheme_of
from mrl_jax.core.arguments import checked
from mrl_jax.core.errors import MrlError, existing_file
from mrl_jax.core.hub import is_pinned
from mrl_jax.core.records import read_object, readable_as
from mrl_jax.core.remote import RUN_FILE
from mrl_jax.evaluation.report.folder import RECORDS
from mrl_jax.evaluation.report.records import Record, Source, read_records, read_source

CONVERSION_FILE = "report.json"
"""What a tower or model was converted from."""


@dataclasses.dataclass(frozen=True)
class TowerSource:
    """Where a tower's weights are from.

    Attributes:
        parameters: of the encoder and its output layer; None where they were not counted.
        dtype: that they are stored in.
        hub_id, revision: of the published checkpoint; None where it is not from the hub.
        adapter: a LoRA was merged into it.
        language: of the adapter of a multilingual checkpoint.
    """

    dtype: str | None = None
    parameters: int | None = None
    hub_id: str | None = None
    revision: str | None = None
    adapter: bool = False
    language: str | None = None

    @property
    def is_published(self) -> bool:
        """Whether the tower can be made again from the hub alone."""
        return self.hub_id is not None and self.revision is not None and not self.adapter


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The records of a report on this model."""

    report: str
    source: Source
    records: tuple[Record, ...]


@dataclasses.dataclass(frozen=True)
class Provenance:
    """All that is on record.

    Attributes:
        towers: where they are from, "speech" and "text".
        run: config of the training run, paths of this machine left out; None without a run.
        converted: hub id or name of the published model that this was converted from.
        evaluations: of this very model.
        other_evaluations: reports in its folder that are about other models.
    """

    towers: Mapping[str, TowerSource]
    run: Mapping[str, Any] | None
    converted: str | None
    evaluations: tuple[Evaluation, ...]
    other_evaluations: tuple[str, ...]


@checked
def read_provenance(
    folder: Path, info: ModelInfo, towers: Mapping[str, Path], *, reports: Sequence[Path] = ()
) -> Provenance:
    """Read the records of a model.

    Args:
        folder: the model's; reports are looked for in the folders in it.
        info: its description.
        towers: their folders.
        reports: folders of further reports.

    Raises:
        MrlError: a record is damaged; one of `reports` is no report, or is about another model.
    """
    evaluations, others = [], []
    for path in sorted(folder.glob(f"*/{RECORDS}")):
        one = _read_evaluation(path)
        if one.source.model_digest == info.digest:
            evaluations.append(one)
        else:
            others.append(path.parent.name)
    for report in reports:
        hint = "pass the folder of a report of `mrl-jax eval`"
        one = _read_evaluation(existing_file(report / RECORDS, hint=hint))
        if one.source.model_digest != info.digest:
            problem = f"is about another model: its digest is {one.source.model_digest[:12]}, "
            hint = "evaluate this model"
            raise MrlError(f"{problem}expected {info.digest[:12]}", where=report, hint=hint)
        evaluations.append(one)
    conversion = _read_optional(folder / CONVERSION_FILE)
    return Provenance(
        towers={name: _tower_source(place) for name, place in towers.items()},
        run=_public(_read_optional(folder / RUN_FILE)),
        converted=None if conversion is None else public_name(str(conversion.get("source", ""))),
        evaluations=tuple(evaluations),
        other_evaluations=tuple(others),
    )


@checked
def public_name(text: str) -> str:
    """A name or path as others may read it: of an absolute path or an address the last part."""
    name, at, path = text.partition("@")
    if at and _is_place(path) and "/" not in name:
        return name  # NAME@FOLDER.
    return text.rstrip("/").rpartition("/")[2] if _is_place(text) else text


def _is_place(text: str) -> bool:
    """Whether a text says where something is on this machine, or in a store of its user's."""
    return text.startswith(("/", "~", "../")) or scheme_of(text) is not None


def _read_evaluation(path: Path) -> Evaluation:
    return Evaluation(path.parent.name, read_source(path), tuple(read_records(path)))


def _tower_source(place: Path) -> TowerSource:
    report = _read_optional(place / CONVERSION_FILE)
    if report is None:
        return TowerSource()
    with readable_as("a report", place / CONVERSION_FILE, hint="remove it"):
        source, revision = str(report.get("source", "")), str(report.get("revision", ""))
        is_hub = is_pinned(f"{source}@{revision}")
        count = report.get("parameters")
        # A report of other weights: the tower was changed since, and is from nowhere but here.
        written = str(report.get("digest", "")).removeprefix("sha256:")
        is_hub = is_hub and (not written or read_info(place).is_named(written))
        return TowerSource(
            dtype=str(report["dtype"]) if "dtype" in report else None,
            parameters=count if isinstance(count, int) else None,
            hub_id=source if is_hub else None,
            revision=revision if is_hub else None,
            adapter="adapter" in report,
            language=str(report["language"]) if "language" in report else None,
        )


def _read_optional(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    with readable_as("a record of the model", path, hint="remove it, or bring it back"):
        return read_object(path)


def _public(value: Any) -> Any:
    """A config without the places of this machine."""
    if isinstance(value, Mapping):
        return {key: _public(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_public(one) for one in value]
    return public_name(value) if isinstance(value, str) else value
