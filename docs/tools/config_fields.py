"""Write docs/commands/configs.md: every field that `a.b=c` sets, from the configs' docstrings.

python docs/tools/config_fields.py            writes
python docs/tools/config_fields.py --check    changes nothing; status 1 where it is out of date
"""

import argparse
import dataclasses
import inspect
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.config import load_config
from mrl_jax.core.paths import user_path
from mrl_jax.core.presets import find_config
from mrl_jax.curation.config import CurationConfig
from mrl_jax.curation.registry import STAGES
from mrl_jax.curation.sources import READERS
from mrl_jax.inference.cascade_config import CascadeConfig
from mrl_jax.training.contrastive.config import ExperimentConfig
from mrl_jax.training.ctc.config import CtcExperiment
from mrl_jax.training.text_tower.config import TextStageExperiment

PAGE = Path(__file__).parents[1] / "commands" / "configs.md"
INTRODUCTION = """# Config fields

Every field that `mrl-jax train`, `mrl-jax cascade` and `mrl-jax curate` take as `a.b=c`: its
default in a config of your own and, where another, its value in the preset. A group whose default
is `none` can be filled in a Python config only; its fields follow it.
`data.batch.prompts.TASK=SENTENCE` changes or adds the prompt of one task,
`optim.rates.LEAVES=FACTOR` the learning rate of some leaves.

Written by `python docs/tools/config_fields.py` from the docstrings of the configs."""
KINDS = (
    ("Heads over frozen towers", "late_fusion", ExperimentConfig(name="NAME")),
    ("The text tower", "text_stage", TextStageExperiment(name="NAME")),
    ("Recognisers", "ctc", CtcExperiment(name="NAME")),
)
"""Of each kind of run: heading, preset, and the config with every default."""
Row = tuple[str, str, str]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--page", type=user_path, default=PAGE, help="the page")
    args = parser.parse_args(argv)
    current = page()
    if args.check:
        if args.page.read_text(encoding="utf-8") == current:
            return 0
        print(f"{args.page}: a field differs; run python docs/tools/config_fields.py")
        return 1
    args.page.write_text(current, encoding="utf-8")
    return 0


def page() -> str:
    """The whole page: what all runs share, each kind of run, cascades."""
    of_kinds = [
        list(rows(config, load_config(find_config(preset), type(config))))
        for _, preset, config in KINDS
    ]
    shared = [row for row in of_kinds[0] if all(row in others for others in of_kinds)]
    parts = [INTRODUCTION, "## All runs", table(shared)]
    for (heading, preset, _), of_kind in zip(KINDS, of_kinds, strict=True):
        own = [row for row in of_kind if row not in shared]
        parts += [f"## {heading}: `{preset}`", table(own)]
    cascade = load_config(find_config("cascade"), CascadeConfig)
    parts += ["## Cascades: `cascade`", table(list(rows(CascadeConfig(), cascade)))]
    parts += ["## Curation: `curate`", table(list(class_rows(CurationConfig, "")))]
    for kind in READERS:
        parts += [f"### `{kind.__name__}`", table(list(class_rows(kind, "sources.NAME.")))]
    for name, (kind, _) in STAGES.items():
        parts += [f"### `{kind.__name__}`", table(list(class_rows(kind, f"stages.{name}.")))]
    return "\n\n".join(parts) + "\n"


def table(body: Sequence[Row]) -> str:
    lines = [("field", "default", "what it is"), (":---", ":---", ":---"), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows(default: Any, preset: Any, prefix: str = "") -> Iterator[Row]:
    """(field, default, description) of a config and of the groups in it."""
    described = descriptions(type(default))
    hints = typing.get_type_hints(type(default))
    for field in dataclasses.fields(default):
        name, value = prefix + field.name, getattr(default, field.name)
        other = getattr(preset, field.name, value)
        if dataclasses.is_dataclass(value):
            yield from rows(value, other, f"{name}.")
            continue
        shown = code(value)
        if other != value and name != "name":
            shown += f"; preset: {code(other)}"
        yield f"`{name}`", shown, described.get(field.name, "")
        for group in typing.get_args(hints[field.name]):
            if dataclasses.is_dataclass(group) and isinstance(group, type):
                yield from rows(group(), None, f"{name}.")


def class_rows(kind: type, prefix: str) -> Iterator[Row]:
    """The same of a class alone, whose required fields are said to be."""
    described = descriptions(kind)
    for field in dataclasses.fields(kind):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        shown = "required" if default is dataclasses.MISSING else code(default)
        yield f"`{prefix}{field.name}`", shown, described.get(field.name, "")


def descriptions(kind: type) -> dict[str, str]:
    """Field -> its words in the `Attributes:` of the class or of one that it extends."""
    by_field: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        _, _, section = (inspect.getdoc(parent) or "").partition("Attributes:\n")
        section = section.partition("\n\n")[0]
        for names, words in re.findall(
            r"^    (\w[\w, ]*): (.+(?:\n {8}.+)*)", section, re.MULTILINE
        ):
            words = " ".join(words.split()).replace("|", "\\|").replace("<", "&lt;")
            by_field |= dict.fromkeys(names.split(", "), words)
    return by_field


def code(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, Mapping):
        return ", ".join(f"`{key}`" for key in value) or "none"
    if isinstance(value, tuple):
        return f"`[{','.join(map(str, value))}]`"
    if isinstance(value, bool) or value is None:
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value != "" else "empty"


if __name__ == "__main__":
    sys.exit(main())
