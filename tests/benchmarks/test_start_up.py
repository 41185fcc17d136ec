"""benchmarks/start_up.py measures what its table shows."""

import importlib

import pytest
import tiny_run
from repository import ROOT


@pytest.mark.slow
def test_a_process_is_measured_and_shown(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    benchmark, table = map(importlib.import_module, ("start_up", "report_start_up"))
    tiny_run.make_model(tmp_path)
    spans = benchmark.run_side("ours", tmp_path, "float32", str(tmp_path / "cache"))
    assert len(spans.pop("vector")) == 32
    assert 0 < spans["load"] < spans["process"]
    assert spans["cpu"] > 0
    seconds = {
        f"{side}, {state}": {span: [value] for span, value in spans.items()}
        for side in benchmark.SIDES[:2]
        for state in ("cold", "warm")
    }
    figures = {"float32": {**benchmark.figures_of(seconds), "cosine": 1.0}}
    result = {"inputs": {"cold": "as it was"}, "figures": figures}
    lines = table.start_up(result)
    assert lines[-1].endswith("float32, warm: 1.00 and 1.00, CPU 1.00.")
    assert lines[-2].count("float32: ours, ") == 2
