# make demo · make test · make faults · make bench · make lint: each makes its own environment first.
# Python 3.10 or later; another one: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DATA ?= ../shared/data
DEMO ?= demo_output

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test test-slow faults bench lint format pipeline clean

help:
	@echo "make demo       annotate the sample collection with the embedded pipeline, and show some of it"
	@echo "make test       run the tests (under 10 minutes on 2 cores)"
	@echo "make test-slow  run the long tests as well"
	@echo "make faults     50 jobs in which something goes wrong: is every row there? (about 25 minutes)"
	@echo "make bench      measure speed, memory and agreement beside the peers (about 25 minutes)"
	@echo "make lint       ruff and mypy"
	@echo "make format     let ruff put the code in order"
	@echo "make pipeline   make the embedded pipeline anew (hours; needs the data sets in DATA=$(DATA))"
	@echo "make clean      remove the environment and what the demo wrote"

$(READY): setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	    || { echo "spacy-albert needs Python 3.10 or later, and $(PYTHON) is older. Try: make PYTHON=python3.11"; exit 1; }
	@echo "Making an environment in $(VENV) (a few minutes) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,dev]"
	@touch $@

demo: $(READY)
	$(BIN)/python -m spacy albert annotate pipelines/sample.parquet $(DEMO) --overwrite
	$(BIN)/python -m spacy albert show $(DEMO) -n 4

test: $(READY)
	$(BIN)/python -m pytest

test-slow: $(READY)
	$(BIN)/python -m pytest -m "slow or not slow"

faults: $(READY)
	$(BIN)/python -m tests.faults --rounds 50

bench: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python -m benchmarks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pipeline: $(READY)
	$(BIN)/python pipelines/en_albert_sm/build.py $(DATA)

clean:
	rm -rf $(VENV) $(DEMO)
