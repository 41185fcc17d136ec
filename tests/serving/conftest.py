"""A small index and its service, not to be changed."""

from pathlib import Path

import pytest
import tiny_run
from serving_cases import TEXTS

from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.index.search_index import SearchIndex


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return tiny_run.make_model(tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="session")
def index(model) -> SearchIndex:
    documents = [{"id": f"d{i}", "text": text, "kind": i % 2} for i, text in enumerate(TEXTS)]
    documents.append({"id": "long", "title": "All", "text": "ba ce. Fo gu!\ndi di"})
    return SearchIndex.build(Embedder.load(model), documents)
