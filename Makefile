# Every target sets up what it needs by itself; only Python 3.12 and make must be there, and for
# `oracles` Python 3.11.
PYTHON ?= $(shell command -v python3.12 || command -v python3)
VENV ?= .venv
PYTHON_ORACLES ?= $(shell command -v python3.11 || echo python3.11)
BIN := $(VENV)/bin
ORACLES := .venv-oracles
WORKDIR ?= quickstart
TEXTDIR ?= text_quickstart
# The machine's cores, also where there is no nproc.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count())')

.DEFAULT_GOAL := help
.PHONY: help setup quickstart serve text faults test lint format bench oracles clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' || \
	  { echo "minirec needs Python 3.12; $(PYTHON) is another. Set PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: requirements.lock | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	@touch $@

$(VENV)/.bench: requirements-bench.lock $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.lock
	@touch $@

$(VENV)/.serve: requirements-serve.lock $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-serve.lock
	@touch $@

$(VENV)/.text: requirements-text.lock $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-text.lock
	@touch $@

$(ORACLES)/.installed: requirements-oracles.lock
	@$(PYTHON_ORACLES) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "the oracles need Python 3.11. Set PYTHON_ORACLES=/path/to/python3.11"; exit 1; }
	$(PYTHON_ORACLES) -m venv $(ORACLES)
	$(ORACLES)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements-oracles.lock
	@touch $@

setup: $(VENV)/.dev  ## Make .venv with everything that development needs

quickstart: $(VENV)/.core  ## Run the whole chain on a generated catalogue (at most 5 minutes)
	$(BIN)/python -m launch.quickstart --workdir=$(WORKDIR)

serve: $(VENV)/.serve  ## Serve the quickstart's run at http://127.0.0.1:8000, until Ctrl-C
	@test -d $(WORKDIR)/runs || $(BIN)/python -m launch.quickstart --workdir=$(WORKDIR)
	$(BIN)/python -m launch.serve --config=quickstart --workdir=$(WORKDIR)

text: $(VENV)/.text  ## Make a language model of the project's own documents and chat with it
	for step in prepare_text train_tokenizer train evaluate chat; do \
	  $(BIN)/python -m launch.$$step --config=text_quickstart --workdir=$(TEXTDIR) || exit 1; done

test: $(VENV)/.dev  ## Run the test suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=30

faults: $(VENV)/.dev  ## Attack a server of the quickstart's run: kills, swaps, rude clients (some 8 minutes)
	@test -d $(WORKDIR)/runs || $(BIN)/python -m launch.quickstart --workdir=$(WORKDIR)
	$(BIN)/python -m tests.serving.faults --workdir=$(WORKDIR)

lint: $(VENV)/.dev  ## Check style (ruff) and types (pyrefly); both block
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --summary=none

format: $(VENV)/.dev  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.bench $(VENV)/.serve  ## Print one JSON line a benchmark
	MINIREC_PEERS=$(CURDIR)/tests/oracles $(BIN)/python -m launch.bench

oracles: $(ORACLES)/.installed  ## Make .venv-oracles with PyTorch and transformers, and the fixtures of tests/fixtures/hf
	$(ORACLES)/bin/python tests/oracles/transformers_fixtures.py

clean:  ## Remove the environments, caches and the quickstart's files
	rm -rf $(VENV) $(ORACLES) .cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info quickstart text_quickstart
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
