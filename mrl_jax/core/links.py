"""Symlinks in a folder that others wrote: none may lead out of it.

A link named tokenizer.json could stand for any file that the user may read, and what is read is
copied into towers and exports. The snapshots of the hub's cache are links, into that cache.
"""

from collections.abc import Iterator
from pathlib import Path

from mrl_jax.core.errors import MrlError

_DEPTH = 2
"""Folders within one another that a checkpoint or tower has small files and weights in."""
_READ = (".json", ".txt", ".model", ".jinja", ".safetensors", ".bin", ".md")


def check_links(folder: Path) -> Path:
    """The folder itself, whose links to files that are read all stay inside it.

    Raises:
        MrlError: one leads elsewhere; it is named with its target.
    """
    roots = [folder.resolve(), *_cache_of_hub(folder.resolve())]
    for link in _links(folder, _DEPTH):
        target = link.resolve()
        if not any(target.is_relative_to(root) for root in roots):
            raise MrlError(
                f"is a link to {target}, outside of the folder, and is not followed",
                where=link,
                hint="put a copy of that file in its place",
            )
    return folder


def _links(folder: Path, depth: int) -> Iterator[Path]:
    """Links to files of the kinds that are read, and to the numbered folders of modules."""
    for path in sorted(folder.iterdir()):
        numbered = path.name[:1].isdigit() and "_" in path.name
        if path.is_symlink():
            if path.suffix in _READ or numbered:
                yield path
        elif depth > 1 and not path.name.startswith(".") and path.is_dir():
            yield from _links(path, depth - 1)


def _cache_of_hub(folder: Path) -> list[Path]:
    """Where files of the hub's cache are kept: those of one model, and those that models share."""
    for place in (folder, *folder.parents):
        if place.name == "snapshots" and place.parent.name.startswith("models--"):
            model = place.parent
            return [model / "blobs", model.parent / "blobs"]
    return []
