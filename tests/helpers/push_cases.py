"""Models that differ in their heads, and a process that pushes and loads by name."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from repository import ROOT
from tiny_run import make_model

from mrl_jax.checkpoints.head_file import read_head_arrays
from mrl_jax.checkpoints.models import read_model_info, save_model

TEXTS = ["ba ce", "di"]
STEPS = """
import contextlib, io, json, sys
import numpy as np
import mrl_jax
from mrl_jax.core.cli import run_command
from mrl_jax.core.commands import main

def vectors(words):
    name, revision, out = words
    embedder = mrl_jax.Embedder.load(name, revision=revision)
    tone = np.sin(np.arange(8000, dtype=np.float32) / 9)
    np.savez(out, text=embedder.embed_text(TEXTS), speech=embedder.embed_speech([(tone, 16000)]))
    return 0

for argv in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        status = run_command(vectors if len(argv) == 3 and argv[2].endswith(".npz") else main, argv)
    print("STEP" + json.dumps([status, out.getvalue(), err.getvalue()]))
"""


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
    env: dict[str, str], *steps: Sequence[str | None], folder: Path = ROOT
) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of command lines, and of [name, revision, FILE.npz], which
    embeds; all in one fresh process in `folder`.
    """
    script = STEPS.replace("TEXTS", repr(TEXTS))
    argv = [sys.executable, "-c", script, json.dumps(steps)]
    env = {**env, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, env=env, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line[4:] for line in done.stdout.splitlines() if line.startswith("STEP")]
    assert len(lines) == len(steps)
    return [tuple(json.loads(line)) for line in lines]


def check_refused(result: tuple[int, str, str], *parts: str) -> None:
    status, _, message = result
    assert status == 2, message
    lines = [line for line in message.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, message
    assert message.splitlines()[-1] == lines[0]
    for part in parts:
        assert part in lines[0], lines[0]
