"""What the report tests share: one tiny model, one set, and counts of what is encoded."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_run

import mrl_jax
from mrl_jax.inference.encoder import Encoder


@pytest.fixture(scope="session")
def late_fusion(tmp_path_factory) -> Path:
    """A model folder whose head is random, dims 32, 16 and 8; not to be written into."""
    return tiny_run.make_model(tmp_path_factory.mktemp("late_fusion"))


@pytest.fixture(scope="session")
def embedder(late_fusion) -> mrl_jax.Embedder:
    """That model in memory, so that all tests share its compiled programs."""
    return mrl_jax.Embedder.load(late_fusion)


@pytest.fixture
def compiled(embedder, monkeypatch) -> None:
    """Whatever model a report loads, it gets the embedder that is compiled already."""
    monkeypatch.setattr(mrl_jax.Embedder, "load", lambda folder: embedder)


@pytest.fixture(scope="session")
def retrieval_set(tmp_path_factory) -> Path:
    """Ten spoken queries and 25 documents; not to be written into."""
    return tiny_run.make_retrieval_set(tmp_path_factory.mktemp("retrieval_set"))


@pytest.fixture
def encoded(monkeypatch) -> dict[str, list]:
    """The inputs of every call of the encoder, by kind, from now on."""
    calls: dict[str, list] = {"speech": [], "text": []}

    def counted(kind: str, run: Callable) -> Callable:
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
