"""Records, tables, pictures, and the folder and page that hold them."""

import html.parser
import math

import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.evaluation.report.folder import library_commit, report_folder, write_report
from mrl_jax.evaluation.report.page import figure, html_page, markdown_table, save
from mrl_jax.evaluation.report.records import (
    Record,
    Source,
    read_records,
    read_source,
    write_records,
)

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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{broken", "no JSON Lines of records"),
        ('{"metric": "a"}', "holds objects that are no records"),
        ("[1]", "no records"),
    ],
)
def test_files_that_are_no_records_are_told(tmp_path, text, message):
    path = tmp_path / "results.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(MrlError, match=message):
        read_records(path)
    path.write_text("")
    with pytest.raises(MrlError, match="has no record"):
        read_source(path)


class Page(html.parser.HTMLParser):
    """Tags that open and close, sources of images, and text."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.sources, self.said = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data.strip())


def test_one_page_holds_tables_and_pictures_and_loads_nothing(tmp_path):
    made, axes = figure()
    axes.plot([1, 2], [3, 4])
    with report_folder(tmp_path / "report", overwrite=False) as staging:
        save(made, staging / "line.png")
        write_report(
            staging,
            title="Gains <&> losses",
            summary="First.\n\nSecond <b>.",
            records=RECORDS,
            source=SOURCE,
            tables={"Scores": markdown_table(["a|b", "c"], [["x | y", "1"], ["", "<2>"]])},
            pictures=[("line.png", 'A "line"')],
        )
        assert not (tmp_path / "report").exists()
    folder = tmp_path / "report"
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert len(page.sources) == 1
    assert page.sources[0].startswith("data:image/png;base64,iVBOR")
    for text in ("Gains <&> losses", "First.", "Second <b>.", "a|b", "x | y", "<2>", 'A "line"'):
        assert text in page.said
    assert '![A "line"](line.png)' in (folder / "report.md").read_text()
    assert {path.name for path in folder.iterdir()} == {
        *("report.md", "report.html", "results.jsonl", "line.png"),
    }
    with (
        pytest.raises(MrlError, match=r"the output exists already.*--overwrite"),
        report_folder(folder, overwrite=False),
    ):
        pass


def test_a_report_that_fails_leaves_nothing(tmp_path):
    def fail():
        with report_folder(tmp_path / "report", overwrite=False) as staging:
            (staging / "results.jsonl").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_panels_stand_side_by_side(tmp_path):
    made, axes = figure(2, width=3.0, height=2.0)
    assert len(axes) == 2
    save(made, tmp_path / "two.png")
    header = (tmp_path / "two.png").read_bytes()[16:24]
    assert int.from_bytes(header[:4], "big") == 900
    assert int.from_bytes(header[4:], "big") == 300
    with pytest.raises(ValueError, match="a header"):
        html_page("t", "s", {"a": "| no table |"}, [], "f")


def test_the_commit_is_that_of_the_checkout():
    commit = library_commit()
    assert commit == "" or len(commit.removesuffix("-dirty")) == 40
