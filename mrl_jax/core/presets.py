"""Configs by name: `late_fusion` is a preset that comes with the library, `my/run.py` a file."""

from pathlib import Path
from typing import TypeVar

from mrl_jax.core.addresses import SCHEMES, scheme_of
from mrl_jax.core.config import load_config, override
from mrl_jax.core.errors import MrlError
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.core.paths import user_text

Config = TypeVar("Config")
PACKAGE = Path(__file__).parents[1]


def bundled_folder(name: str) -> Path:
    """`configs/` or `converters/`: inside the package of a wheel, beside it in a checkout."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def preset_names() -> list[str]:
    """The presets that are installed, in alphabetical order."""
    return sorted(path.stem for path in bundled_folder("configs").glob("[!_]*.py"))


def find_config(name_or_path: str) -> Path:
    """The file of a config.

    Args:
        name_or_path: the name of a preset, or the path of a Python file; a word with neither
            a folder nor `.py` is a name.

    Raises:
        MrlError: no such preset or no such file; the nearest one is named. An address.
    """
    if (scheme := scheme_of(name_or_path)) in SCHEMES:
        raise MrlError(
            f"is an address ({scheme}://), and a config is code that is run",
            where=name_or_path,
            hint="copy it to this machine, and read it first",
        )
    name_or_path = user_text(name_or_path)
    path, presets = Path(name_or_path), preset_names()
    if path.name != name_or_path or path.suffix:
        if path.is_file():
            return path
        if path.stem in presets:
            raise MrlError("no such config", where=path, hint=f"did you mean {path.stem}?")
        beside = [str(path.parent / file.name) for file in sorted(path.parent.glob("*.py"))]
        hint = did_you_mean(str(path), [*beside, *presets])
        raise MrlError("no such config", where=path, hint=hint)
    if name_or_path not in presets:
        raise MrlError(f"{name_or_path!r} is no preset", hint=did_you_mean(name_or_path, presets))
    return bundled_folder("configs") / f"{name_or_path}.py"


def variant(preset: str, kind: type[Config], *assignments: str) -> Config:
    """A preset with changes, each `dotted.name=value` as on the command line.

    Raises:
        MrlError: as `find_config`, `load_config` and `override`.
    """
    return override(load_config(find_config(preset), kind, where=preset), assignments)
