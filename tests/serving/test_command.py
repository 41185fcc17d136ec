"""`mrl-jax serve` as a process: it answers, ends as asked, and refuses in one line."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from mrl_jax.core.cli import run_command
from mrl_jax.core.commands import main
from mrl_jax.core.errors import MrlError
from mrl_jax.serving import command
from mrl_jax.serving.config import ServeConfig

SMALL = ("--port", "0", "--batch-size", "1", "--warm-seconds", "1", "--warm-tokens", "16")


@pytest.fixture(scope="module")
def folder(index, tmp_path_factory) -> Path:
    return index.save(tmp_path_factory.mktemp("served") / "index")


def refused(capsys, *argv: object) -> str:
    capsys.readouterr()
    assert run_command(main, ["serve", *map(str, argv)]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    return error


def test_it_serves_until_it_is_told_to_end(folder):
    argv = [sys.executable, "-m", "mrl_jax.core.commands", "serve", str(folder), *SMALL]
    environment = {**os.environ, "MRL_JAX_API_KEY": "secret"}
    process = subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(
            r"26 documents, \d+ programs compiled; the page is at (http://localhost:\d+/)\n", line
        )
        assert match, line
        with httpx.Client(base_url=match[1], timeout=60) as client:
            assert client.get("healthz").json()["status"] == "ok"
            assert client.post("search", json={"text": "ba"}).status_code == 401
            client.headers["authorization"] = "Bearer secret"
            assert len(client.post("search", json={"text": "ba"}).json()["hits"]) == 10
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def test_what_is_no_index_and_a_port_in_use(folder, model, tmp_path, capsys):
    message = refused(capsys, tmp_path / "none", *SMALL)
    assert "no such folder, for" in message
    assert "mrl-jax index build" in refused(capsys, model, *SMALL)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        message = refused(capsys, folder, "--port", port)
    assert f"127.0.0.1:{port}: cannot listen there: Address already in use" in message
    assert "--port" in message
    assert "port is 70000, expected 0 to 65,535" in refused(capsys, folder, "--port", 70000)
    message = refused(capsys, folder, "--host", "no such host")
    assert re.search(r"cannot listen there: .*\b(known|resolution)\b", message)
    assert "a..b:8000: cannot listen there" in refused(capsys, folder, "--host", "a..b")
    assert "the host is empty" in refused(capsys, folder, "--host", "")


def test_an_error_of_the_service_is_not_one_of_its_address():
    with pytest.raises(BrokenPipeError), command._listening(ServeConfig(port=0)):
        raise BrokenPipeError(32, "Broken pipe")


def test_an_extra_that_is_missing_is_named(folder, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'mrl_jax[serve]'" in refused(capsys, folder)


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"api_key": " "}, "the API key is empty"),
        ({"api_key": "é"}, "not ASCII"),
        ({"api_key": "secret\n"}, "has a space in it"),
        ({"host": " "}, "the host is empty"),
        ({"max_seconds": float("inf")}, "max_seconds is infinite"),
        ({"max_inputs": 300}, "above the queue_size of 256"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_seconds": -1.0}, "max_seconds"),
    ],
)
def test_limits_that_make_no_sense(fields, part):
    with pytest.raises(MrlError, match=part):
        ServeConfig(**fields)
