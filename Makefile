# make demo and make test need Python 3.11 or later and make, and nothing else. Another Python: make demo PYTHON=python3.12
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
OUT := demo_output
SCENE := $(firstword $(filter-out %_reference.tif,$(wildcard sample_tiles/*.tif)))
NAME := $(basename $(notdir $(SCENE)))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test quick lint types docs wheel wheelhouse plugin check clean

help:
	@echo "make demo    install into $(VENV), segment the scene in sample_tiles/ and score the result"
	@echo "make test    install into $(VENV) and run the tests"
	@echo "make quick   the same without what is slow: under a minute, while you edit"
	@echo "make lint    check style and imports          make types   check types"
	@echo "make docs    build the documents into site/, strictly"
	@echo "make wheel   build dist/*.whl     make check   all of that, as CI does"
	@echo "make wheelhouse   a folder of wheels to install from on a machine without a network"
	@echo "make plugin  the zip of the QGIS plugin, dist/floodmap-qgis-*.zip"
	@echo "make clean   remove what the others made"

demo: $(VENV)/.package
	@test -n "$(SCENE)" || { echo "sample_tiles/ holds no scene; is this a complete clone?"; exit 1; }
	$(BIN)/floodmap segment $(SCENE) -o $(OUT) --overwrite
	$(BIN)/floodmap evaluate $(OUT)/$(NAME)_mask.tif sample_tiles/$(NAME)_reference.tif
	@echo
	@echo "The results are in $(abspath $(OUT)):"
	@cd $(OUT) && ls -1 | sed 's/^/  /'
	@echo "Open $(OUT)/$(NAME).gpkg over $(SCENE) in QGIS."

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses 2 $(PYTEST)

quick: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 $(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_docs.py
	@if [ -x $(BIN)/hadolint ]; then echo hadolint Dockerfile; $(BIN)/hadolint Dockerfile; fi

types: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir site

# For this platform and this version of Python. The wheels of torch are those that pip finds: with graphics cards in mind
# on Linux (3 GB). make wheelhouse PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu" takes smaller ones.
wheelhouse: $(VENV)/.venv
	rm -rf wheelhouse
	$(BIN)/python -m pip wheel --disable-pip-version-check --wheel-dir wheelhouse $(PIP_OPTIONS) .
	@echo "On the other machine: pip install --no-index --find-links wheelhouse floodmap"

wheel: $(VENV)/.dev
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist .
	$(BIN)/python scripts/check_wheel.py dist/*.whl

plugin: $(VENV)/.venv
	$(BIN)/python scripts/make_plugin.py

check: test lint types docs wheel

clean:
	rm -rf $(VENV) $(OUT) build dist site wheelhouse *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

# A stamp per extra: nothing is installed again until pyproject.toml changes. The package itself is installed editable.
$(VENV)/.package: pyproject.toml | $(VENV)/.venv
	$(BIN)/python -m pip install --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.test $(VENV)/.dev $(VENV)/.docs: $(VENV)/.%: pyproject.toml | $(VENV)/.venv
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[$*]'
	@touch $(VENV)/.package $@

$(VENV)/.venv:
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "floodmap needs Python 3.11 or later$(if $(PYTHON),; $(PYTHON) is older or missing)."; \
		echo "Install one, or name it: make demo PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot create a virtual environment (on Debian and Ubuntu: apt-get install python3-venv)."; exit 1; }
	@touch $@
