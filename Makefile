# Every target sets up all that it needs by itself: a virtual environment in .venv, with the
# versions that constraints.txt names.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

# Set before torch is imported: threads that wait actively take the cores from everything else.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help venv serve test test-slow test-gpu check format models-table bench

help:
	@echo "make serve      start the server (settings: TANDEM_*, see README.md)"
	@echo "make test       run the tests"
	@echo "make test-slow  run the tests that take minutes"
	@echo "make test-gpu   run the tests that need an accelerator"
	@echo "make check      check format, lint and types"
	@echo "make format     mend what ruff can mend by itself"
	@echo "make models-table  measure every architecture, write docs/models.md"
	@echo "make bench      measure the server against a plain endpoint"

$(VENV)/.serve: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
		f"Tandem needs Python 3.11 or newer: found {v[0]}.{v[1]}; name another with PYTHON=")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet "$$(grep '^pip==' constraints.txt)"
	@$(INSTALL) --build-constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.serve
	@$(INSTALL) --group dev
	@touch $@

venv: $(VENV)/.dev

serve: $(VENV)/.serve
	@$(BIN)/tandem serve

test: $(VENV)/.dev
	@$(BIN)/python -m pytest $(ARGS)

test-slow: $(VENV)/.dev
	@$(BIN)/python -m pytest -m slow $(ARGS)

test-gpu: $(VENV)/.dev
	@$(BIN)/python -m pytest -m gpu $(ARGS)

check: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(VENV)/.dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

models-table: $(VENV)/.dev
	@$(BIN)/python -m tests.models_table $(ARGS)

bench: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.bench_server $(ARGS)
