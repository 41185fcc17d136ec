"""The wheel, installed where no checkout is: it holds all that its commands need.

It is built from a copy of the sources and installed into an environment of its own, which sees
the packages of the environment of the tests, but neither the checkout nor its editable install.
"""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import tiny_run
from repository import ROOT
from tiny_checkpoints import write_config

import mrl_jax

SOURCES = ("mrl_jax", "converters", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@dataclasses.dataclass(frozen=True)
class Installed:
    """An environment with the wheel: its programs, its packages, and an empty folder."""

    bin: Path
    packages: Path
    work: Path

    def run(self, program: str, *argv: object) -> subprocess.CompletedProcess[str]:
        """A program of the environment in the empty folder, without the variables of Python."""
        variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        command = [str(self.bin / program), *map(str, argv)]
        return subprocess.run(
            command, cwd=self.work, env=variables, capture_output=True, text=True, timeout=300
        )

    def mrl_jax(self, *argv: object) -> str:
        """What a command that must succeed prints."""
        done = self.run("mrl-jax", *argv)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    quiet = ("--no-deps", "--no-index")
    _check([*pip, "wheel", *quiet, "--no-build-isolation", "--wheel-dir", root, source])
    environment = root / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    _check([*pip, "--python", python, "install", *quiet, *root.glob("*.whl")])
    (packages,) = environment.glob("lib/python*/site-packages")
    # A path line adds a folder as it is: the .pth files in it, the editable install among them,
    # are not read.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (root / "work").mkdir()
    return Installed(environment / "bin", packages, root / "work")


def _check(command: list[object]) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_site_packages_gets_one_name(installed):
    names = {path.name for path in installed.packages.iterdir()}
    version = mrl_jax.__version__
    assert names == {"mrl_jax", f"mrl_jax-{version}.dist-info", "others.pth"}
    for name in ("converters", "configs"):
        held = {path.name for path in (installed.packages / "mrl_jax" / name).glob("*.py")}
        assert held == {path.name for path in (ROOT / name).glob("*.py")}
    script = """
import importlib.util, mrl_jax
print(mrl_jax.__file__, importlib.util.find_spec("converters"))
"""
    done = installed.run("python", "-c", script)
    assert done.stdout.split() == [str(installed.packages / "mrl_jax" / "__init__.py"), "None"]


def test_the_wheel_has_every_module_and_the_data(installed):
    here, there = ROOT / "mrl_jax", installed.packages / "mrl_jax"
    expected = {
        path.relative_to(here)
        for path in here.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert Path("demo/towers_hf/text/model.safetensors") in expected
    assert [path for path in expected if not (there / path).is_file()] == []


@pytest.fixture(scope="module")
def world(installed: Installed) -> Path:
    """Recordings, a retrieval set, and two towers that the wheel's own commands make."""
    work = installed.work
    manifest = tiny_run.make_manifest(work / "recordings", examples=16)
    tiny_run.make_retrieval_set(work / "test", queries=4)
    write_config("hubert", work / "config.json")
    installed.mrl_jax("convert", "random-init", "hubert", "config.json", "checkpoint")
    installed.mrl_jax("convert", "hubert", "checkpoint", "towers/speech")
    published = installed.packages / "mrl_jax" / "demo" / "towers_hf" / "text"
    installed.mrl_jax("convert", "qwen3", published, "towers/text")
    installed.mrl_jax("build", manifest, "data")
    return work


FEW_STEPS = ("train.steps=2", "train.checkpoint_every=2", "data.batch.batch_size=8")
OVERRIDES = ("data.train=data", "model.dtype=float32", "loss.dims=32,16")


@pytest.mark.slow
def test_a_config_of_ones_own_trains(installed, world):
    tiny_run.make_config(world, Path("towers/speech"), Path("towers/text"), Path("data"))
    installed.mrl_jax("train", "--config", "tiny.py", "--workdir", "mine", *FEW_STEPS)
    assert (world / "mine" / "model.json").is_file()


def test_a_preset_trains_and_its_model_is_evaluated(installed, world):
    installed.mrl_jax("train", "--config", "late_fusion", *FEW_STEPS, *OVERRIDES)
    model = world / "runs" / "late_fusion"
    assert (model / "model.json").is_file()
    installed.mrl_jax("eval", "retrieval", "--model", model, "--data", "test", "--out", "report")
    report = (world / "report" / "report.md").read_text("utf-8")
    assert "nDCG@10" in report
    assert (world / "report" / "report.html").is_file()


REFUSED = {
    "unknown command": (("trian",), "Did you mean train?"),
    "unknown preset": (("train", "--config", "late_fusio"), "Did you mean late_fusion?"),
    "preset by its path": (
        ("train", "--config", "configs/late_fusion.py"),
        "configs/late_fusion.py: no such config. Did you mean late_fusion?",
    ),
    "no towers": (("train", "--config", "late_fusion"), "towers/speech"),
    "no model": (("eval", "retrieval", "--model", "none", "--data", "none"), "none"),
    "no manifest": (("build", "none.jsonl", "built"), "none.jsonl"),
    "no checkpoint": (("convert", "qwen3", "./none", "tower"), "none"),
    "nothing to rotate": (("rotate", "--model", "none", "--data", "none"), "none"),
    "no parts": (("cascade", "--config", "demo_cascade", "--out", "cascade"), "demo/towers/"),
    "no folder": (("demo", "--out", "file"), "file: is a file, expected a folder"),
}
"""Command lines in a folder with nothing but `file`, and a part of the line that each prints."""


def test_what_is_not_there_is_one_line(installed, tmp_path):
    """All in one process, which loads JAX once."""
    (tmp_path / "file").touch()
    (tmp_path / "cases.json").write_text(json.dumps([argv for argv, _ in REFUSED.values()]))
    script = """
import contextlib, io, json, sys
from mrl_jax.core.cli import run_command
from mrl_jax.core.commands import main
answers = []
for argv in json.load(open("cases.json")):
    with contextlib.redirect_stderr(io.StringIO()) as err:
        answers.append((run_command(main, argv), err.getvalue()))
print(json.dumps(answers))
"""
    elsewhere = dataclasses.replace(installed, work=tmp_path)
    done = elsewhere.run("python", "-c", script)
    assert done.returncode == 0, done.stderr
    for (name, (_, part)), answer in zip(REFUSED.items(), json.loads(done.stdout), strict=True):
        status, line = answer
        assert status == 2, (name, line)
        assert line.startswith("error: "), name
        assert line.count("\n") == 1, line
        assert part in line, name
        assert not re.search(r"train\.py|eval\.py|python -m", line), line
    assert {path.name for path in tmp_path.iterdir()} == {"file", "cases.json"}


MISSING = {
    "array_record": ("train", ("train", "--config", "late_fusion", *FEW_STEPS, *OVERRIDES)),
    "jiwer": ("train", ("train", "--config", "of_jiwer.py")),
    "espeakng_loader": ("demo", ("demo",)),
}
"""Package: the extra that installs it, and a command line that takes it."""


@pytest.fixture(scope="module")
def without_extras(installed: Installed, world: Path, tmp_path_factory: pytest.TempPathFactory):
    """The environment of the wheel without the packages of `MISSING`."""
    folder = tmp_path_factory.mktemp("packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name.partition(".")[0] not in MISSING:
            (folder / path.name).symlink_to(path)
    others = installed.packages / "others.pth"
    everything = others.read_text()
    others.write_text(f"{folder}\n")
    (world / "of_jiwer.py").write_text("import jiwer\n")
    yield installed
    others.write_text(everything)


@pytest.mark.parametrize("module", MISSING)
def test_a_missing_extra_is_named(module, without_extras):
    extra, argv = MISSING[module]
    done = without_extras.run("mrl-jax", *argv)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"{module}, which is not installed" in done.stderr
    assert f"mrl_jax[{extra}]" in done.stderr
