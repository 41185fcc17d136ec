"""benchmarks/query_tokens.py runs, with tiny towers."""

import os
import subprocess
import sys

import pytest
from repository import ROOT


@pytest.mark.slow
def test_it_runs_with_tiny_towers():
    command = [sys.executable, "benchmarks/query_tokens.py", "--toy", "--rounds", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "soft, 12 a second" in done.stdout
