"""What is wrong with a published set that nobody can edit: counted, reported, fatal if strict."""

import dataclasses
import warnings
from collections.abc import Iterable, Sequence

from mrl_jax.core.errors import MrlError

_NAMED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Issue:
    """One kind of problem of a set.

    Attributes:
        problem: in words, "documents without text".
        count: how many rows have it.
        named: the first few of them.
        harmless: not fatal for a strict reader either.
    """

    problem: str
    count: int
    named: tuple[str, ...]
    harmless: bool = False

    def __str__(self) -> str:
        return f"{self.problem}: {self.count} ({list_some(self.named, self.count)})"


class IssueLog:
    """Collects the issues of a set while it is read."""

    def __init__(self) -> None:
        self._issues: dict[str, Issue] = {}

    def add(self, problem: str, names: Iterable[str], *, harmless: bool = False) -> None:
        """Count the rows that have a problem; nothing where there are none."""
        names = list(names)
        if not names:
            return
        old = self._issues.get(problem, Issue(problem=problem, count=0, named=()))
        self._issues[problem] = Issue(
            problem=problem,
            count=old.count + len(names),
            named=(*old.named, *names)[:_NAMED],
            harmless=harmless,
        )

    @property
    def issues(self) -> tuple[Issue, ...]:
        return tuple(self._issues.values())


def refuse_issues(issues: Sequence[Issue], where: object) -> None:
    """Raises an `MrlError` that names every issue that is not harmless."""
    if refused := [str(issue) for issue in issues if not issue.harmless]:
        hint = "correct the tables, or read them without --strict"
        raise MrlError("; ".join(refused), where=where, hint=hint)


def warn_issues(issues: Iterable[Issue], where: object) -> None:
    """Warn of every issue, where there is no report to name them in."""
    for issue in issues:
        warnings.warn(f"{where}: {issue}", stacklevel=3)


def list_some(names: Sequence[str], count: int) -> str:
    """The first few names, and "…" where there are more."""
    return ", ".join(map(repr, names[:_NAMED])) + (", …" if count > _NAMED else "")
