# make train   set up, train on the embedded chignolin set, end with the report's name
# make test    set up and pass the tests
# make lint    ruff and mypy
# make data    sample chignolin again, in small (minutes); make data-full: the whole set (hours)
# make bench   set up and measure everything (twelve minutes; BENCH=--quick: less of it)
# make report  draw the newest run's report again

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?= configs/chignolin.yaml
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: train test lint bench data data-full report setup
.DELETE_ON_ERROR:

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(VENV)/.ready

train: setup
	$(BIN)/cgfe fit --config $(CONFIG)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --durations=5

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.bench: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(BENCH)

data: setup
	$(BIN)/cgfe reference --config configs/reference/chignolin_metadynamics.yaml output=runs/data/metadynamics nanoseconds=0.5
	$(BIN)/cgfe reference --config configs/reference/chignolin.yaml output=runs/data/unbiased nanoseconds=0.2 walkers=4 'starts=[folded,runs/data/metadynamics]'
	$(BIN)/cgfe pack --runs runs/data/metadynamics runs/data/unbiased --native folded --discard-ns 0.1 --output runs/data/chignolin.h5

data-full: setup
	$(BIN)/cgfe reference --config configs/reference/chignolin_metadynamics.yaml
	$(BIN)/cgfe reference --config configs/reference/chignolin.yaml
	$(BIN)/cgfe pack --runs runs/reference/chignolin --native folded --output runs/reference/unbiased.h5
	$(BIN)/cgfe reference --config configs/reference/chignolin_tics.yaml
	$(BIN)/cgfe reference --config configs/reference/chignolin_adaptive.yaml
	$(BIN)/cgfe reference --config configs/reference/chignolin_adaptive.yaml output=runs/reference/chignolin_round2 seed=12 'scouts=[runs/reference/chignolin,runs/reference/chignolin_round1]'
	$(BIN)/cgfe pack --runs runs/reference/chignolin* --native folded --held-out 0.1 --output runs/reference/frames.h5
	$(BIN)/cgfe reference-report runs/reference/frames.h5 --output runs/reference/convergence.html

report: setup
	$(BIN)/cgfe report $$(ls -td runs/*/config.yaml | head -n 1 | xargs dirname)
