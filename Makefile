# make quickstart | test | check | lint | clean          everything lives in .venv, made on first use

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.SILENT:

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
ARGS ?=
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -qq -c constraints.txt

.PHONY: help quickstart test lint types imports check clean

help:
	echo "make quickstart   train a small recogniser on this machine and listen to it: minutes, offline"
	echo "make test         run the tests (JOBS=0 ARGS='-m slow' for the full-size ones)"
	echo "make check        everything CI runs: lint, types, import contract, tests"
	echo "make lint         style only"
	echo "make clean        remove .venv and caches"

quickstart: $(VENV)/.synth
	$(BIN)/tiny-audio quickstart $(ARGS)

# Two processes with one thread each: small models gain nothing from more threads.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check --quiet --output-format concise
	$(BIN)/ruff format --check --quiet || { echo "Not formatted: run $(BIN)/ruff format"; exit 1; }
	echo "lint: clean"

types: $(VENV)/.dev
	$(BIN)/mypy --no-error-summary
	echo "types: clean"

imports: $(VENV)/.dev
	$(BIN)/lint-imports > $(VENV)/imports.log || { cat $(VENV)/imports.log; exit 1; }
	echo "imports: go down only"

check: lint types imports test

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find src tests recipes -name __pycache__ -type d -prune -exec rm -rf {} + 2> /dev/null || true

# The stamps are older than pyproject.toml or constraints.txt when the environment has gone stale.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Tiny Audio needs Python 3.11 to 3.13: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.synth: pyproject.toml constraints.txt | $(VENV)/bin/python
	echo "Setting up $(VENV) (once: some minutes and gigabytes, most of it PyTorch)"
	$(PIP) -e '.[synth]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	echo "Setting up $(VENV) for development (once: some minutes and gigabytes, most of it PyTorch)"
	$(PIP) -e '.[dev,synth]'
	touch $@ $(VENV)/.synth
