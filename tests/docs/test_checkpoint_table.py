"""The page of checkpoints lists every one that is tried, and a few of them recomputed agree."""

import json
import re
import subprocess
import sys

import checkpoint_rows
import pytest
from repository import ROOT

PAGE = ROOT / "docs" / "checkpoints.md"


def rows_of_page() -> dict[tuple[str, str], list[str]]:
    """(heading, name): the other cells."""
    rows = {}
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        heading, *lines = section.splitlines()
        for line in lines:
            name, *rest = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)][1:-1] or ["---"]
            if "---" not in name and name != "checkpoint":
                rows[heading, re.sub(r"\\(.)", r"\1", name)] = rest
    return rows


def test_the_page_lists_all_that_is_tried_and_nothing_wrong():
    rows = rows_of_page()
    assert len(rows) >= 60
    tried = {(row.group, row.name) for row in checkpoint_rows.all_rows()}
    assert tried - set(rows) == set()
    assert {heading for heading, _ in set(rows) - tried} <= {"The published speech model"}
    for name, (result, layers, vectors, texts) in rows.items():
        assert result.startswith(("the same", "refused: ")), name
        for figure in (layers, vectors) if result.startswith("the same") else ():
            assert not figure or float(figure) < 1e-4, name
        if texts:
            equal, total = re.findall(r"\d+", texts)
            assert equal == total, name


def test_no_path_of_a_machine_is_on_the_page():
    assert not re.search(r"(?<![\w.])/(tmp|home|work|root|var)\b", PAGE.read_text(encoding="utf-8"))


RECOMPUTED = (
    "a tokenizer of another class",
    "norm before dense",
    "another end token",
    "an adapter beside its base, not named",
)


@pytest.mark.slow
def test_rows_recomputed_give_the_same_results():
    pytest.importorskip("transformers")
    pytest.importorskip("sentence_transformers")
    rows = {name: cells for (_, name), cells in rows_of_page().items()}
    program = (
        "import json, sys; sys.path.insert(0, 'docs/tools'); import checkpoint_table as table;"
        "table.prepare();"
        "rows = [row for row in table.rows_of_the_page() if row.name in sys.argv[1:]];"
        "cells = {row.name: table.cells(table.try_row(row)) for row in rows};"
        "print(json.dumps(cells))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *RECOMPUTED], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert sorted(found) == sorted(RECOMPUTED)
    for name, (result, *_, texts) in found.items():
        expected = rows[name]
        assert re.sub(r"\\(.)", r"\1", expected[0]) == result, name
        assert expected[-1] == texts, name
