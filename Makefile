# Two commands are enough: `make demo` and `make test`. PIP_ARGS is handed to pip (README, "CPU or CUDA").
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt $(PIP_ARGS)
STAMP  := $(VENV)/.installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
XDIST  := -n 2 --dist loadgroup
SCALE  ?= small

.PHONY: env demo test test-data test-long check mutants bench papers protocols pages zoo controls docs docs-links clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "robassay: installing into $(VENV) (once; about two minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) torch
	@$(PIP) -e '.[test,ray]'
	@# Their metadata ask for torchvision and more, which what the adapters' tests use of them does not import.
	@$(PIP) --no-deps snntorch spikingjelly norse
	@touch $@

demo: env
	@$(BIN)/robassay demo

test: env
	$(PYTEST) $(XDIST) -m "not long"

test-data: env
	@test -n "$$ROBASSAY_DATA" || { echo "make test-data needs ROBASSAY_DATA=<folder with mnist-train.parquet, …>" >&2; exit 2; }
	$(PYTEST) $(XDIST) -m data

test-long: env
	$(PYTEST) $(XDIST) -m long

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python tests/advisories.py

mutants: env
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py

# An hour and a half; one of them: .venv/bin/python bench/run.py eot. ROBASSAY_DATA names the folder of data.
bench: env
	@$(PIP) -e '.[test,ray,bench]'
	OMP_NUM_THREADS=1 $(BIN)/python bench/run.py

# Each a group of studies whose cells are computed at once, since what is long in one leaves the other workers to the
# rest; then a report of each study. Interrupt them and run them again: they go on. ROBASSAY_DATA names the folder of data.
papers: env
	@$(BIN)/robassay run papers --scale $(SCALE) --adopt results/weights

protocols: env
	@$(BIN)/robassay run protocols --scale $(SCALE)

# docs/papers from results/small.
pages: env
	@$(BIN)/python -m robassay.papers.pages

# Trains the zoo's networks anew and measures what is true of them; the result is part of the package.
zoo: env
	OMP_NUM_THREADS=1 $(BIN)/python -m robassay.zoo.make

controls: env
	OMP_NUM_THREADS=1 $(BIN)/python bench/controls.py

# A site that asks nothing of the network: open docs/_build/index.html.
docs: env
	@$(PIP) -e '.[test,docs]'
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build
	$(BIN)/python docs/check.py docs/_build

# Asks every address that the documentation names; needs a network, and no test does it.
docs-links: env
	@$(PIP) -e '.[test,docs]'
	$(BIN)/python -m sphinx -b linkcheck -q docs docs/_build/links

clean:
	rm -rf $(VENV) build docs/_build docs/reference/parts *.egg-info robassay-store .mypy_cache .ruff_cache
