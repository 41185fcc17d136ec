"""Where the tables of a retrieval set are: which files, and which split of its judgements."""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets import tables
from mrl_jax.data.sets.issues import IssueLog

HEADERS = {"queries": ("_id",), "corpus": ("_id",), "qrels": ("query-id", "corpus-id")}
"""The columns that a .tsv or .csv file of each table must have."""


def set_rows(
    folder: Path, name: str, *, split: str | None = None, log: IssueLog | None = None
) -> Iterator[tables.Row]:
    """Every row of a table, from whichever of its forms is there.

    Args:
        folder: of the set.
        name: "queries", "corpus" or "qrels".
        split: of the judgements; by default the test split, or the only one.
        log: gets keys that a line of JSON has twice, and another split than test.

    Raises:
        MrlError: no such table, or an empty one; one in two forms; no such split.
    """
    files = _files(folder, name)
    if name == "qrels":
        files = _of_split(folder, files, split, log)
    endings = {file.suffix: file for file in files}
    if len({file.parent == folder for file in files}) > 1 or len(endings) > 1:
        both = [next(f for f in files if f.parent == folder), files[-1]] if len(endings) < 2 else []
        named = " and ".join(str(f.relative_to(folder)) for f in both or endings.values())
        raise MrlError(f"has the table `{name}` twice: {named}", where=folder, hint="keep one")
    rows = tables.read_tables(files, header=HEADERS[name], log=log)
    first = next(rows, None)
    if first is None:
        raise MrlError(f"the table `{name}` is empty", where=files[0], hint="add rows to it")
    yield from itertools.chain((first,), rows)


def _files(folder: Path, name: str) -> list[Path]:
    """The files of a table: NAME.ending beside the others, or any in the folder NAME."""
    files = [folder / f"{name}{ending}" for ending in tables.ENDINGS]
    files = [file for file in files if file.is_file()]
    for place in (name, "data") if name == "qrels" else (name,):
        inside = sorted((*(folder / place).glob("*"), *(folder / place).glob("*/*")))
        files += [file for file in inside if file.suffix in tables.ENDINGS and file.is_file()]
        files += tables.saved_shards(folder / place)
        if files:
            return files
    forms = f"no {name}{', '.join(tables.ENDINGS)}, nor one of these in {name}/"
    held = [*folder.glob("*"), *(folder / name).glob("*")]
    there = ", ".join(sorted(str(path.relative_to(folder)) for path in held)[:8]) or "nothing"
    problem = f"has no table `{name}` ({forms}; it holds {there})"
    raise MrlError(problem, where=folder, hint="a set has queries, corpus and qrels")


def _of_split(
    folder: Path, files: Sequence[Path], split: str | None, log: IssueLog | None
) -> list[Path]:
    splits = {file: _split_name(file) if file.parent != folder else None for file in files}
    there = sorted({name for name in splits.values() if name})
    if split is None and len(there) > 1 and "test" not in there:
        problem = f"has judgements of the splits {', '.join(there)}, and none of test"
        raise MrlError(problem, where=folder, hint="choose one with --qrels-split")
    if split is not None and split not in there:
        known = f"there are {', '.join(there)}" if there else "its judgements have no splits"
        problem = f"has no judgements of the split {split!r}; {known}"
        raise MrlError(problem, where=folder, hint="correct --qrels-split, or leave it out")
    chosen = split or ("test" if "test" in there else there[0] if there else None)
    if log is not None and split is None and chosen not in ("test", None):
        log.add("judgements of the only split there is", [str(chosen)], harmless=True)
    return [file for file, name in splits.items() if name in (chosen, None)]


def _split_name(file: Path) -> str | None:
    """The split in a file's name; its whole name, unless that only numbers the parts of one."""
    split = tables.named_split(file)
    if split in ("qrels", "default", "data"):  # The hub's words for all there is.
        return None
    if split is not None or file.suffix == ".arrow":
        return split
    return None if re.fullmatch(r"(?i)(part|shard|data|qrels)?[-_.\d]*", file.stem) else file.stem
