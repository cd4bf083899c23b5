# make demo   set up this machine and run the main job on a bundled script
# make experiment   the article's experiment, beside the article's numbers (about 45 minutes)
# make test   everything that CI checks
# make bench  the benchmarks of docs/benchmarks.md
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SHARED_DATA := $(wildcard ../shared/data)
export HALFTIME_DATA ?= $(if $(SHARED_DATA),$(abspath $(SHARED_DATA)))
ifeq ($(HALFTIME_DATA),)
unexport HALFTIME_DATA
endif

.PHONY: demo experiment test lint types rules unit bench clean

INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "halftime needs Python 3.10 or newer: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[workloads]'
	touch $@

$(VENV)/complete: $(VENV)/installed
	$(INSTALL) '.[workloads,keras,dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/halftime tune --budget 8m mlp-pytorch

experiment: $(VENV)/complete
	$(BIN)/halftime compare --budget 45m --article mnist-keras

test: lint types rules unit

lint: $(VENV)/complete
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/complete
	$(BIN)/mypy

rules: $(VENV)/complete
	$(BIN)/lint-imports

# The longest first, so that both workers end together.
unit: $(VENV)/complete
	$(BIN)/python -m pytest -n 2 tests/end_to_end tests/unit tests/pytorch tests/keras tests/jax

bench: $(VENV)/complete
	$(BIN)/python benchmarks/all.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
