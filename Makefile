# Two commands matter: `make demo` makes pictures, `make test` checks everything.
# Without an active virtual environment, `make` makes its own in .venv. PYTHON chooses what from (3.11 or newer).

PYTHON ?= python3
WORKERS ?= 2
VENV := $(or $(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.nextset-installed

.PHONY: demo test lint bench docs clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/nextset generate @examples/prompts.txt --columns 6 --seed 1 -o out/demo.png --gif out/demo.gif

# Processes share the cores better than torch's threads do: one thread each.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/nextset bench var-d16

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict

# The stamp names the checkout that is installed: an active environment may serve several, one at a time.
ifneq ($(shell cat $(INSTALLED) 2>/dev/null),$(CURDIR))
.PHONY: $(INSTALLED)
endif
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	echo '$(CURDIR)' > $@

clean:
	rm -rf .venv out site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
