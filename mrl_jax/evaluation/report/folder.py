"""The folder that every report leaves: two pages, its records and its figures."""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mrl_jax
from mrl_jax.core.errors import readable
from mrl_jax.core.extras import require
from mrl_jax.core.files import check_apart, staged_folder, write_text
from mrl_jax.data.sets.issues import Issue
from mrl_jax.evaluation.report.options import ReportOptions
from mrl_jax.evaluation.report.page import FigureFile, Table, html_page, markdown_page
from mrl_jax.evaluation.report.records import Record, Source, write_records

RECORDS = "results.jsonl"
PACKAGE = Path(mrl_jax.__file__).parent


@contextlib.contextmanager
def report_folder(options: ReportOptions, *models: Path) -> Iterator[Path]:
    """Give a hidden folder to write into, which becomes the report if the block succeeds.

    Encode inside the block: then a place that may not be written to is refused before it.

    Args:
        options: of the report.
        models: that are measured, which it may not replace.

    Raises:
        MrlError: the folder exists and may not be replaced, or is no report; the place
            cannot be written to; matplotlib or jinja2 is absent.
    """
    for model in models:
        check_apart(model, options.out)
    require("matplotlib", "jinja2", by="a report")
    replace = options.overwrite
    with staged_folder(options.out, marker=RECORDS, overwrite=replace, any_name=True) as staging:
        yield staging


def write_report(
    staging: Path,
    *,
    title: str,
    summary: str,
    records: Sequence[Record],
    source: Source,
    tables: Mapping[str, Table],
    figures: Sequence[FigureFile],
    issues: Sequence[Issue] = (),
) -> str:
    """Write report.md, report.html (one page, opens offline) and results.jsonl.

    Args:
        staging: of `report_folder`; the figures are in it already.
        title: heading of the report.
        summary: paragraphs, with empty lines between.
        records: every measured value.
        source: what was measured on what.
        tables: heading to table; the first is returned as text.
        figures: after the tables.
        issues: of the set that was measured on, named behind the summary.
    """
    write_records(staging / RECORDS, records, source)
    paragraphs = [text for text in summary.strip().split("\n\n") if text.strip()]
    if issues:
        paragraphs.append(f"What is wrong with the set: {'; '.join(map(str, issues))}.")
    commit = f", mrl_jax at commit {source.commit}" if source.commit else ""
    page: dict[str, Any] = {
        "title": title,
        "paragraphs": paragraphs,
        "tables": tables,
        "figures": figures,
        "footer": f"Data {source.data} (digest {source.data_digest[:16]}), model {source.model} "
        f"(digest {source.model_digest[:16]}){commit}.",
    }
    write_text(staging / "report.md", readable(markdown_page(**page)))
    write_text(staging / "report.html", readable(html_page(staging, **page)))
    return str(next(iter(tables.values())))


def library_commit(package: Path = PACKAGE) -> str:
    """The commit this package was checked out at, "-dirty" behind it where its code differs.

    Only files inside the package count: what a run writes elsewhere in the checkout does not
    change the code. Empty where the commit is not known: the package is installed, or git is
    not.
    """
    try:
        # An installed package may lie inside somebody else's repository.
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        changed = _git(package, "status", "--porcelain", "--", ".")
        return _git(package, "rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ("git", "-C", str(folder), *words), capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()
