"""Paths as users write them: one function for options, config fields and arguments."""

import ast
import importlib
import json
from pathlib import Path

import pytest

from mrl_jax.core.cli import run_command
from mrl_jax.core.commands import COMMANDS
from mrl_jax.core.config import override, to_json
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import make_folder, staged_folder
from mrl_jax.core.paths import user_path, user_text
from mrl_jax.data.build.builder import build_dataset
from mrl_jax.data.sets.named_sets import load_retrieval_set
from mrl_jax.inference.cascade_config import CascadeConfig
from mrl_jax.inference.embedder import Embedder
from mrl_jax.training.contrastive.config import ExperimentConfig
from mrl_jax.training.ctc.config import CtcExperiment
from mrl_jax.training.text_tower.config import TextStageExperiment

ROOT = Path(__file__).parents[2]
URL = "ftp://host/place"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder of our own, and another one to work in."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~", "{home}"),
        ("~/a b", "{home}/a b"),
        ("~root/a", "/root/a"),
        ("a/~/b", "a/~/b"),
        ("./~/a", "~/a"),
        ("a~", "a~"),
        (
            "kallaama@~/a",
            "kallaama@~/a",
        ),  # A folder of that name; `user_text` takes it for a set's.
        ("/a:/b", "/a:/b"),
        ("a:b", "a:b"),
        ("12:/b", "12:/b"),
    ],
)
def test_a_home_folder_is_expanded_where_a_path_begins_with_it(text, expected, home):
    assert user_path(text) == Path(expected.format(home=home))


def test_a_path_of_pathlib_is_taken_as_it_is(home):
    assert user_path(Path("~/a")) == Path("~/a")


def test_a_name_may_stand_before_the_folder(home):
    assert user_text("fleurs:wo-fr@~/a") == f"fleurs:wo-fr@{home}/a"
    assert user_text("Qwen/Qwen3-Embedding-0.6B") == "Qwen/Qwen3-Embedding-0.6B"
    assert user_text("./towers") == "./towers"  # Which is no hub id.
    with pytest.raises(MrlError, match="fleurs:wo-fr@ftp://x/y: ftp://x/y is an address"):
        user_text("fleurs:wo-fr@ftp://x/y")


@pytest.mark.parametrize("text", [URL, "https://host/a?b=c", "ftp:/a", "Hdfs://a", Path(URL)])
def test_an_address_is_refused_in_one_line(text, home):
    with pytest.raises(MrlError, match=rf"^{str(text).split('?')[0]}.*is an address \([a-z]+://\)"):
        user_path(text)


def test_other_paths_that_are_none(home):
    with pytest.raises(MrlError, match="the path is empty"):
        user_path("")
    with pytest.raises(MrlError, match="no home folder ~nobody-of-this-name"):
        user_path("~nobody-of-this-name/a")
    with pytest.raises(MrlError, match="Leave file:// out"):
        user_path("file:///tmp/a")


FIELDS = {
    ExperimentConfig: (
        *("model.speech_tower", "model.text_tower", "data.train", "data.validation"),
        *("data.document_cache", "data.speech_cache"),
    ),
    CtcExperiment: ("model.speech_tower", "data.train", "data.validation"),
    TextStageExperiment: ("model.text_tower", "data.train", "data.validation"),
    CascadeConfig: ("text_tower", "recogniser", "translator", "tokenizer"),
}


@pytest.mark.parametrize(
    ("kind", "field"), [(kind, field) for kind, fields in FIELDS.items() for field in fields]
)
def test_every_field_that_is_a_path(kind, field, home):
    default = kind() if kind is CascadeConfig else kind(name="x")
    value = to_json(override(default, [f"{field}=~/a"]))
    for name in field.split("."):
        value = value[name]
    assert value == f"{home}/a"
    with pytest.raises(MrlError, match=rf"^{field}: {URL} is an address"):
        override(default, [f"{field}={URL}"])


def test_the_tower_whose_tokens_a_recogniser_has(home):
    words = ["model.vocabulary=text_tower", "model.text_tower=~/a"]
    config = override(CtcExperiment(name="x"), words)
    assert config.model.text_tower == f"{home}/a"


COMMAND_LINES = [
    f"convert qwen3 {URL} out",
    f"convert qwen3 source {URL}",
    f"convert qwen3 source out --adapter {URL}",
    f"convert speech {URL} out",
    f"convert oolel-embed {URL} out",
    f"convert verify {URL} source",
    f"convert verify tower {URL}",
    f"convert verify tower source --audio a.wav {URL}",
    f"convert export {URL} out",
    f"convert export tower {URL}",
    f"convert random-init qwen3 {URL} out",
    f"convert random-init qwen3 config.json {URL}",
    f"build {URL} out",
    f"build train.jsonl {URL}",
    f"train --config {URL}/a.py",
    f"train --config demo --workdir {URL}",
    f"train --config demo data.train={URL}",
    *(
        f"eval {report} --model {model} --data {data} --out {out}"
        for report in ("retrieval", "intent", "spectrum", "tradeoff", "robustness", "transcribe")
        for model, data, out in ((URL, "set", "out"), ("m", URL, "out"), ("m", "set", URL))
    ),
    f"eval retrieval --model m --data kallaama@{URL} --out out",
    f"eval compare --models {URL} b --data set --out out",
    f"eval compare --models a={URL} b=c --data set --out out",
    f"rotate --model {URL} --data set",
    f"cascade --config demo_cascade --out {URL}",
    f"cascade --config demo_cascade --out out translator={URL}",
    f"demo --out {URL}",
]


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_option_refuses_an_address(line, home, capfd):
    command, *words = line.split()
    main = importlib.import_module(COMMANDS[command][0]).main
    assert run_command(main, words) == 2
    error = capfd.readouterr().err
    assert "is an address (ftp://)" in error, error
    assert error.count("\n") == 1, error
    assert not list(home.parent.glob("here/*"))


def test_the_api_refuses_an_address(home):
    for call in (
        lambda: Embedder.load(URL),
        lambda: build_dataset("train.jsonl", URL),
        lambda: load_retrieval_set(URL),
        lambda: make_folder(Path(URL)),
        lambda: staged_folder(Path(URL), marker="x").__enter__(),
    ):
        with pytest.raises(MrlError, match="is an address"):
            call()
    assert not list(home.parent.glob("here/*"))


def test_a_set_is_read_from_the_home_folder(home):
    rows = {
        "queries.jsonl": {"_id": "q", "text": "a"},
        "corpus.jsonl": {"_id": "d", "text": "b"},
        "qrels.jsonl": {"query-id": "q", "corpus-id": "d", "score": 1},
    }
    (home / "set").mkdir()
    for name, row in rows.items():
        (home / "set" / name).write_text(json.dumps(row) + "\n")
    for name in ("~/set", "kallaama@~/set"):
        assert [query.id for query in load_retrieval_set(name).queries] == ["q"]


def test_no_option_makes_a_path_of_its_own():
    """A parser that takes `Path` itself as a type would let addresses through."""
    for file in [*(ROOT / "mrl_jax").rglob("*.py"), *(ROOT / "converters").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "type":
                assert not (isinstance(node.value, ast.Name) and node.value.id == "Path"), file
