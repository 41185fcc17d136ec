"""The config of a curation: sources, stages, and how many processes."""

import dataclasses
import re
from collections.abc import Sequence

from mrl_jax.core.arguments import PositiveInt, checked
from mrl_jax.core.config import override
from mrl_jax.core.errors import MrlError
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.core.paths import PathText, expand_paths
from mrl_jax.curation.stage import StageConfig

_NAME = re.compile(r"[A-Za-z0-9_]+")


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Base of every source's config.

    Attributes:
        name: before the ids of its rows and documents; each once in a run.
        path: a file or folder.
        language: of the speech, where the source itself does not say.
        text_language: of the documents, likewise.
        split: of rows that have none: `test` of a set that models are compared on.
    """

    name: str
    path: PathText
    language: str | None = None
    text_language: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        expand_paths(self, f"sources.{self.name}")
        if self.split is not None:
            check_split(self.split, f"sources.{self.name}.split")


def check_split(name: str, where: str) -> None:
    """Raises an `MrlError` for what is no name of a split."""
    if not _NAME.fullmatch(name) or name == "all":
        hint = "use letters, digits and `_`, not `all`"
        raise MrlError(f"{name!r} is no name of a split", where=where, hint=hint)


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """Everything about a curation.

    Attributes:
        name: of the run and of its data card.
        seed: of every random choice.
        sources: where the rows come from.
        stages: in the order in which they run.
        workers: processes of the stages that look at one row at a time; the result is the same
            for every number.
        clip_rate: samples a second of the clips that are written.
        examples: clips to listen to on the card, of the kept rows and of each reason to drop.
    """

    name: str = "curation"
    seed: int = 0
    sources: tuple[SourceConfig, ...] = ()
    stages: tuple[StageConfig, ...] = ()
    workers: PositiveInt = 1
    clip_rate: PositiveInt = 16_000
    examples: PositiveInt = 3

    def __post_init__(self) -> None:
        if not self.sources:
            raise MrlError(
                "sources is empty", hint="name at least one, for example a RecordingsSource"
            )
        for group in ("sources", "stages"):
            names = [one.name for one in getattr(self, group)]
            for name in names:
                if not _NAME.fullmatch(name):
                    problem = f"a name in {group} is {name!r}, expected letters, digits and `_`"
                    raise MrlError(problem, hint="rename it")
                if names.count(name) > 1:
                    problem = f"{names.count(name)} {group} have the name {name!r}"
                    raise MrlError(problem, hint="give each its own `name`")
        for stage in self.stages:
            stage.check_sources([one.name for one in self.sources])


@checked
def override_curation(config: CurationConfig, assignments: Sequence[str]) -> CurationConfig:
    """`override`, where `stages.NAME.field` and `sources.NAME.field` go to the one of that name.

    Raises:
        MrlError: as `override`; no stage or source of a name.
    """
    plain: list[str] = []
    nested: dict[tuple[str, str], list[str]] = {}
    for assignment in assignments:
        group, _, rest = assignment.partition(".")
        name, dot, field = rest.partition(".")
        if group in ("sources", "stages") and dot and "=" not in name:
            nested.setdefault((group, name), []).append(field)
        else:
            plain.append(assignment)
    changes: dict[str, tuple[SourceConfig | StageConfig, ...]] = {}
    for (group, name), fields in nested.items():
        there = changes.get(group) or getattr(config, group)
        if name not in (names := [one.name for one in there]):
            problem = f"there is no {group[:-1]} {name!r}"
            raise MrlError(problem, hint=did_you_mean(name, names))
        changes[group] = tuple(
            _overridden(one, fields, f"{group}.{name}") if one.name == name else one
            for one in there
        )
    return override(dataclasses.replace(config, **changes), plain)


def _overridden(
    one: SourceConfig | StageConfig, fields: list[str], where: str
) -> SourceConfig | StageConfig:
    try:
        return override(one, fields)
    except MrlError as error:
        raise MrlError(error.problem, where=error.where or where, hint=error.hint) from error
