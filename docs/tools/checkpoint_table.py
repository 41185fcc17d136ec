"""Write docs/checkpoints.md: what `mrl-jax convert` makes of every kind of checkpoint.

    python docs/tools/checkpoint_table.py                writes
    python docs/tools/checkpoint_table.py --only WORD    prints the rows whose group or name has it
    python docs/tools/checkpoint_table.py --reproductions FOLDER
                                                         prints what FOLDER/*/run.sh say

Each checkpoint of tests/helpers/checkpoint_rows.py is made on the spot with random weights,
converted, and compared with its own library by `mrl-jax convert verify`. Status 1 where a row is
neither the same model nor refused in one line.
"""

import contextlib
import dataclasses
import importlib
import importlib.metadata
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import user_path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "checkpoints.md"
SAME, REFUSED, WRONG = "same", "refused", "WRONG"
LONG = "texts of more than"
"""How a certificate begins to say that the longest texts were not run: it does of every one."""
INTRODUCTION = """# Checkpoints tried

What `mrl-jax convert` makes of {count} kinds of checkpoints: {same} are the same model as in their
own library, {refused} are refused in one line, {wrong} are converted into another model.

Each is a small one of random weights, in the layout of the published models that it is named
after. It is converted and verified against transformers and sentence-transformers, with the
product of an adapter added to their weights. `FOLDER` is where it lay.

- *Layers*: the largest relative error of any layer, from raw clips on where the checkpoint has
  a feature extractor. In bfloat16 and float16 both sides have the rounded weights.
- *Vectors*: the largest relative error of vectors of raw texts, by sentence-transformers. Of
  the published speech model: the largest difference from what its own code gave for a clip.
- *Texts*: rows of tokens, and transcripts, that are equal. Longer texts than 512 tokens were not
  run.

Written by `python docs/tools/checkpoint_table.py` from `tests/helpers/checkpoint_rows.py`,
with {versions}."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a checkpoint.

    Attributes:
        verdict: `SAME`, `REFUSED` or `WRONG`.
        line: of the refusal, of what went wrong, or what a certificate does not cover.
        layers: the largest error of any layer.
        vectors: that of vectors of raw texts; None where there are none.
        counts: (equal, all) outcomes of tokens and words.
    """

    verdict: str
    line: str = ""
    layers: float | None = None
    vectors: float | None = None
    counts: tuple[int, int] = (0, 0)


def main(argv: Sequence[str]) -> int:
    parser = CommandParser(prog="python docs/tools/checkpoint_table.py", description=__doc__)
    parser.add_argument("--only", metavar="WORD", help="print these rows, write nothing")
    parser.add_argument("--page", type=user_path, default=PAGE, help="the page")
    parser.add_argument("--reproductions", type=user_path, help="run these scripts, write nothing")
    args = parser.parse_args(argv)
    if args.reproductions:
        return reproduce(args.reproductions)
    prepare()
    rows = rows_of_the_page()
    if args.only:
        rows = [row for row in rows if args.only in f"{row.group}: {row.name}"]
        if not rows:
            hint = "pass a part of a group's or a row's name, as docs/checkpoints.md has them"
            raise MrlError(f"no row has {args.only!r} in its name", where="--only", hint=hint)
    outcomes = []
    for row in rows:
        outcomes.append(outcome := try_row(row))
        print(f"{row.group}: {row.name}: {' | '.join(cells(outcome))}", flush=True)
    if not args.only:
        args.page.write_text(page(rows, outcomes), encoding="utf-8")
    wrong = [row for row, found in zip(rows, outcomes, strict=True) if found.verdict == WRONG]
    for row in wrong:
        print(f"error: {row.group}: {row.name}: neither the same model nor refused")
    return 1 if wrong else 0


def prepare() -> None:
    """CPU, one thread, nothing from the hub, quick compilation; tests/helpers can be imported."""
    os.environ |= {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"TQDM_DISABLE": "1"}
    sys.path[:0] = [str(ROOT / "tests" / "helpers"), str(ROOT)]
    import jax
    import torch
    import transformers

    jax.config.update("jax_disable_most_optimizations", True)
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def rows_of_the_page() -> list[Any]:
    """Of the published folder too, where the data lie beside the checkout."""
    cases = importlib.import_module("checkpoint_rows")
    rows = cases.all_rows()
    if importlib.import_module("oolel_cases").PUBLISHED.is_dir():
        rows += [*published_models(), *cases.published_rows()]
    return rows


def published_models() -> list[Any]:
    """The two oracles, which are compared with what the published code computed."""
    cases = importlib.import_module("checkpoint_rows")
    published = importlib.import_module("oolel_cases")
    return [
        cases.Row(
            "The published speech model",
            f"{mode}: {kind.replace('_', ' ')}",
            "oolel-embed",
            lambda _, mode=mode: [published.PUBLISHED / mode],
        )
        for mode, kind in published.KINDS.items()
    ]


def try_row(row: Any) -> Outcome:
    """Make, convert and verify one checkpoint in a folder that is deleted again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            return _try(row, folder)
        except Exception as error:
            # Whatever is raised here is a defect of the converters, to be shown as such.
            traceback.print_exc()
            return Outcome(WRONG, f"{type(error).__name__}: {error}")


def _try(row: Any, folder: Path) -> Outcome:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        source, *options = row.make(folder)
    before = sorted(folder.iterdir())
    tower = folder / "tower"
    status, line = run([row.command, source, tower, *options])
    line = without_folders(line, folder)
    if status:
        one_line = status == 2 and line.startswith("error: ") and "\n" not in line
        clean = sorted(folder.iterdir()) == before
        return Outcome(REFUSED if one_line and clean else WRONG, line.removeprefix("error: "))
    if row.command == "oolel-embed":
        return of_oracle(tower, source)
    shared = ("--adapter", "--subfolder")
    pairs = zip(options[::2], options[1::2], strict=True)
    status, line = run(
        ["verify", tower, source, *(word for pair in pairs if pair[0] in shared for word in pair)]
    )
    line = without_folders(line, folder)
    if status:
        return Outcome(WRONG, line)
    return of_certificate(json.loads((tower / "verification.json").read_text()))


def run(words: Iterable[object]) -> tuple[int, str]:
    """Exit status of `mrl-jax convert`, and what it wrote to stderr."""
    from converters.__main__ import main as convert
    from mrl_jax.core.cli import run_command

    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        status = run_command(convert, [str(word) for word in words])
    lines = errors.getvalue().strip().splitlines()
    if status:  # Warnings of libraries stand before the line.
        lines = [line for line in lines if line.startswith("error: ")] or lines
    return status, "\n".join(lines)


def of_certificate(certificate: dict[str, Any]) -> Outcome:
    errors, counts = certificate["errors"], certificate["counts"].values()
    vectors = [error for name, error in errors.items() if name.endswith("vectors")]
    total = sum(count["of"] for count in counts)
    equal = total - sum(count["differ"] for count in counts)
    # The reasons behind the colons are on the page of convert.
    not_covered = [
        re.split(r": | \(", words)[0]
        for words in certificate["not_covered"]
        if not words.startswith(LONG)
    ]
    return Outcome(
        SAME,
        line=", ".join(not_covered),
        layers=max(error for name, error in errors.items() if not name.endswith("vectors")),
        vectors=max(vectors, default=None),
        counts=(equal, total),
    )


def of_oracle(model: Path, source: Path) -> Outcome:
    """A whole model against the vectors that the published code gave for a waveform."""
    published = importlib.import_module("oolel_cases")
    error = published.ERRORS[source.name](model, *published.oracle(source.name))
    return Outcome(SAME if error < 1e-4 else WRONG, vectors=error)


def without_folders(text: str, folder: Path) -> str:
    """No path of this machine."""
    published = importlib.import_module("oolel_cases").PUBLISHED
    for place in (folder, folder.resolve(), published):
        text = text.replace(f"{place}/tower", "OUT").replace(str(place), "FOLDER")
    return text


REPRODUCED = """
import importlib.util, sys
import mrl_jax.core.cli, mrl_jax.data.text, mrl_jax.data.text.tokenizer
spec = importlib.util.spec_from_file_location("helper", {helper!r})
helper = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helper)
globals().update(vars(helper), _randomized=helper.randomized)
sys.modules["mrl_jax.errors"] = mrl_jax.core.cli
vars(mrl_jax.data.text).update(vars(mrl_jax.data.text.tokenizer))
"""
"""A module `published` for scripts that know the names of before the package had its folders."""


def reproduce(scripts: Path) -> int:
    """Run shell scripts that take a checkout in MRL and a Python in PY; print what they say."""
    status = 0
    with tempfile.TemporaryDirectory() as name:
        checkout = Path(name)
        (checkout / "tests").mkdir()
        (checkout / "mrl_jax").symlink_to(ROOT / "mrl_jax")
        helper = str(ROOT / "tests" / "helpers" / "published.py")
        (checkout / "tests" / "published.py").write_text(REPRODUCED.format(helper=helper))
        env = {**os.environ, "MRL": name, "PY": sys.executable, "PYTHONPATH": str(ROOT)}
        for script in sorted(scripts.glob("*/run.sh")):
            done = subprocess.run(["bash", script], env=env, capture_output=True, text=True)
            print(f"{script.parent.name}: status {done.returncode}\n{done.stdout}", flush=True)
            status = status or done.returncode
    return status


def page(rows: Sequence[Any], outcomes: Sequence[Outcome]) -> str:
    verdicts = [outcome.verdict for outcome in outcomes]
    parts = [
        INTRODUCTION.format(
            count=len(rows),
            same=verdicts.count(SAME),
            refused=verdicts.count(REFUSED),
            wrong=verdicts.count(WRONG),
            versions=versions(),
        )
    ]
    for group in dict.fromkeys(row.group for row in rows):
        pairs = zip(rows, outcomes, strict=True)
        parts += [f"## {group}", table([pair for pair in pairs if pair[0].group == group])]
    return "\n\n".join(parts) + "\n"


def table(pairs: Sequence[tuple[Any, Outcome]]) -> str:
    lines = [
        ["checkpoint", "result", "layers", "vectors", "texts"],
        [":---", ":---", *["---:"] * 3],
    ]
    lines += [[escaped(row.name), *map(escaped, cells(outcome))] for row, outcome in pairs]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(outcome: Outcome) -> list[str]:
    """Result, layers, vectors and texts."""
    figures = ["" if x is None else f"{x:.0e}" for x in (outcome.layers, outcome.vectors)]
    equal, total = outcome.counts
    texts = f"{equal} of {total}" if total else ""
    if outcome.verdict == SAME:
        rest = f"; not covered: {outcome.line}" if outcome.line else ""
        return [f"the same{rest}", *figures, texts]
    return [f"{outcome.verdict}: {outcome.line}", *figures, texts]


def escaped(text: str) -> str:
    """Text of a cell, in which only backticks keep a meaning."""
    if text.startswith("`"):
        return text.replace("|", "\\|")
    return re.sub(r"([\\|<>*_\[\]`])", r"\\\1", text)


def versions() -> str:
    packages = ("jax", "flax", "torch", "transformers", "sentence-transformers", "safetensors")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


if __name__ == "__main__":
    sys.exit(run_command(main))
