"""The layers of ARCHITECTURE.md, checked against the imports of the code."""

import ast
import graphlib
from pathlib import Path

import pytest
from repository import ROOT

LAYERS: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("nn", "data", "metrics"),
    ("models",),
    ("losses", "checkpoints"),
    ("inference",),
    ("evaluation", "serving", "integrations"),
    ("curation", "publishing"),
    ("training",),
    ("demo",),
)
"""Packages of `mrl_jax`, lowest first; each imports only from itself and from lower layers."""
LAYER_OF = {package: number for number, layer in enumerate(LAYERS) for package in layer}
TRAINING_MAY_USE = {"evaluation.scoring"}
"""Of evaluation, training knows only what scores a validation set."""
LAZY = {"losses", "metrics"}
"""Packages whose `__init__` offers names, imported when they are first used."""

HUGGING_FACE_NAMES = (
    "self_attn",
    "conv_layers",
    "embed_tokens.weight",
    "feature_projection",
    "post_attention_layernorm",
    "intermediate_dense",
    "weight_g",
    "original0",
    "pos_conv_embed",
)


def module_name(path: Path, root: Path) -> str:
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, in functions and for types as well."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                # A wheel installs converters/ below mrl_jax; claims_worlds has two names as well.
                packages = ("converters", "claims_worlds")
                inside = node.level == 1 and path.parent.name in packages
                assert inside, f"{path} has a relative import"
                module = f"converters.{module}".removesuffix(".")
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def library(root: Path) -> dict[str, set[str]]:
    """The library's modules, without its name, and those of its modules that each imports."""
    folder = root / "mrl_jax"
    paths = {module_name(path, folder): path for path in folder.rglob("*.py")}
    paths = {name: path for name, path in paths.items() if path.name != "__init__.py"}
    return {
        name: {
            target.removeprefix("mrl_jax.")
            for target in imports(path)
            if target.removeprefix("mrl_jax.") in paths and target.startswith("mrl_jax.")
        }
        for name, path in paths.items()
    }


def violations(root: Path) -> list[str]:
    broken = []
    for name, targets in sorted(library(root).items()):
        package = name.partition(".")[0]
        if package not in LAYER_OF or "." not in name:
            broken.append(f"{name} is in no layer")
            continue
        for target in sorted(targets):
            other = target.partition(".")[0]
            allowed = other == package or LAYER_OF.get(other, len(LAYERS)) < LAYER_OF[package]
            if package == "training" and other == "evaluation":
                allowed = target in TRAINING_MAY_USE
            if not allowed:
                broken.append(f"{name} imports {target}")
    return broken


def test_files_import_only_from_below():
    assert violations(ROOT) == []


def test_the_root_holds_the_packages_and_no_loose_module():
    entries = {path.name for path in (ROOT / "mrl_jax").iterdir()} - {"__pycache__"}
    assert entries == {*LAYER_OF, "__init__.py", "py.typed"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("core/errors", "from mrl_jax.nn import param_tree", "core.errors imports nn.param_tree"),
        ("nn/norms", "from mrl_jax.models.qwen3 import Qwen3", "nn.norms imports models.qwen3"),
        (
            "checkpoints/towers",
            "def f():\n    from mrl_jax.inference.embedder import Embedder",
            "checkpoints.towers imports inference.embedder",
        ),
        (
            "data/audio/decode",
            "from mrl_jax.models.hubert import x",
            "data.audio.decode imports models.hubert",
        ),
        (
            "losses/ctc",
            "from mrl_jax.checkpoints.towers import x",
            "losses.ctc imports checkpoints.towers",
        ),
        (
            "training/loop",
            "from mrl_jax.evaluation.report.page import x",
            "training.loop imports evaluation.report.page",
        ),
        ("novel", "", "novel is in no layer"),
        ("strange/novel", "", "strange.novel is in no layer"),
        ("nn/deep/novel", "from mrl_jax.demo.world import x", "nn.deep.novel imports demo.world"),
    ],
)
def test_the_check_sees_a_forbidden_import(name, text, message, tmp_path):
    for path in (ROOT / "mrl_jax").rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    assert violations(tmp_path) == []
    path = tmp_path / "mrl_jax" / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{text}\n")
    assert any(message in line for line in violations(tmp_path))


def test_nothing_imports_in_a_circle():
    for package in ("mrl_jax", "converters"):
        folder = ROOT / package
        graph = {module_name(path, ROOT): imports(path) for path in folder.rglob("*.py")}
        # These offer names that they import when they are first used.
        for lazy in (package, *(f"{package}.{name}" for name in LAZY)):
            graph.pop(lazy, None)
        graph = {name: {t for t in all_ if t in graph} - {name} for name, all_ in graph.items()}
        order = list(graphlib.TopologicalSorter(graph).static_order())
        assert set(order) == set(graph)
        # One import back, from a module to one that imports it, is seen.
        importer = next(name for name, targets in graph.items() if targets)
        graph[next(iter(graph[importer]))].add(importer)
        with pytest.raises(graphlib.CycleError):
            graphlib.TopologicalSorter(graph).prepare()


def test_importing_the_library_runs_no_import():
    tree = ast.parse((ROOT / "mrl_jax" / "__init__.py").read_text(encoding="utf-8"))
    names = {
        alias.name
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert names == {"TYPE_CHECKING", "homes_of", "lazy_getattr"}
    for path in (ROOT / "mrl_jax").rglob("*/__init__.py"):
        if path.parent.name not in LAZY:
            assert not imports(path), path


def test_only_tests_benchmarks_docs_and_converters_import_converters():
    importers = set()
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).parts
        if parts[0].startswith(".") or parts[0] == "build":
            continue
        if any(name.split(".")[0] == "converters" for name in imports(path)):
            importers.add(parts[0])
    assert "converters" in importers
    assert importers <= {"converters", "tests", "benchmarks", "docs"}


def test_the_library_below_the_demo_knows_no_other_framework():
    for path in (ROOT / "mrl_jax").rglob("*.py"):
        if "demo" not in path.parts:
            roots = {name.split(".")[0] for name in imports(path)}
            assert not roots & {"torch", "tensorflow", "transformers"}, path


def test_only_converters_know_hugging_faces_names():
    converters = "".join(path.read_text() for path in (ROOT / "converters").glob("*.py"))
    for name in HUGGING_FACE_NAMES:
        assert name.split(".")[0] in converters, f"{name} is no such name"
        for path in (ROOT / "mrl_jax").rglob("*.py"):
            assert name not in path.read_text(encoding="utf-8"), f"{path} knows {name}"


def test_annotations_are_not_postponed():
    # Postponed ones are strings, which the shape checks of the test run cannot execute.
    for path in (ROOT / "mrl_jax").rglob("*.py"):
        assert "__future__.annotations" not in imports(path), path
