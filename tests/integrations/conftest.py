"""A tiny model, its index and spoken queries, not to be changed."""

from pathlib import Path

import pytest
import soundfile
import tiny_run
from serving_cases import TEXTS

from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.index.search_index import SearchIndex


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tiny_run.make_model(tmp_path_factory.mktemp("integrations"))


@pytest.fixture(scope="session")
def embedder(folder) -> Embedder:
    return Embedder.load(folder)


@pytest.fixture(scope="session")
def documents() -> list[dict]:
    rows = [{"id": f"d{i}", "text": text, "kind": i % 2} for i, text in enumerate(TEXTS)]
    return [*rows, {"id": "l'été", "title": "fo", "text": "gu ba", "span": [3, 8], "kind": 2}]


@pytest.fixture(scope="session")
def index(embedder, documents) -> SearchIndex:
    return SearchIndex.build(embedder, documents)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("recordings") / f"{n}.wav" for n in range(4)]
    for number, path in enumerate(paths):
        clip = tiny_run.clip_of((number, (number + 2) % 5), 50 + number)
        soundfile.write(path, clip, tiny_run.RATE)
    return paths


@pytest.fixture(scope="session")
def broken(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("broken") / "broken.wav"
    path.write_bytes(b"no sound at all")
    return path
