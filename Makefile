# Two commands matter: `make demo` makes pictures, `make test` checks everything.
# Without an active virtual environment, `make` makes its own in .venv.

PYTHON ?= python3
VENV := $(or $(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
STAMP := $(VENV)/.nextset-installed
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint bench docs clean

demo: $(STAMP)
	$(BIN)/nextset generate -n 36 --seed 1 -o out/demo.png --gif out/demo.gif

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/nextset bench var-d16

docs: $(STAMP)
	$(PIP) -e '.[docs]'
	$(BIN)/mkdocs build --strict

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[dev]'
	touch $@

clean:
	rm -rf .venv out site build dist .pytest_cache .mypy_cache .ruff_cache
