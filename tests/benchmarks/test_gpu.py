"""benchmarks/gpu.sh at toy sizes: every part runs, with the packages that it names alone."""

import dataclasses
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time

import pytest
from repository import ROOT

from benchmarks.gpu_parts import card

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "transformers", "torch", "numpy")
PACKAGES += ("jaxtyping", "safetensors")
IMPORTS = """
import importlib.abc, json, sys

missing = set(json.loads(sys.argv[1]))

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
sys.path.insert(0, "benchmarks")
import gpu_parts.attention, gpu_parts.large, gpu_parts.loss, gpu_parts.pytorch
from gpu_parts import step

results = dict(step.measure(toy=True))
print(json.dumps([x["error"] for x in results.values() if "error" in x]))
"""


def needed(package: str, seen: set[str]) -> set[str]:
    """A package and all that it requires, by their normalised names."""
    name = re.sub(r"[-_.]+", "-", package).lower()
    if name in seen:
        return seen
    seen.add(name)
    try:
        requires = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return seen
    for requirement in requires:
        if "extra ==" not in requirement:
            needed(re.split(r"[ ;<>=!~\[(]", requirement, maxsplit=1)[0], seen)
    return seen


@dataclasses.dataclass(frozen=True)
class States:
    made: list["States"]

    def copy(self) -> "States":
        self.made.append(States([]))
        return self.made[-1]


@dataclasses.dataclass(frozen=True)
class Stored:
    states: States


@dataclasses.dataclass(frozen=True)
class Given:
    speech: Stored


@pytest.mark.parametrize("count", [0, 1, 10])
def test_copies_are_made_a_few_ahead(monkeypatch, count):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("late_fusion_step")
    made: list[States] = []
    used = 0
    for given in module.copies_ahead(Given(Stored(States(made))), count):
        used += 1
        assert any(given.speech.states is one for one in made)
        time.sleep(0.01)  # For threads that run on further than they may.
        assert len(made) <= used + module.AHEAD
    assert used == len(made) == count


@pytest.mark.slow
def test_all_parts_run_at_toy_sizes(tmp_path):
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable}
    command = ["bash", "benchmarks/gpu.sh", "--toy"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = [json.loads(x) for x in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert not [x for x in results if "stopped" in x]
    assert {x["part"] for x in results} == {"attention", "step", "pytorch", "loss", "large"}
    # No GPU here: that alone may be missing.
    missing = [x["name"] for x in results if "error" in x]
    assert all(name.endswith((": cudnn", ": pallas")) for name in missing)
    names = {x["name"] for x in results}
    assert {"linear", "soft, cached both", "clips", "texts", "step, eager", "4B in int8"} <= names
    assert len(results) - len(missing) > 15


@pytest.mark.parametrize(
    ("device", "name"),
    [("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200"), ("NVIDIA A100-SXM4", "a100_sxm4")],
)
def test_results_are_named_by_card(device, name):
    assert card(device) == name


def test_a_part_that_breaks_off_is_recorded(tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": str(broken), "PARTS": "loss"}
    subprocess.run(["bash", "benchmarks/gpu.sh", "--toy"], cwd=ROOT, env=environment, check=True)
    assert json.loads((tmp_path / "gpu.jsonl").read_text()) == {"part": "loss", "stopped": 3}


@pytest.mark.slow
def test_it_imports_what_a_bare_machine_has():
    allowed: set[str] = {"mrl-jax"}
    for package in PACKAGES:
        needed(package, allowed)
    missing = [
        name
        for name, owners in importlib.metadata.packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & allowed
    ]
    assert {"pytest", "soundfile"} <= set(missing)
    command = [sys.executable, "-c", IMPORTS, json.dumps(missing)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
