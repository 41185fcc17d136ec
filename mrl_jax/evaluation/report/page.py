"""A report as data, and its two forms: Markdown beside its figures, and one HTML file."""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).with_name("page.html.jinja")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text, a heading and a cell a column; `str` gives it as Markdown."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        """The first column to the left, the others to the right."""
        lines = [self.columns, [":---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
        return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


@dataclasses.dataclass(frozen=True)
class FigureFile:
    """A PNG beside the report, and its caption."""

    name: str
    caption: str


def markdown_page(
    title: str,
    paragraphs: Sequence[str],
    tables: Mapping[str, Table],
    figures: Sequence[FigureFile],
    footer: str,
) -> str:
    """The page for a folder that has its figures; `tables` are heading to table."""
    parts = [f"# {title}", *paragraphs]
    for heading, table in tables.items():
        parts += [f"## {heading}", str(table)]
    parts += [f"![{one.caption}]({one.name})\n\n*{one.caption}*" for one in figures]
    return "\n\n".join([*parts, footer]) + "\n"


def html_page(folder: Path, *, figures: Sequence[FigureFile], **page: Any) -> str:
    """The same as one file that opens offline: the figures in `folder` become part of it."""
    from jinja2 import Environment

    images = [
        (base64.b64encode((folder / one.name).read_bytes()).decode("ascii"), one.caption)
        for one in figures
    ]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(figures=images, **page) + "\n"
