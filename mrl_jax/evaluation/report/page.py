"""Tables in Markdown and HTML, pictures, and one page that holds them all."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; color: #1a1a1a; }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0;
        font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #888; }
figure { margin: 2rem 0; }
figure img { max-width: 100%; }
figcaption, footer { color: #555; font-size: .9rem; }
"""


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, numbers to the right."""
    lines = [header, [":---", *["---:"] * (len(header) - 1)], *rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def html_page(
    title: str,
    summary: str,
    tables: Mapping[str, str],
    pictures: Sequence[tuple[Path, str]],
    footer: str,
) -> str:
    """A page that opens offline: pictures are inside it, and it loads nothing.

    Args:
        title: heading of the page.
        summary: paragraphs, with empty lines between.
        tables: heading → Markdown table.
        pictures: PNG file and caption.
        footer: what was measured on what.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f"<p>{html.escape(text)}</p>" for text in summary.split("\n\n") if text.strip()]
    for heading, table in tables.items():
        parts += [f"<h2>{html.escape(heading)}</h2>", _html_table(table)]
    for path, caption in pictures:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        text = html.escape(caption)
        image = f'<img src="data:image/png;base64,{data}" alt="{text}">'
        parts.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")
    parts.append(f"<footer>{html.escape(footer)}</footer>")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
    )
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def figure(panels: int = 1, *, width: float = 5.2, height: float = 3.6) -> tuple[Any, Any]:
    """A matplotlib figure, and its axes: one, or an array of `panels` side by side.

    Args:
        panels: axes in a row.
        width, height: of one panel, in inches.
    """
    made = import_figure()(figsize=(width * panels, height), layout="constrained")
    axes = made.subplots(1, panels)
    for one in axes if panels > 1 else [axes]:
        one.grid(alpha=0.3)
        one.spines[["top", "right"]].set_visible(False)
    return made, axes


def import_figure() -> Any:
    """matplotlib's Figure.

    Raises:
        MrlError: it is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MrlError(
            "pictures take matplotlib, which is not installed",
            hint="install the extra: `pip install 'mrl_jax[train]'`",
        ) from error
    return Figure


def save(made: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    partial = path.with_name(f".{path.name}")
    made.savefig(partial, dpi=150, format="png")
    partial.replace(path)


def plot_training(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Loss against step, and validation nDCG@10 at each dimension beside it.

    Args:
        path: picture to write.
        rows: the lines of a run's metrics.jsonl.
    """
    made, axes = figure(panels=2)
    train = [row for row in rows if row["kind"] == "train"]
    axes[0].plot([row["step"] for row in train], [row["loss"] for row in train], linewidth=1)
    axes[0].set_xlabel("step")
    axes[0].set_ylabel("training loss")
    validation = [row for row in rows if row["kind"] == "validation"]
    for name in [
        key for key in (validation[-1] if validation else {}) if key.startswith("ndcg@10/")
    ]:
        label = f"first {name.rpartition('/')[2]} coordinates"
        steps = [row["step"] for row in validation]
        axes[1].plot(steps, [row[name] for row in validation], "o-", label=label, markersize=3)
    axes[1].set_ylim(0, 1)
    axes[1].set_xlabel("step")
    axes[1].set_ylabel("validation nDCG@10")
    if validation:
        axes[1].legend(fontsize="small")
    save(made, path)


def _html_table(table: str) -> str:
    lines = [_cells(line) for line in table.strip().splitlines()]
    if len(lines) < 2:
        raise ValueError("a Markdown table has a header and a line below it")

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)

    body = "".join(f"<tr>{row(cells, 'td')}</tr>\n" for cells in lines[2:])
    return f"<table>\n<tr>{row(lines[0], 'th')}</tr>\n{body}</table>"


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|").removesuffix("|").replace("\\|", "\0")
    return [cell.strip().replace("\0", "|") for cell in inner.split("|")]
