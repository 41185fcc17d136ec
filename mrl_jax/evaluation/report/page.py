"""A report as data, and its two forms: Markdown beside its figures, and one HTML file."""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError

TEMPLATE = Path(__file__).with_name("page.html.jinja")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text; `str` gives it as Markdown.

    Attributes:
        columns: their headings.
        rows: one cell a column.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        """The first column to the left, the others to the right."""
        lines = [self.columns, [":---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
        return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


@dataclasses.dataclass(frozen=True)
class FigureFile:
    """A PNG beside the report.

    Attributes:
        name: of the file.
        caption: below it.
    """

    name: str
    caption: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """What a report shows.

    Attributes:
        title: its heading.
        paragraphs: of the introduction.
        tables: heading to table.
        figures: after the tables.
        footer: what was measured on what.
    """

    title: str
    paragraphs: Sequence[str]
    tables: Mapping[str, Table]
    figures: Sequence[FigureFile]
    footer: str


def markdown_page(page: Page) -> str:
    """The page for a folder that has its figures."""
    parts = [f"# {page.title}", *page.paragraphs]
    for heading, table in page.tables.items():
        parts += [f"## {heading}", str(table)]
    parts += [f"![{one.caption}]({one.name})\n\n*{one.caption}*" for one in page.figures]
    return "\n\n".join([*parts, page.footer]) + "\n"


def html_page(page: Page, folder: Path) -> str:
    """The page as one file that opens offline: the figures in `folder` become part of it.

    Raises:
        MrlError: jinja2 is not installed.
    """
    figures = [
        (base64.b64encode((folder / one.name).read_bytes()).decode("ascii"), one.caption)
        for one in page.figures
    ]
    environment = import_environment()(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(page=page, figures=figures) + "\n"


def import_environment() -> Any:
    """jinja2's Environment.

    Raises:
        MrlError: it is not installed.
    """
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise MrlError(
            "reports take jinja2, which is not installed",
            hint="install the extra: `pip install 'mrl_jax[train]'`",
        ) from error
    return Environment
