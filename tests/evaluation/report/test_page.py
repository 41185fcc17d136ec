"""Records, tables and figures, and the folder and page that hold them."""

import html.parser
import math
import shutil
import subprocess
from pathlib import Path

import pytest
from eval_reports import names_in
from repository import ROOT

from mrl_jax.core.errors import MrlError
from mrl_jax.evaluation.report.folder import library_commit, report_folder, write_report
from mrl_jax.evaluation.report.options import ReportOptions
from mrl_jax.evaluation.report.page import (
    FigureFile,
    SoundFile,
    Table,
    as_markdown,
    html_page,
    markdown_page,
)
from mrl_jax.evaluation.report.plotting import figure, save
from mrl_jax.evaluation.report.records import (
    Record,
    Source,
    read_records,
    read_source,
    write_records,
)
from mrl_jax.metrics.intervals import Interval, PairedTest

SOURCE = Source(data="set", data_digest="d" * 64, model="m", model_digest="e" * 64, commit="c")
RECORDS = [
    Record(metric="ndcg@10", value=0.5, dim=8, n=3, low=0.25, high=0.75),
    Record(metric="ndcg@10", value=0.4, dim=8, n=3, setting={"snr_db": 10, "noise": "blanc é"}),
    Record(metric="rank", value=math.nan),
]


def test_records_come_back(tmp_path):
    path = tmp_path / "results.jsonl"
    write_records(path, RECORDS, SOURCE)
    back = read_records(path)
    assert back[:2] == RECORDS[:2]
    assert math.isnan(back[2].value)
    assert read_source(path) == SOURCE
    assert "NaN" not in path.read_text()
    with pytest.raises(ValueError, match="a setting may not be called"):
        write_records(path, [Record(metric="a", value=1.0, setting={"commit": 1})], SOURCE)


def test_a_record_of_an_interval_and_of_a_test():
    assert Record.of("ndcg@10", Interval(mean=0.5, low=0.25, high=0.75), dim=8, n=3) == RECORDS[0]
    test = PairedTest(difference=-0.1, low=-0.2, high=0.0, p_value=0.04)
    assert Record.of("a", test) == Record(metric="a", value=-0.1, low=-0.2, high=0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{broken", "no JSON Lines of records"),
        ('{"metric": "a"}', "holds objects that are no records"),
        ("[1]", "no records"),
    ],
)
def test_files_that_are_no_records_are_refused(tmp_path, text, message):
    path = tmp_path / "results.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(MrlError, match=message):
        read_records(path)
    path.write_text("")
    with pytest.raises(MrlError, match="has no record"):
        read_source(path)


class Page(html.parser.HTMLParser):
    """Tags that open and close, cells by row, sources of images, and text."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.sources: list[str | None] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        self.sources += [value for key, value in attrs if key in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data


def test_one_page_holds_tables_and_figures_and_loads_nothing(tmp_path):
    drawing, axes = figure()
    axes.plot([1, 2], [3, 4])
    with report_folder(ReportOptions(data="set", out=tmp_path / "report")) as staging:
        save(drawing, staging / "line.png")
        write_report(
            staging,
            title="Gains <&> losses",
            summary="First.\n\nSecond <b>.",
            records=RECORDS,
            source=SOURCE,
            tables={"Scores": Table(["a|b", "c"], [["x | y", "1"], ["", "<2>"]])},
            figures=[FigureFile("line.png", 'A "line"')],
        )
        assert not (tmp_path / "report").exists()
    folder = tmp_path / "report"
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert len(page.sources) == 1
    assert page.sources[0] is not None
    assert page.sources[0].startswith("data:image/png;base64,iVBOR")
    assert page.rows == [["a|b", "c"], ["x | y", "1"], ["", "<2>"]]
    for part in ("Gains <&> losses", "First.", "Second <b>.", "Scores", 'A "line"'):
        assert part in page.texts
    assert any("digest dddddddddddddddd" in part for part in page.texts)
    assert "prefers-color-scheme: dark" in text
    assert '![A "line"](line.png)' in (folder / "report.md").read_text()
    assert "| x \\| y | 1 |" in (folder / "report.md").read_text()
    assert names_in(folder) == {"report.md", "report.html", "results.jsonl", "line.png"}
    with (
        pytest.raises(MrlError, match=r"the output exists already.*--overwrite"),
        report_folder(ReportOptions(data="set", out=folder)),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("<script>x</script>", "\\<script>x\\</script>"),
        ("[x](javascript:y)", "\\[x](javascript:y)"),
        ("1.0 [0.9, 1.0]", "1.0 [0.9, 1.0]"),
        ("*a* _b_ `c` a|b", "\\*a\\* \\_b\\_ \\`c\\` a\\|b"),
        ("# head", "\\# head"),
        ("1. one\n- two", "1\\. one - two"),
        ("http://x.example &lt;", "http\\://x.example \\&lt;"),
        ("max_text_tokens is -0.5 at 3.14", "max_text_tokens is -0.5 at 3.14"),
    ],
)
def test_markdown_shows_text_as_it_is(text, markdown):
    assert as_markdown(text) == markdown


def test_a_report_that_fails_leaves_nothing(tmp_path):
    def fail():
        with report_folder(ReportOptions(data="set", out=tmp_path / "report")) as staging:
            (staging / "results.jsonl").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_panels_stand_side_by_side(tmp_path):
    drawing, axes = figure(2, width=3.0, height=2.0)
    assert len(axes) == 2
    save(drawing, tmp_path / "two.png")
    header = (tmp_path / "two.png").read_bytes()[16:24]
    assert int.from_bytes(header[:4], "big") == 900
    assert int.from_bytes(header[4:], "big") == 300


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    command = ("git", *identity, "-C", str(folder), *words)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@needs_git
def test_the_commit_is_that_of_this_checkout():
    commit = library_commit()
    if not (ROOT / ".git").exists():  # A source archive.
        assert commit == ""
        return
    changed = git(ROOT, "status", "--porcelain", "--", "mrl_jax")
    assert commit == git(ROOT, "rev-parse", "HEAD") + ("-dirty" if changed else "")


@needs_git
def test_only_changed_code_makes_a_commit_dirty(tmp_path):
    package = tmp_path / "checkout" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package.parent / "example.md").write_text("old")
    git(package, "init", "--quiet", str(package.parent))
    git(package, "add", "--all", str(package.parent))
    git(package, "commit", "--quiet", "--message", "first")
    head = git(package, "rev-parse", "HEAD")
    assert len(head) == 40
    assert library_commit(package) == head
    (package.parent / "example.md").write_text("new")  # A tracked output, and a new one.
    (package.parent / "report.md").write_text("new")
    assert library_commit(package) == head
    (package / "new.py").write_text("")
    assert library_commit(package) == f"{head}-dirty"
    (package / "new.py").unlink()
    (package / "__init__.py").write_text("x = 1\n")
    assert library_commit(package) == f"{head}-dirty"


@needs_git
def test_an_installed_package_has_no_commit(tmp_path):
    package = tmp_path / "site" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    assert library_commit(package) == ""
    # Nor has one inside somebody else's repository.
    git(tmp_path, "init", "--quiet", str(tmp_path))
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "theirs")
    assert library_commit(package) == ""


def test_sounds_are_linked_by_their_paths():
    sounds = [SoundFile("clips/a b#1.flac", "a <b> [c](d)")]
    page = {"title": "t", "paragraphs": [], "tables": {}, "figures": [], "footer": "f"}
    link = "clips/a%20b%231.flac"
    text = markdown_page(**page, sounds=sounds)
    assert f"]({link})" in text
    assert "<b>" not in text.replace("\\<b>", "")
    html_text = html_page(Path(), **page, sounds=sounds)
    assert f'<audio controls preload="none" src="{link}">' in html_text
    assert "<b>" not in html_text
    assert "To listen to" not in markdown_page(**page)
