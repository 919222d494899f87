# Each target makes its own virtual environment when there is none; `make help` lists them.
#   PYTHON=python3.12   the interpreter to make it with (3.11 or newer)
#   VENV=.venv          where it lies
#   CONSTRAINTS=        install without the exact versions of constraints.txt (another torch, say)
#   PIP_ARGS=...        further arguments for pip; its own settings (PIP_INDEX_URL ...) apply as well
#   CONTAINER_ARGS=...  arguments of container-test, such as --base IMAGE --pip-conf FILE
#   GPU_SCIPY=          gpu-wheels without scipy, which many CUDA images have
#   GPU_ARGS=...        arguments of gpu-check, such as --device cpu --tiny, or --out DIR

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
PIP_ARGS ?=
DEMO_OUT ?= demo
CONTAINER_ARGS ?=
GPU_ARGS ?=
GPU_SCIPY ?= scipy==1.17.1
GPU_SOURCES := fvcore==0.1.5.post20221221 iopath==0.1.10 antlr4-python3-runtime==4.9.3  # no wheels on the index
PYTEST_ARGS ?= -n auto --maxprocesses 8 --dist loadfile -m "not slow and not weights and not peers and not transformers"

BIN := $(VENV)/bin
STAMP := $(VENV)/.mast-setup

.PHONY: help setup demo test setup-transformers test-transformers lint format site container-test gpu-check gpu-wheels clean distclean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

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

setup-transformers: $(STAMP) ## add transformers, in which copies and files in its format are checked
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e ".[transformers]"

test-transformers: setup-transformers ## compare with transformers' own networks
	@$(BIN)/python -c "import transformers"  # else its tests would be skipped, and that would look like success
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m transformers

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

container-test: ## build the image from a clean clone, use it and kill it; needs root and buildah
	$(PYTHON) tests/container/check.py $(CONTAINER_ARGS)

gpu-check: ## measure every claim that needs a GPU, as JSON and Markdown
	$(PYTHON) benchmarks/gpu.py $(GPU_ARGS)

gpu-wheels: ## fetch what an ordinary CUDA image lacks for gpu-check, to carry along
	$(PYTHON) -m pip download $(PIP_ARGS) --quiet --no-deps --only-binary=:all: --python-version 3.12 \
		--dest build/gpu-wheels --requirement benchmarks/gpu-wheels.txt $(GPU_SCIPY)
	$(PYTHON) -m pip wheel $(PIP_ARGS) --quiet --no-deps --wheel-dir build/gpu-wheels $(GPU_SOURCES)
	du -sh build/gpu-wheels

clean: ## remove caches, builds and the demo's output
	rm -rf build dist $(DEMO_OUT) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## the same and the virtual environment
	rm -rf $(VENV)
