"""The folder that every evaluation leaves: a report, its records and its pictures."""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mrl_jax.core.files import staged_folder
from mrl_jax.data.sets.digests import digest_lines
from mrl_jax.evaluation.report.page import html_page, import_figure
from mrl_jax.evaluation.report.records import Record, Source, write_records
from mrl_jax.inference.embedder import Embedder

RECORDS = "results.jsonl"


@contextlib.contextmanager
def report_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a hidden folder to write into, which becomes `out` if the block succeeds.

    Encode inside the block: then a place that may not be written to is told before it.

    Raises:
        MrlError: `out` exists and `overwrite` is not given, or it is no report; the place
            cannot be written to; matplotlib is absent.
    """
    import_figure()
    with staged_folder(out, marker=RECORDS, overwrite=overwrite) as staging:
        yield staging


def write_report(
    staging: Path,
    *,
    title: str,
    summary: str,
    records: Sequence[Record],
    source: Source,
    tables: Mapping[str, str],
    pictures: Sequence[tuple[str, str]],
) -> None:
    """Write report.md, report.html (one page, opens offline) and results.jsonl.

    Args:
        staging: of `report_folder`; the pictures are in it already.
        title: heading of the report.
        summary: paragraphs, with empty lines between.
        records: every measured value.
        source: what was measured on what.
        tables: heading → Markdown table.
        pictures: file name and caption.
    """
    write_records(staging / RECORDS, records, source)
    commit = f", mrl_jax at commit {source.commit}" if source.commit else ""
    footer = (
        f"Data {source.data} (digest {source.data_digest[:16]}), model {source.model} "
        f"(digest {source.model_digest[:16]}){commit}."
    )
    parts = [f"# {title}", summary.strip()]
    for heading, table in tables.items():
        parts += [f"## {heading}", table]
    parts += [f"![{caption}]({name})\n\n*{caption}*" for name, caption in pictures]
    text = "\n\n".join([*parts, footer]) + "\n"
    (staging / "report.md").write_text(text, encoding="utf-8")
    files = [(staging / name, caption) for name, caption in pictures]
    page = html_page(title, summary, tables, files, footer)
    (staging / "report.html").write_text(page, encoding="utf-8")


def source_of(embedder: Embedder, model: Path, data: Path | str, digest: str) -> Source:
    """What is measured on what.

    Args:
        embedder: loaded from `model`.
        model: its folder.
        data: the set, as the user named it.
        digest: of the set's contents.
    """
    info = embedder.info
    parts = (info.speech.digest, info.text.digest, info.head_digest)
    return Source(
        data=str(data),
        data_digest=digest,
        model=str(model),
        model_digest=digest_lines(parts),
        commit=library_commit(),
    )


def library_commit() -> str:
    """The commit this code was checked out at, "-dirty" behind it where files were changed.

    Empty where it is not known: the library is installed, or git is not.
    """
    here = Path(__file__)
    git = ("git", "-C", str(here.parent))
    try:
        # An installed library may lie inside somebody else's repository.
        _run(*git, "ls-files", "--error-unmatch", here.name)
        return _run(*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return ""


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()
