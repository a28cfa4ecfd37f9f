# Two commands for a fresh machine with Python 3.11 or newer: `make demo` and `make test`.

# The first interpreter that is new enough; `make PYTHON=/path/to/python test` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal -q --durations=15

.PHONY: help demo test lint types docs bench clean print-python

help:
	@echo 'make demo    install into $(VENV) and run the main job on a real model'
	@echo 'make test    install into $(VENV) and run the tests (ARGS="-k name" narrows them)'
	@echo 'make lint | types | docs | bench | clean'

# Installs are stamped in the environment; a changed pyproject.toml installs again.
$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo 'taut needs Python 3.11 or newer: make PYTHON=... '; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	echo 'python could not make an environment (Debian: apt install python3-venv)'; exit 1; }

$(VENV)/.%: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

demo: $(VENV)/.samples
	$(BIN)/taut demo

test: $(VENV)/.test
	$(PYTEST) $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/imports && mkdir -p build && cp -RL .pkg build/imports
	cd build/imports && $(abspath $(BIN))/lint-imports --no-cache $(CURDIR)/pyproject.toml

types: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo build/site/index.html

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/vs_peers.py $(ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis *.egg-info

# What .ci/run asks for: the interpreter that was found.
print-python:
	@echo $(PYTHON)
