"""`eval.py` is `mrl-jax eval` under its own name."""

import importlib

import pytest


def test_help_names_the_file(capsys):
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module("eval").main(["retrieval", "--help"])
    assert capsys.readouterr().out.startswith("usage: python eval.py retrieval ")
