# `make demo` and `make test` install what they need first.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs-installed

.PHONY: demo compare test test-all fuzz lint docs bench clean

demo: $(STAMP)
	$(BIN)/mrl-jax demo

# After `make demo`: trains three more heads, and compares all of them with the cascade.
compare: $(STAMP)
	$(BIN)/python -m mrl_jax.demo.compare

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10

# About seventeen minutes on two cores.
test: lint
	$(PYTEST) -m "not slow"

# The tests marked slow as well: long runs, ten kills instead of one, every model of a family.
# About half as long again.
test-all: lint
	$(PYTEST)

# Damaged inputs to every reader, forty times as many as `make test-all` gives. Counts and the peak
# memory of each reader come into fuzz.jsonl.
fuzz: $(STAMP)
	rm -f fuzz.jsonl
	MRL_ACCIDENTS=60 MRL_FUZZ_INPUTS=40 MRL_FUZZ_RECORD=fuzz.jsonl $(BIN)/python -m pytest -n 2 tests/fuzz
	$(BIN)/python -m json.tool --json-lines --no-indent fuzz.jsonl

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# Every page, with the API reference of the docstrings, into site/; a broken link fails.
docs: $(DOCS_STAMP)
	$(BIN)/mkdocs build --strict

# The tables of docs/benchmarks.md: about three quarters of an hour on two cores. Those
# of the spoken digits, of real text and of audio input want data, see each file's head.
bench: $(STAMP)
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/conversion.py
	$(BIN)/python benchmarks/towers.py
	$(BIN)/python benchmarks/late_fusion.py demo
	$(BIN)/python benchmarks/nested_loss.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/query_tokens.py
	$(BIN)/python benchmarks/large_batch.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/host_overhead.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/fsdp.py
	$(BIN)/python benchmarks/report.py

$(STAMP): pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $(STAMP)

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $(DOCS_STAMP)

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .ruff_cache .hypothesis
