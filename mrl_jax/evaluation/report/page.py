"""A report as data, and its two forms: Markdown beside its figures, and one HTML file."""

import base64
import dataclasses
import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).with_name("page.html.jinja")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text, a heading and a cell a column; `str` gives it as Markdown.

    Text is text in both forms: neither tags nor Markdown in it are read as such.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        """The first column to the left, the others to the right."""
        lines = [self.columns, [":---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        first, rule, *rows = lines
        escaped = [[as_markdown(cell) for cell in line] for line in (first, *rows)]
        escaped.insert(1, list(rule))
        return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


_INLINE = re.compile(r"([\\`*<|~]|\[(?=[^\[\]]*\][(\[:])|&(?=\w|#)|:(?=//)|(?<!\w)_|_(?!\w))")
_BLOCK = re.compile(r"^([#>=]|[+-](?=[\s-]|$)|\d+(?=[.)](\s|$)))")


def as_markdown(text: str) -> str:
    """Text as Markdown that shows it as it is, on one line: no tags, links or headings of its own.

    An underscore inside a word stands for itself in Markdown too, and is left alone.
    """
    return _no_block(_INLINE.sub(r"\\\1", " ".join(text.split())))


def _paragraph(text: str) -> str:
    """`as_markdown`, but for what stands between backticks, as the reports' own words have it."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    parts[::2] = [_INLINE.sub(r"\\\1", part) for part in parts[::2]]
    return _no_block("".join(parts))


def _no_block(line: str) -> str:
    """A line that begins no heading, quotation or list."""
    return _BLOCK.sub(lambda m: f"{m[1]}\\" if m[1].isdigit() else f"\\{m[1]}", line)


@dataclasses.dataclass(frozen=True)
class FigureFile:
    """A PNG beside the report, and its caption."""

    name: str
    caption: str


@dataclasses.dataclass(frozen=True)
class SoundFile:
    """A recording that the page links to, by its path from there, and its caption."""

    name: str
    caption: str

    @property
    def link(self) -> str:
        """The path as an address."""
        return urllib.parse.quote(os.fsencode(self.name))


def markdown_page(
    title: str,
    paragraphs: Sequence[str],
    tables: Mapping[str, Table],
    figures: Sequence[FigureFile],
    footer: str,
    sounds: Sequence[SoundFile] = (),
) -> str:
    """The page for a folder that has its figures; `tables` are heading to table."""
    parts = [f"# {as_markdown(title)}", *map(_paragraph, paragraphs)]
    for heading, table in tables.items():
        parts += [f"## {as_markdown(heading)}", str(table)]
    for one in figures:
        caption, name = as_markdown(one.caption), urllib.parse.quote(one.name)
        parts.append(f"![{caption}]({name})\n\n*{caption}*")
    if sounds:
        lines = [f"- [{as_markdown(one.caption)}]({one.link})" for one in sounds]
        parts += ["## To listen to", "\n".join(lines)]
    return "\n\n".join([*parts, as_markdown(footer)]) + "\n"


def html_page(folder: Path, *, figures: Sequence[FigureFile], **page: Any) -> str:
    """The same as one file that opens offline: the figures in `folder` become part of it; sounds
    stay where they are.
    """
    from jinja2 import Environment

    images = [
        (base64.b64encode((folder / one.name).read_bytes()).decode("ascii"), one.caption)
        for one in figures
    ]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(figures=images, **page) + "\n"
