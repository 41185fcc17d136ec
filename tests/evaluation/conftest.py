"""What the report tests share: tiny models compiled once, a set, and counts of what is encoded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_run

import mrl_jax
from mrl_jax.checkpoints.models import read_model_info
from mrl_jax.inference.encoder import Encoder


@pytest.fixture(scope="session")
def late_fusion(tmp_path_factory) -> Path:
    """A model folder whose head is random, dims 32, 16 and 8; not to be written into."""
    return tiny_run.make_model(tmp_path_factory.mktemp("late_fusion"))


@pytest.fixture(scope="session")
def two_dims(tmp_path_factory) -> Path:
    """The same with the dims 32 and 8, and a prompt for intents; not to be written into."""
    root = tmp_path_factory.mktemp("two_dims")
    return tiny_run.make_model(root, dims=(32, 8), prompts={"": "", "intent": "ba ce"})


@pytest.fixture(scope="session")
def retrieval_set(tmp_path_factory) -> Path:
    """Ten spoken queries and 25 documents; not to be written into."""
    return tiny_run.make_retrieval_set(tmp_path_factory.mktemp("retrieval_set"))


@pytest.fixture(scope="session")
def six_queries(tmp_path_factory) -> Path:
    """The same with six queries."""
    return tiny_run.make_retrieval_set(tmp_path_factory.mktemp("six_queries"), queries=6)


@pytest.fixture(scope="session")
def loaded() -> dict[tuple, mrl_jax.Embedder]:
    """Embedders whose programs are compiled already, by what they hold."""
    return {}


@pytest.fixture
def compiled(loaded, monkeypatch) -> None:
    """`Embedder.load` gives the same embedder for the same model, so that it compiles once."""
    load_anew = mrl_jax.Embedder.load

    def load(folder: str | Path, **options: Any) -> mrl_jax.Embedder:
        if options:
            return load_anew(folder, **options)
        info = read_model_info(Path(folder))
        parts = (info.speech.digest, info.text.digest, info.head_digest)
        key = (info.kind, info.dims, tuple(info.prompts.items()), *parts)
        if key not in loaded:
            loaded[key] = load_anew(folder)
        return loaded[key]

    monkeypatch.setattr(mrl_jax.Embedder, "load", load)


@pytest.fixture
def encoded(monkeypatch) -> dict[str, list[list[Any]]]:
    """The inputs of every call of the encoder, by kind."""
    calls: dict[str, list[list[Any]]] = {"speech": [], "text": []}

    def counted(kind: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def call(self, items, *args, **options):
            calls[kind].append(list(items))
            return run(self, items, *args, **options)

        return call

    for kind in calls:
        monkeypatch.setattr(Encoder, kind, counted(kind, getattr(Encoder, kind)))
    return calls


@pytest.fixture
def no_encoding(monkeypatch) -> None:
    """Encoding anything fails the test."""

    def never(self, *items, **options):
        raise AssertionError("encoded in vain")

    for kind in ("speech", "text"):
        monkeypatch.setattr(Encoder, kind, never)
