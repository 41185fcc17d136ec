"""An S3 server on loopback, shared by the tests of a module."""

from collections.abc import Iterator

import pytest
from loopback_s3 import LoopbackS3, loopback_s3


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[LoopbackS3]:
    with loopback_s3(tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.fixture
def s3(server, tmp_path, monkeypatch) -> LoopbackS3:
    """The server with nothing in it, and an empty cache."""
    monkeypatch.setenv("MRL_JAX_CACHE", str(tmp_path / "cache"))
    for key in server.names():
        server.remove(key)
    return server
