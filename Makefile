VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= python3
PIP = $(BIN)/python -m pip install --quiet --constraint constraints.txt
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
LOWEST ?= .venv-lowest

# TORCH=cpu takes PyTorch's CPU build from PyTorch's own index, which is some 5 GB smaller on Linux. Not run yet.
ifeq ($(TORCH),cpu)
CPU_BUILD = $(PIP) --extra-index-url https://download.pytorch.org/whl/cpu torch torchvision
endif

.PHONY: demo test test-fast test-lowest mutants lint docs format install

demo: $(VENV)/.installed
	$(BIN)/kpnet demo

test: lint docs
	$(PYTEST)

test-fast: install
	$(PYTEST) -m "not slow"

# With the lowest version of each dependency that pyproject.toml allows.
test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest --numprocesses 2 --dist worksteal -m "not slow"

# What no test would notice: 300 small changes of the code, an hour on one core; mutants.jsonl holds the results.
mutants: install
	OMP_NUM_THREADS=1 $(BIN)/python .ci/mutants.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(CPU_BUILD)
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev,docs]'
	# Without its opencv-python, which would overwrite opencv-python-headless.
	$(PIP) --no-deps trackeval tabulate
	touch $@

$(LOWEST)/.installed: pyproject.toml setup.py .ci/lowest_versions.py
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) .ci/lowest_versions.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable '.[dev]'
	touch $@
