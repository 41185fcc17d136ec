"""Pages of the site that are files of the checkout's root, as GitHub wants them there."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
ROOT_PAGES = {
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the root's pages; their links into docs/ become links of the site."""
    for source, page in ROOT_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        for other, other_page in {**ROOT_PAGES, "README.md": "index.md"}.items():
            text = text.replace(f"]({other}", f"]({other_page}")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links from docs/ to the root's pages become links of the site."""
    folder = posixpath.dirname(page.file.src_uri)

    def link(match: re.Match[str]) -> str:
        return f"]({posixpath.relpath(ROOT_PAGES[match[1]], folder or '.')}"

    names = "|".join(map(re.escape, ROOT_PAGES))
    return re.sub(rf"\]\((?:\.\./)+({names})", link, markdown)
