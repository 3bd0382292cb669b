# Two commands are enough: `make demo` and `make test`. PIP_ARGS is handed to pip (README, "CPU or CUDA").
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt $(PIP_ARGS)
STAMP  := $(VENV)/.installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
XDIST  := -n 2 --dist loadgroup

.PHONY: env demo test test-data test-long check mutants bench papers protocols zoo controls clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "robassay: installing into $(VENV) (once; about two minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) torch
	@$(PIP) -e '.[test]'
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

bench: env
	OMP_NUM_THREADS=1 $(BIN)/python bench/attacks.py
	@$(PIP) -e '.[test,bench]'
	OMP_NUM_THREADS=1 $(BIN)/python bench/black_box.py

# All at once, since what is long in one protocol leaves the other workers to the rest; then a report of each.
protocols: env
	@for one in protocols protocols-transfer protocols-white protocols-mixtures protocols-stability protocols-cost \
		protocols-translucent protocols-substitutes; do $(BIN)/robassay run $$one || exit 1; done

# Trains the zoo's networks anew and measures what is true of them; the result is part of the package.
zoo: env
	OMP_NUM_THREADS=1 $(BIN)/python -m robassay.zoo.make

controls: env
	OMP_NUM_THREADS=1 $(BIN)/python bench/controls.py

papers: env
	@$(BIN)/robassay list papers

clean:
	rm -rf $(VENV) build *.egg-info robassay-store .mypy_cache .ruff_cache
