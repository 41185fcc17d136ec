"""The layers of ARCHITECTURE.md, held against the imports that the code really has."""

import ast
import graphlib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from repository import ROOT

LAYERS: list[dict[str, set[str]]] = [
    # Each file, and the siblings it may import; all layers above its own are open to it.
    {
        "array_types": set(),
        "batch": {"array_types"},
        "errors": set(),
        "staging": {"errors"},
        "hosts": {"errors"},
        "config_tree": {"errors"},
        "compilation_cache": set(),
    },
    {
        "nn.*": {"nn.*"},
        "param_tree": set(),
        "nested_softmax": set(),
        "losses": {"nn.*", "nested_softmax"},
        "metrics": set(),
        "tied_metrics": {"metrics"},
    },
    {
        "models.qwen3": set(),
        "models.hubert": set(),
        "models.clips": {"models.hubert"},
        "models.ctc": {"models.hubert"},
        "models.two_towers": {"models.hubert", "models.qwen3"},
        "models.fusion": {"models.two_towers"},
        "models.late_fusion": {
            "models.hubert",
            "models.qwen3",
            "models.fusion",
            "models.two_towers",
        },
        "models.dual_encoder": {"models.hubert", "models.qwen3", "models.two_towers"},
        "orbax_arrays": set(),
    },
    {
        "data.*": {"data.*"},
        "tower_folder": set(),
        "model_folder": {"tower_folder"},
        "checkpoint": set(),
        "linen": set(),
        "text_tower_files": {"tower_folder"},
        "speech_tower_files": {"tower_folder"},
    },
    {"training.*": {"training.*"}, "evaluation.*": {"evaluation.*"}},
    {
        "experiment": set(),
        "frozen_stores": {"experiment"},
        "head_start": set(),
        "run_folder": set(),
        "stage_run": {"run_folder"},
        "training_run": {"experiment", "frozen_stores", "head_start", "run_folder", "stage_run"},
        "text_experiment": {"experiment"},
        "text_run": {"experiment", "run_folder", "stage_run", "text_experiment"},
        "ctc_experiment": set(),
        "ctc_run": {"ctc_experiment", "run_folder", "stage_run"},
        "embedder": set(),
        "report_folder": {"embedder"},
        "measured_set": {"embedder"},
        "pipeline_folder": {"experiment", "run_folder"},
        "pipeline": {"pipeline_folder"},
        "measured_systems": {"embedder", "measured_set", "pipeline", "pipeline_folder"},
        "pipeline_stages": {"measured_systems", "pipeline"},
        "compare_report": {
            "measured_set",
            "measured_systems",
            "pipeline_folder",
            "pipeline_stages",
            "report_folder",
        },
        "*_report": {"embedder", "measured_set", "report_folder"},
        "rotate": {"embedder", "measured_set"},
        "demo.*": {
            "demo.*",
            "embedder",
            "experiment",
            "pipeline_folder",
            "retrieval_report",
            "training_run",
        },
    },
]
EXCEPTIONS = {("data.*", "models.*"): "data never imports models"}
PACKAGES = {"nn", "models", "data", "training", "evaluation", "demo"}
"""Folders: their __init__ files are empty of imports, and so in no layer."""

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
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def library(root: Path) -> dict[str, set[str]]:
    """The library's modules, without its name, and those of its modules that each imports."""
    folder = root / "mrl_jax"
    paths = {module_name(path, folder): path for path in folder.rglob("*.py")}
    paths = {name: path for name, path in paths.items() if name not in {"__init__", *PACKAGES}}
    return {
        name: {
            target.removeprefix("mrl_jax.")
            for target in imports(path)
            if target.removeprefix("mrl_jax.") in paths and target.startswith("mrl_jax.")
        }
        for name, path in paths.items()
    }


def place(name: str) -> tuple[int, set[str]] | None:
    for level, layer in enumerate(LAYERS):
        for pattern, siblings in layer.items():
            if fnmatch(name, pattern):
                return level, siblings
    return None


def violations(root: Path) -> list[str]:
    found = []
    for name, targets in sorted(library(root).items()):
        home = place(name)
        if home is None:
            found.append(f"{name} is in no layer")
            continue
        for target in sorted(targets):
            other = place(target)
            sibling = any(fnmatch(target, pattern) for pattern in home[1])
            if other is None or not (other[0] < home[0] or sibling):
                found.append(f"{name} imports {target}")
            for (importer, imported), rule in EXCEPTIONS.items():
                if fnmatch(name, importer) and fnmatch(target, imported):
                    found.append(f"{name} imports {target}: {rule}")
    return found


def test_files_import_only_from_below():
    assert violations(ROOT) == []


def test_every_row_of_the_table_is_a_file():
    names = set(library(ROOT))
    for layer in LAYERS:
        for pattern in layer:
            if pattern != "demo.*":  # The next issue fills it.
                assert any(fnmatch(name, pattern) for name in names), pattern


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("errors", "from mrl_jax import param_tree", "errors imports param_tree"),
        ("nn/norms", "from mrl_jax.models.qwen3 import Qwen3", "nn.norms imports models.qwen3"),
        ("models/qwen3", "import mrl_jax.models.hubert", "models.qwen3 imports models.hubert"),
        ("models/hubert", "from mrl_jax.models import ctc", "models.hubert imports models.ctc"),
        (
            "tower_folder",
            "def f():\n    from mrl_jax.data.audio.decode import load_clip",
            "tower_folder imports data.audio",
        ),
        ("data/audio", "from mrl_jax.models.hubert import x", "data never imports models"),
        ("novel", "", "novel is in no layer"),
        ("nn/deep/novel", "from mrl_jax.demo.world import x", "nn.deep.novel imports demo.world"),
    ],
)
def test_the_check_sees_a_broken_wall(name, text, message, tmp_path):
    for path in (ROOT / "mrl_jax").rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "mrl_jax" / "demo" / "world.py").touch()
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
        del graph[package]  # The face of the library names everything, and imports it lazily.
        graph = {name: {t for t in found if t in graph} - {name} for name, found in graph.items()}
        order = list(graphlib.TopologicalSorter(graph).static_order())
        assert len(order) > 5
    circle = graphlib.TopologicalSorter({order[0]: {order[-1]}, order[-1]: {order[0]}})
    with pytest.raises(graphlib.CycleError):
        circle.prepare()


def test_importing_the_library_runs_no_import():
    tree = ast.parse((ROOT / "mrl_jax" / "__init__.py").read_text(encoding="utf-8"))
    names = {
        alias.name
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert names == {"importlib", "TYPE_CHECKING", "Any"}
    for package in PACKAGES:
        assert not imports(ROOT / "mrl_jax" / package / "__init__.py")


def test_only_tests_benchmarks_and_converters_import_converters():
    importers = set()
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).parts
        if parts[0].startswith(".") or parts[0] == "build":
            continue
        if any(name.split(".")[0] == "converters" for name in imports(path)):
            importers.add(parts[0])
    assert "converters" in importers
    assert importers <= {"converters", "tests", "benchmarks"}


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
