"""A missing optional package is reported in one line that names the extra that installs it."""

import re
import sys
import tomllib

import pytest
from repository import ROOT

from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import EXTRAS, missing_package, require
from mrl_jax.training.contrastive.config import DataConfig
from mrl_jax.training.speech_data import open_examples

FOR_USERS = (
    "text",
    "audio",
    "bin",
    "verify",
    "train",
    "cascade",
    "curate",
    "demo",
    "bench",
    "index",
    "microphone",
    "remote",
    "serve",
    "mteb",
    "langchain",
    "llama-index",
    "qdrant",
    "lancedb",
    "export",
)
IMPORT_NAMES = {
    "scikit-learn": "sklearn",
    "faiss-cpu": "faiss",
    "fonttools": "fontTools",
    "lingua-language-detector": "lingua",
    "python-multipart": "multipart",
    "langchain-core": "langchain_core",
    "llama-index-core": "llama_index",
}


def declared() -> dict[str, set[str]]:
    """Extra: the import names of its own packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = {}
    for extra, requirements in project["optional-dependencies"].items():
        packages = [re.split(r"[<>=;\[ ]", line)[0] for line in requirements]
        names[extra] = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in packages}
    return names


def test_every_optional_package_has_its_extra():
    extras = declared()
    packages = set().union(*(extras[name] for name in FOR_USERS)) - {"mrl_jax"}
    assert packages == set(EXTRAS)
    for package, extra in EXTRAS.items():
        assert package in extras[extra]


def test_a_missing_package_names_its_extra(capsys):
    def fails(argv: object) -> int:
        raise ModuleNotFoundError("No module named 'grain'", name="grain.sources")

    assert run_command(fails, []) == 2
    line = "error: this takes grain, which is not installed. Install the extra: "
    assert capsys.readouterr().err == f"{line}`pip install 'mrl_jax[train]'`\n"


def test_a_missing_module_of_no_extra_stays_an_error_of_the_program():
    def fails(argv: object) -> int:
        raise ModuleNotFoundError("No module named 'mrl_jax.novel'", name="mrl_jax.novel")

    assert missing_package(ImportError("no name")) is None
    with pytest.raises(ModuleNotFoundError, match=r"mrl_jax\.novel"):
        run_command(fails, [])


def test_what_a_command_needs_is_checked_before_it_begins(monkeypatch, tmp_path):
    require("tqdm", by="a progress bar")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MrlError) as error:
        require("tqdm", "pyarrow", by="reading Parquet", where=tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: reading Parquet takes pyarrow, which is not installed. Install the extra: "
        "`pip install 'mrl_jax[train]'`"
    )


@pytest.mark.parametrize("package", ["grain", "array_record"])
def test_training_checks_its_packages_before_it_begins(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MrlError, match=rf"training on speech takes {package}.*mrl_jax\[train\]"):
        open_examples(DataConfig(train="nowhere.jsonl"), tmp_path / "run", print)
    assert not list(tmp_path.iterdir())
