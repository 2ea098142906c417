# make train   set up, train on the embedded chignolin set, end with the report's name
# make test    set up and pass the tests that take less than ten seconds each
# make test-all  and the others
# make fuzz   thousands of damaged files and configs: a result or one sentence of each (an hour)
# make lint    ruff and mypy
# make data    sample chignolin again, in small (minutes); make data-full: the whole set (five hours)
# make bench   set up and measure everything (twelve minutes; BENCH=--quick: less of it)
# make docs    set up and build the documentation into site/ (warnings are errors)
# make experiment  the paper's experiment, 99 runs (two hours on two idle cores), into results/energy_weight/;
#              SWEEP=labels: another file of sweeps/. Called again, it goes on;
#              FROM=results/energy_terms: runs that finished elsewhere, as an export has them, are not run again
# make terms   the terms of the loss beside one another, 88 runs, into results/energy_terms/
# make report  draw the newest run's report again

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?= configs/chignolin.yaml configs/free_energy.yaml
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: train test test-all fuzz lint bench docs data data-full experiment terms report setup
.DELETE_ON_ERROR:

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(VENV)/.ready

train: setup
	$(BIN)/cgfe fit $(addprefix --config ,$(CONFIG))

TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --durations=5

test: setup
	$(TESTS) -m 'not slow and not fuzz'

test-all: setup
	$(TESTS)

fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -m fuzz tests/commands/test_fuzz.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.bench: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(BENCH)

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "documentation: site/index.html"

PACK := $(BIN)/cgfe pack --native folded --validation 0.25 --test 0.25

data: setup
	$(BIN)/cgfe reference --config configs/reference/chignolin.yaml output=runs/data/chignolin nanoseconds=1 frame_interval_ps=2
	$(PACK) --runs runs/data/chignolin --output runs/data/chignolin.h5

data-full: setup
	$(BIN)/cgfe reference --config configs/reference/chignolin.yaml
	$(BIN)/cgfe reference --config configs/reference/chignolin_exchange.yaml
	$(PACK) --runs runs/reference/chignolin --every-ps 20 --weights counts --output runs/reference/frames.h5
	$(BIN)/cgfe pack --native folded --runs runs/reference/chignolin_exchange --temperature 300 --output runs/reference/exchange.h5
	$(BIN)/cgfe reference-report runs/reference/frames.h5 --against runs/reference/exchange.h5 --output runs/reference/convergence.html
	$(BIN)/cgfe reference --config configs/reference/chignolin_mean_forces.yaml

SWEEP ?= energy_weight
JOBS ?= 2
# The setting that a sweep's others are compared with, where it is not the first one.
BASELINE_labels := paper, 0.5
BASELINE_energy_weight_helix := forces
BASELINE_energy_terms := forces
BASELINE_terms_helix := forces
BASELINE_both_folds := forces
BASELINE_longer := forces
BASELINE_data_efficiency := forces, 1
BASELINE_corrections := as_is
REPORT ?= $(if $(BASELINE_$(SWEEP)),--baseline "$(BASELINE_$(SWEEP))")

runs/begun_folded_raw.h5 runs/begun_folded_weighted.h5: runs/begun_folded_%.h5: | setup
	$(BIN)/cgfe pack --frames chignolin --begin-folded-ns 20 --weights $(if $(filter raw,$*),counts,training) --output $@

experiment: setup $(if $(filter raw_frames,$(SWEEP)),runs/begun_folded_raw.h5 runs/begun_folded_weighted.h5)
	$(BIN)/cgfe sweep sweeps/$(SWEEP).yaml --jobs $(JOBS) $(if $(FROM),--from $(FROM)); swept=$$?; \
	$(BIN)/cgfe report runs/sweep-$(SWEEP) $(REPORT) --export results/$(SWEEP) && exit $$swept

terms: override SWEEP := energy_terms
terms: experiment

report: setup
	$(BIN)/cgfe report $$(ls -td runs/*/config.yaml | head -n 1 | xargs dirname)
