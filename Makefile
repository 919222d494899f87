# Each target makes its own virtual environment when there is none; `make help` lists them.
#   PYTHON=python3.12   the interpreter to make it with (3.11 or newer)
#   VENV=.venv          where it lies
#   CONSTRAINTS=        install without the exact versions of constraints.txt (another torch, say)
#   PIP_ARGS=...        further arguments for pip; its own settings (PIP_INDEX_URL ...) apply as well

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
PIP_ARGS ?=
DEMO_OUT ?= demo
PYTEST_ARGS ?= -n auto --maxprocesses 8 --dist loadfile -m "not slow and not weights and not peers"

BIN := $(VENV)/bin
STAMP := $(VENV)/.mast-setup

.PHONY: help setup demo test lint format site clean distclean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make .venv with everything in it, Detectron2 included
	@echo "Ready: $(BIN)/mast --help"

$(STAMP): pyproject.toml $(CONSTRAINTS) eval/doctor/install.py eval/doctor/detectron2.sha256
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "error: '$(PYTHON)' is not Python 3.11 or newer; name one: make setup PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_ARGS) $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e ".[detection,dev]"
	$(BIN)/python -m eval.doctor.install
	@touch $@

demo: $(STAMP) ## pretrain, transfer, table, report: the whole path on embedded data
	$(BIN)/mast demo --out $(DEMO_OUT)

test: $(STAMP) ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP) ## ruff and mypy, strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

site: $(STAMP) ## build the documentation as a web site in build/site; a broken link is an error
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python docs/site.py build/site

format: $(STAMP) ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches, builds and the demo's output
	rm -rf build dist $(DEMO_OUT) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## the same and the virtual environment
	rm -rf $(VENV)
