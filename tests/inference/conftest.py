"""What the tests of cascades share; not to be written into."""

from pathlib import Path

import pytest
from tiny_cascade import make_parts
from tiny_nllb import make_nllb


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    return make_parts(tmp_path_factory.mktemp("cascade"))


@pytest.fixture(scope="session")
def nllb(tmp_path_factory):
    return make_nllb(tmp_path_factory.mktemp("nllb"))
