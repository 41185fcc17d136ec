"""Models that differ in their heads, and command lines that push and load by name."""

import contextlib
import functools
import importlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
from huggingface_hub import close_session, constants
from repository import ROOT
from tiny_run import make_model

import mrl_jax
from mrl_jax.checkpoints.head_file import read_head_arrays
from mrl_jax.checkpoints.models import read_model_info, save_model
from mrl_jax.core import commands
from mrl_jax.core.cli import run_command

TEXTS = ["ba ce", "di"]


def make_models(root: Path) -> tuple[Path, Path]:
    """Two models of one pair of towers, whose heads differ in one number."""
    first = make_model(root)
    info = read_model_info(first)
    arrays = read_head_arrays(first / info.head, hint="")
    name = min(arrays)
    arrays[name] = np.array(arrays[name]) + np.float32(0.5)
    fields = {key: value for key, value in vars(info).items() if not key.startswith("head")}
    del fields["files"]
    second = root / "second"
    save_model(second, {**fields, "step": info.step + 1}, arrays)
    return first, second


def run_steps(
    env: Mapping[str, str], *steps: Sequence[str | None], folder: Path = ROOT
) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of command lines, and of [name, revision, FILE.npz], which
    embeds; all in this process, in `folder`.
    """
    results = []
    with environment_of(env), contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Of the hub's own HTTP client.
        for argv in steps:
            out, err = io.StringIO(), io.StringIO()
            embeds = len(argv) == 3 and str(argv[2]).endswith(".npz")
            run = functools.partial(_embed if embeds else commands.main, argv)
            with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
                status = run_command(lambda _, run=run: run(), [])
            results.append((status, out.getvalue(), err.getvalue()))
    return results


@contextlib.contextmanager
def environment_of(env: Mapping[str, str]) -> Iterator[None]:
    """What huggingface_hub would read from an environment at its import, and no network of before.

    That is a fresh process for it, without the time that one takes to import JAX.
    """
    try:
        with mock.patch.dict(os.environ, env, clear=True):
            importlib.reload(constants)
            close_session()
            yield
    finally:
        importlib.reload(constants)
        close_session()


def _embed(words: Sequence[str | None]) -> int:
    name, revision, out = words
    assert name is not None
    assert out is not None
    embedder = mrl_jax.Embedder.load(name, revision=revision)
    tone = np.sin(np.arange(8000, dtype=np.float32) / 9)
    np.savez(out, text=embedder.embed_text(TEXTS), speech=embedder.embed_speech([(tone, 16000)]))
    return 0


def check_refused(result: tuple[int, str, str], *parts: str) -> None:
    status, _, message = result
    assert status == 2, message
    lines = [line for line in message.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, message
    assert message.splitlines()[-1] == lines[0]
    for part in parts:
        assert part in lines[0], lines[0]
