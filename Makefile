# Two commands: `make tune` sets up and runs a search; `make test` sets up and passes the checks.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: tune test soak setup clean

tune: setup
	$(BIN)/python launch/tune_noa.py --space search_spaces/latent.yaml $(ARGS)

test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# What takes minutes and seldom breaks; by hand.
soak: setup
	$(BIN)/pytest -m soak $(ARGS)

setup: $(VENV)/.installed

# The stamp is newer than the pins only when the installation finished.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
