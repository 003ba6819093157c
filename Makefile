# Every target sets itself up: a fresh clone needs Python 3.11 or newer with venv, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup simulate test test-long test-faults lint bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev,ray,bench,parquet,hf,lora,deploy,serve]'
	# What it is tried with refuses a release of ml_dtypes that it does not use.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps tritonclient==2.73.0 python-rapidjson==1.25
	touch $@

simulate: setup
	$(BIN)/fedlite simulate

# Two workers: whole files, so that what a file sets up is set up once.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What takes longer than a change should wait for.
test-long: setup
	$(BIN)/python -m pytest -m long -n 2 --dist loadfile --no-loadscope-reorder

# A short form, two minutes instead of six, is played with FEDLITE_FAULTS=short.
test-faults: setup
	$(BIN)/python -m pytest -m faults

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m simulations.benchmarks.codec --quick
	$(BIN)/python -m simulations.benchmarks.crossdevice --quick
	$(BIN)/python -m simulations.benchmarks.depth --quick
	$(BIN)/python -m simulations.benchmarks.deployment --quick
	$(BIN)/python -m simulations.benchmarks.dropin --quick
	$(BIN)/python -m simulations.benchmarks.encoder --quick
	$(BIN)/python -m simulations.benchmarks.engine --quick
	$(BIN)/python -m simulations.benchmarks.fashion --quick
	$(BIN)/python -m simulations.benchmarks.heart --quick
	$(BIN)/python -m simulations.benchmarks.inference --quick
	$(BIN)/python -m simulations.benchmarks.counting --quick
	$(BIN)/python -m simulations.benchmarks.ledger --quick
	$(BIN)/python -m simulations.benchmarks.lora --quick
	$(BIN)/python -m simulations.benchmarks.lora_cost --quick
	$(BIN)/python -m simulations.benchmarks.network --quick
	$(BIN)/python -m simulations.benchmarks.noise --quick
	$(BIN)/python -m simulations.benchmarks.robust --quick
	$(BIN)/python -m simulations.benchmarks.secure --quick
	$(BIN)/python -m simulations.benchmarks.serving --quick
	$(BIN)/python -m simulations.benchmarks.shared quickstart-distributed --quick
	$(BIN)/python -m simulations.benchmarks.skew --quick
	$(BIN)/python -m simulations.benchmarks.smaller --quick
	$(BIN)/python -m simulations.benchmarks.soak --quick

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
