"""Every stage as a real process that is killed, or told to end, at a random moment.

`Stages` makes a tiny world, and runs a stage undisturbed before its first accident. `accident` runs
it again, disturbs it after a random part of the time that it took, and judges what is left.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from forked_train import ForkedTrain, ForkServer
from repository import HELPERS, ROOT

WORLD = """
import json
import sys
from pathlib import Path
import tiny_run as t
root = Path(sys.argv[1])
t.make_world(root, examples=96)
t.make_model(root / "m")
t.make_retrieval_set(root / "set")
speech, text = root / "towers" / "speech", root / "towers" / "text"
common = "train=LoopConfig(steps=24, checkpoint_every=4, validate_every=0, tensorboard=False)"
t.write_config(root / "ctc.py", f'''CtcExperiment(
    name="ctc",
    model=CtcModelConfig(speech_tower={str(speech)!r}),
    data=CtcDataConfig(
        train={str(root / "data" / "train.jsonl")!r}, transcripts="text",
        batch=CtcBatchConfig(batch_size=8, num_buckets=2),
    ),
    {common},
)''')
words = [((i % 5, i % 3), (i % 5, i % 4)) for i in range(96)]
pairs = [{"query": t.text_of(q), "document": t.text_of(d)} for q, d in words]
(root / "pairs.jsonl").write_text("".join(json.dumps(p) + "\\n" for p in pairs))
t.write_config(root / "text.py", f'''TextStageExperiment(
    name="text",
    model=TextModelConfig(
        new=NewTowerConfig(width=32, head_width=8, mlp_width=64), dtype="float32"
    ),
    data=TextDataConfig(
        train={str(root / "pairs.jsonl")!r}, batch=TextBatchConfig(batch_size=8)
    ),
    loss=LossConfig(dims=(32, 16)),
    optim=OptimConfig(learning_rate=1e-3),
    {common},
)''')
"""
PATIENCE = 60.0
"""Seconds within which a process that was told to end has ended."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        words: a module, and what its command line is; OUT stands for its output.
        mark: what is equal in two outputs of the same inputs.
        copied: a folder that the output begins as.
    """

    words: tuple[str, ...]
    mark: Callable[[Path], object]
    copied: Path | None = None


class Stages:
    """The stages over one tiny world, with the time that each takes and what it makes.

    Args:
        folder: gets the world and the outputs.
        server: forks processes that have imported everything, which saves most of their time.
    """

    def __init__(self, folder: Path, server: ForkServer):
        self.folder, self.server = folder, server
        self.env = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(HELPERS))),
        }
        world = folder / "world"
        command = [sys.executable, "-c", WORLD, str(world)]
        subprocess.run(command, env=self.env, check=True, timeout=600)
        self.stages = _stages(world)
        self._references: dict[str, tuple[float, object]] = {}

    def reference(self, name: str) -> tuple[float, object]:
        """Seconds that a stage takes undisturbed, and the mark of its output."""
        if name not in self._references:
            seconds = 0.0
            for _ in range(2):  # The first one compiles.
                out = self.place(name, "reference")
                begun = time.monotonic()
                assert self.start(name, out).wait() == 0, self.errors(out)
                seconds = time.monotonic() - begun
            self._references[name] = seconds, self.stages[name].mark(out)
        return self._references[name]

    def place(self, name: str, what: str) -> Path:
        """A new place for an output, in an empty folder of its own."""
        folder = self.folder / f"{name}-{what}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if (copied := self.stages[name].copied) is not None:
            shutil.copytree(copied, folder / "out")
        return folder / "out"

    def start(self, name: str, out: Path) -> ForkedTrain:
        """A process of a stage that has imported everything."""
        module, *words = self._words(name, out)
        output = out.with_name("process")
        return self.server.start(words, devices=1, cwd=ROOT, output=output, module=module)

    def start_whole(self, name: str, out: Path) -> "subprocess.Popen[bytes]":
        """A process of a stage from its very beginning."""
        with out.with_name("process.err").open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", *self._words(name, out)],
                env=self.env,
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                preexec_fn=_listen,
            )

    def _words(self, name: str, out: Path) -> list[str]:
        return [word.replace("OUT", str(out)) for word in self.stages[name].words]

    def errors(self, out: Path) -> str:
        return out.with_name("process.err").read_text(errors="replace")


def accident(
    stages: Stages, name: str, number: signal.Signals, part: float, *, whole: bool = False
) -> str:
    """Disturb a stage, and say what became of it.

    Args:
        stages: the world.
        name: of the stage.
        number: SIGKILL, SIGTERM or SIGINT.
        part: of the stage's usual time after which it arrives, from 0 on.
        whole: begin before the imports.

    Returns:
        "finished": it was faster; "recovered": the same command, run again, made the same output;
        "ended": it ended with the status that was asked for, and left nothing half-written, and
        the same command made the same output.

    Raises:
        AssertionError: any other outcome.
    """
    seconds, mark = stages.reference(name)
    out = stages.place(name, "accident")
    process = (stages.start_whole if whole else stages.start)(name, out)
    time.sleep(part * seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
    sent = time.monotonic()
    status = process.wait()
    assert time.monotonic() - sent < PATIENCE, (name, number)
    errors = stages.errors(out)
    if number != signal.SIGKILL and status != 0:
        # Before our own code runs, Python ends as it does.
        early = "core/cli.py" not in errors and status in (-number, 1)
        assert status == 128 + number or early, (status, errors)
        assert early or "Traceback" not in errors, errors
        assert "Exception ignored" not in errors, errors
    if number != signal.SIGKILL:
        assert not leftovers(out), leftovers(out)
    assert stages.start(name, out).wait() == 0, stages.errors(out)
    assert stages.stages[name].mark(out) == mark
    assert not leftovers(out), leftovers(out)
    if status == 0:
        return "finished"
    return "recovered" if number == signal.SIGKILL else "ended"


def leftovers(out: Path) -> list[str]:
    """What only a process at work has: temporary folders and files, and its lock."""
    patterns = ("*.partial*", "run.lock", "*.orbax-checkpoint-tmp*", "*incomplete*")
    return [str(path) for pattern in patterns for path in out.parent.rglob(pattern)]


def _listen() -> None:
    """A job in the background of a shell ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _stages(world: Path) -> dict[str, Stage]:
    mrl = ("mrl_jax.core.commands",)
    steps = ("train.steps=24", "train.checkpoint_every=4", "train.validate_every=0")
    model, data = str(world / "m" / "model"), str(world / "set")
    towers = ROOT / "mrl_jax" / "demo" / "towers_hf"
    train = ("train", "--workdir", "OUT", "--config")
    return {
        "build": Stage(
            (*mrl, "build", str(world / "data" / "train.jsonl"), "OUT", "--overwrite"),
            lambda out: _field(out / "build.json", "digest"),
        ),
        "train contrastive": Stage(
            (*train, str(world / "tiny.py"), *steps),
            lambda out: _field(out / "model.json", "head_digest"),
        ),
        "train ctc": Stage(
            (*train, str(world / "ctc.py")),
            lambda out: _field(out / "tower" / "tower.json", "digest"),
        ),
        "train text": Stage(
            (*train, str(world / "text.py")),
            lambda out: _field(out / "tower" / "tower.json", "digest"),
        ),
        "eval": Stage(
            (
                "eval",
                "retrieval",
                "--model",
                model,
                "--data",
                data,
                "--out",
                "OUT",
                "--overwrite",
            ),
            lambda out: _records(out / "results.jsonl"),
        ),
        "convert": Stage(
            (*mrl, "convert", "qwen3", str(towers / "text"), "OUT", "--overwrite"),
            lambda out: _field(out / "tower.json", "digest"),
        ),
        "rotate": Stage(
            (*mrl, "rotate", "--model", "OUT/model", "--data", data, "--overwrite"),
            lambda out: hashlib.sha256(
                (out / "model" / "rotation.safetensors").read_bytes()
            ).hexdigest(),
            world / "m",
        ),
    }


def _field(path: Path, name: str) -> object:
    return json.loads(path.read_text())[name]


def _records(path: Path) -> list[object]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["metric"], row["dim"], row["value"]) for row in rows]
