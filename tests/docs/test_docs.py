"""The documentation agrees with results, commands and files, and its site has no broken link."""

import html.parser
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
from repository import ROOT

DOCS = ROOT / "docs"
ROOT_PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / name for name in ROOT_PAGES)])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
NAMED_FILE = re.compile(r"`((?:mrl_jax|converters|configs|tests|docs|benchmarks)/[\w/.-]+\.\w+)`")


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def copy_of_the_tables(folder: Path) -> Path:
    """What benchmarks/report.py reads and writes, to be changed."""
    results = [*ROOT.glob("benchmarks/results/*.json"), *ROOT.glob("docs/examples/*/*/report.md")]
    pages = [ROOT / name for name in ("README.md", *(f"docs/{n}.md" for n in PAGES_WITH_TABLES))]
    for path in (*results, *pages):
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return folder


PAGES_WITH_TABLES = ("index", "results", "benchmarks", "claims")


def test_every_table_is_that_of_its_results():
    done = run("benchmarks/report.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_changed_table_and_a_changed_result_are_seen(tmp_path):
    copy = copy_of_the_tables(tmp_path)
    check = ("benchmarks/report.py", "--check", "--root", copy)
    assert run(*check).returncode == 0
    page = copy / "docs" / "results.md"
    text = page.read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if re.match(r"\| \d+ \| 0\.\d{4} ", line))
    page.write_text(text.replace(row, row.replace("0.", "1.", 1)), encoding="utf-8")
    done = run(*check)
    assert done.returncode == 1
    assert "docs/results.md" in done.stdout
    page.write_text(text, encoding="utf-8")
    result = copy / "benchmarks" / "results" / "demo.json"
    result.write_text(re.sub(r'"queries": \d+', '"queries": 7', result.read_text()))
    done = run(*check)
    assert done.returncode == 1
    assert "docs/benchmarks.md" in done.stdout


def test_help_texts_are_those_of_the_commands(tmp_path):
    if sys.version_info[:2] != (3, 11):
        pytest.skip("argparse wraps its usage in another way in each version of Python")
    done = run("docs/tools/help_texts.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    pages = tmp_path / "commands"
    pages.mkdir()
    text = (DOCS / "commands" / "build.md").read_text(encoding="utf-8")
    (pages / "build.md").write_text(text.replace("--overwrite", "--over"), encoding="utf-8")
    done = run("docs/tools/help_texts.py", "--check", "--pages", pages)
    assert done.returncode == 1
    assert "build.md" in done.stdout


def test_the_page_of_config_fields_is_that_of_the_configs(tmp_path):
    done = run("docs/tools/config_fields.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    text = (DOCS / "commands" / "configs.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if row.endswith("|  |")] == []  # Every field is described.
    page = tmp_path / "configs.md"
    page.write_text(text.replace("`0.0003`", "`0.0004`"), encoding="utf-8")
    done = run("docs/tools/config_fields.py", "--check", "--page", page)
    assert done.returncode == 1
    assert "configs.md" in done.stdout


def test_every_command_and_report_has_its_help_on_a_page():
    from mrl_jax.core.commands import COMMANDS
    from mrl_jax.evaluation.report.registry import REPORTS

    marks = set()
    for page in (DOCS / "commands").glob("*.md"):
        marks |= set(re.findall(r"<!-- help: mrl-jax (.+?) -->", page.read_text(encoding="utf-8")))
    assert {*COMMANDS, *(f"eval {name}" for name in REPORTS)} <= marks


def test_names_that_examples_use_are_public():
    import mrl_jax

    used = {
        (page.name, name)
        for page in PAGES
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for name in re.findall(r"\bmrl_jax\.(\w+)", block)
    }
    assert len(used) > 8
    packages = {path.parent.name for path in (ROOT / "mrl_jax").glob("*/__init__.py")}
    assert {name for _, name in used} <= {*mrl_jax.__all__, *packages}


def test_every_preset_is_on_the_page_of_train():
    from mrl_jax.core.presets import preset_names

    page = (DOCS / "commands" / "train.md").read_text(encoding="utf-8")
    assert {name for name in preset_names() if f"`{name}`" not in page} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path = urllib.parse.unquote(target.partition("#")[0])
        if not path or ":" in path:
            continue
        assert (page.parent / path).resolve().exists(), f"{page}: {target}"


def test_files_that_pages_name_exist():
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in PAGES
        for name in NAMED_FILE.findall(page.read_text(encoding="utf-8"))
        if "NAME" not in name and not name.startswith(NOT_YET) and not (ROOT / name).exists()
    ]
    assert missing == []


NOT_YET = (
    "converters/FAMILY",
    "mrl_jax/inference/service",
    "mrl_jax/evaluation/NAME",
)
"""Files that the recipes of CONTRIBUTING.md tell to write."""


def test_every_decision_is_listed():
    listed = (DOCS / "decisions" / "index.md").read_text(encoding="utf-8")
    pages = sorted(DOCS.glob("decisions/0*.md"))
    assert len(pages) >= 30
    for page in pages:
        assert f"({page.name})" in listed
        headings = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert headings == ["Context", "Decision", "Evidence", "Consequences"], page


class Links(html.parser.HTMLParser):
    """Targets of links and pictures, ids, and what the page loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.ids: set[str] = set()
        self.loaded: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        for name in ("href", "src"):
            if name in values:
                self.targets.add(values[name])
                if tag in ("script", "img", "iframe") or values.get("rel") == "stylesheet":
                    self.loaded.add(values[name])


def broken_links(site: Path) -> list[str]:
    """Links inside of a built site to no page, file or heading, and what it loads from outside."""
    pages = {}
    for path in site.rglob("*.html"):
        pages[path] = Links()
        pages[path].feed(path.read_text(encoding="utf-8"))
    broken = []
    for path, page in pages.items():
        name = path.relative_to(site)
        broken += [f"{name} loads {url}" for url in sorted(page.loaded) if "//" in url]
        for target in sorted(page.targets):
            url = urllib.parse.urlsplit(target)
            # The page for unknown addresses has links from the root of a server.
            if url.scheme or url.netloc or name == Path("404.html"):
                continue
            place = (path.parent / urllib.parse.unquote(url.path)) if url.path else path
            place = (place / "index.html" if place.is_dir() else place).resolve()
            if not place.exists():
                broken.append(f"{name}: {target}")
            elif place in pages and url.fragment not in ("", "__top"):
                if urllib.parse.unquote(url.fragment) in pages[place].ids:
                    continue
                broken.append(f"{name}: {target}")
    return broken


@pytest.mark.slow
def test_the_site_builds_strictly_without_broken_links(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = run("-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    site = (tmp_path / "site").resolve()
    assert len(list(site.rglob("*.html"))) > 60
    assert broken_links(site) == []


def test_broken_links_of_a_site_are_seen(tmp_path):
    good = '<a href="other.html#here">x</a><a href="#there" id="there">y</a>'
    bad = '<p id="here"><a href="none.html">x</a><a href="#away">y</a><script src="//a/b.js">'
    (tmp_path / "index.html").write_text(good)
    (tmp_path / "other.html").write_text(bad)
    assert sorted(broken_links(tmp_path.resolve())) == [
        "other.html loads //a/b.js",
        "other.html: #away",
        "other.html: none.html",
    ]
