# `make help` lists the targets. Everything lives in .venv, one per clone; a stamp file is written only after the step that it
# stands for has succeeded, so an interrupted installation is repeated and a finished one is not.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VENV_STAMP := $(VENV)/.stamp-venv
BASE_STAMP := $(VENV)/.stamp-base
EMOJI_STAMP := $(VENV)/.stamp-emoji
DEV_STAMP := $(VENV)/.stamp-dev
PEERS_STAMP := $(VENV)/.stamp-peers
DOCS_STAMP := $(VENV)/.stamp-docs
PIP := $(BIN)/python -m pip --disable-pip-version-check
# At most four test processes, one thread each: two threads in each of several processes are far slower than one.
TEST_PROCESSES ?= $(shell n=`getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1`; [ $$n -gt 4 ] && n=4; echo $$n)
PYTEST_ARGS ?=
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv install install-dev quickstart shapes emoji test bench peers docs lint format clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

venv: $(VENV_STAMP) ## make .venv (PYTHON=python3.12 chooses the interpreter)

install: $(BASE_STAMP) ## install the package into .venv

install-dev: $(DEV_STAMP) ## install the package with what tests need

quickstart: $(BASE_STAMP) ## train, evaluate and report everything on the embedded data set
	$(BIN)/unclip reproduce experiments/quickstart/suite.yaml

shapes: $(BASE_STAMP) ## the longer suite of the same stages
	$(BIN)/unclip reproduce experiments/shapes/suite.yaml

emoji: $(EMOJI_STAMP) ## the same stages on OpenMoji's drawings
	$(BIN)/unclip reproduce experiments/emoji/suite.yaml

test: lint ## ruff, mypy, import-linter and pytest
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

bench: $(DEV_STAMP) ## time the networks beside other people's (`make peers` first adds DALLE2-pytorch)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks $(BENCH_ARGS)

peers: $(PEERS_STAMP) ## install DALLE2-pytorch, to be timed by `make bench`

docs: $(DOCS_STAMP) ## build the docs site into build/site, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(DEV_STAMP) ## ruff, mypy and import-linter only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV_STAMP) ## let ruff format and fix the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove caches and build outputs (runs and .venv stay)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
	find unclip modules datamodules eval experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## also remove .venv (runs stay)
	rm -rf $(VENV)

$(VENV_STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "unclip needs Python 3.10 or newer; '$(PYTHON)' is `$(PYTHON) --version 2>&1 || true`. Say which: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed; Debian and Ubuntu have it in the package python3-venv." >&2; exit 1; }
	@touch $@

$(BASE_STAMP): $(VENV_STAMP) pyproject.toml
	@echo "Installing into $(VENV); the first time this takes some minutes."
	$(PIP) install -e .
	@touch $@

$(EMOJI_STAMP): $(BASE_STAMP) pyproject.toml
	$(PIP) install -e '.[emoji]'
	@touch $@

$(DEV_STAMP): $(BASE_STAMP) pyproject.toml
	$(PIP) install -e '.[dev]'
	@touch $@

$(PEERS_STAMP): $(DEV_STAMP) pyproject.toml
	$(PIP) install -e '.[dev,peers]'
	$(PIP) install --no-deps 'dalle2-pytorch>=1.15'
	@touch $@

$(DOCS_STAMP): $(BASE_STAMP) pyproject.toml
	$(PIP) install -e '.[docs]'
	@touch $@
