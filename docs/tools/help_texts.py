"""Write what `--help` prints into the pages of docs/commands.

    python docs/tools/help_texts.py            writes
    python docs/tools/help_texts.py --check    changes nothing; status 1 where a page is out of date

A help text stands in the code block behind `<!-- help: mrl-jax COMMAND ... -->`.
"""

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mrl_jax.core.commands import main as mrl_jax_main
from mrl_jax.core.paths import user_path

COMMANDS = Path(__file__).parents[1] / "commands"
WIDTH = "92"
MARKED = re.compile(r"(<!-- help: mrl-jax ?(.*?) -->\n```text\n).*?(```)", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--pages", type=user_path, default=COMMANDS, help="folder of the pages")
    args = parser.parse_args(argv)
    status = 0
    for path in sorted(args.pages.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        current = MARKED.sub(lambda mark: mark[1] + help_text(mark[2].split()) + mark[3], text)
        if current == text:
            continue
        if args.check:
            print(f"{path}: a help text differs; run python docs/tools/help_texts.py")
            status = 1
        else:
            path.write_text(current, encoding="utf-8")
    return status


def help_text(command: Sequence[str]) -> str:
    """What `mrl-jax COMMAND ... --help` prints, on a terminal of fixed width."""
    os.environ["COLUMNS"] = WIDTH
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        mrl_jax_main([*command, "--help"])
    return output.getvalue()


if __name__ == "__main__":
    sys.exit(main())
