# Needs Python >= 3.11 and make, nothing else. `make help` lists the targets.

PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo $$python && break; done)

VENV    := .venv
BIN     := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

# pyright and mkdocs-material need not advertise their next releases.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export NO_MKDOCS_2_WARNING := 1
# Tests start dozens of interpreters, which compile the package once if they may keep what they made.
export PYTHONDONTWRITEBYTECODE :=

# Two workers; neighbours stay together, so that what they share is made once; a crash costs one
# test (with `--dist loadgroup` the run would hang); what
# took longest is listed.
TWO := -n 2 --dist worksteal --max-worker-restart 8 --durations 15

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint docs look bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

demo: $(VENV)/.user  ## install and design a real strain, with certificates and a figure
	$(BIN)/bilevel demo

test: lint  ## everything a change must pass: lint, fast tests, docs
	$(BIN)/pytest $(TWO) -m "not slow"
	$(BIN)/mkdocs build --strict --quiet

test-all: lint  ## as `test`, with the slow tests
	$(BIN)/pytest $(TWO)
	$(BIN)/mkdocs build --strict --quiet

lint: $(VENV)/.developer  ## style, formatting, who imports whom, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright

docs: $(VENV)/.developer  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

look: docs  ## open every page in a real browser, wide and narrow: is anything cut off?
	$(BIN)/python tools/look.py

bench: $(VENV)/.developer  ## run the benchmarks
	$(BIN)/python -m benchmarks run

clean:  ## remove the environment and everything built
	rm -rf $(VENV) site dist build .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# The stamps keep a second `make` from installing again until a requirement changes.

$(VENV)/.user: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[all]'
	touch $@

$(VENV)/.developer: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[all,dev,docs]'
	touch $@ $(VENV)/.user

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "bilevel needs Python 3.11 or newer with venv and pip; found: $(or $(PYTHON),none)." >&2; \
		echo "Install it (Debian, Ubuntu: apt install python3-venv)" \
			"or name one: make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	"$(PYTHON)" -m venv $(VENV)
