"""Conversions in processes forked from one that has imported all: an import costs seconds."""

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import orbax.checkpoint  # noqa: F401  (Imported before the fork.)

from converters.__main__ import main
from mrl_jax.core.cli import run_command

_CONTEXT = multiprocessing.get_context("forkserver")


def start_conversion(argv: Sequence[str], errors: Path) -> BaseProcess:
    """`mrl-jax convert` with these words; what it writes to stderr goes to the file `errors`."""
    _CONTEXT.set_forkserver_preload(["forked_convert"])
    process = _CONTEXT.Process(target=_convert, args=(list(argv), str(errors)))
    process.start()
    return process


def _convert(argv: Sequence[str], errors: str) -> None:
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    raise SystemExit(run_command(main, argv))
