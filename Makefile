# make setup   a virtual environment with the pinned versions
# make demo    from a fresh machine to a report: calibrate, optimize, measure before and after
# make test    lint, types, the agent's Python floor, all tests
# make coverage   the same tests, and which lines none of them reaches
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := rig device_agents power_models
SOURCES := $(wildcard $(PACKAGES) tests benchmarks experiments examples)

# Most tests wait for processes more than they compute: one worker more than there are cores. Those marked "alone" time
# something for real, and come after the others, one by one.
WORKERS ?= $(shell expr $$(nproc) + 1)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
BESIDE := -n $(WORKERS) --dist loadfile -m "not alone"
ALONE := -m alone
# What fails must fail again with nothing beside it: real measurements on a busy machine are rejected at times. The first
# failure stays in the output; a run that ended by anything but failed tests has nothing to repeat.
AGAIN := --last-failed --last-failed-no-failures none -m

.PHONY: setup demo test coverage lint clean-demo

setup: $(VENV)/.pinned

# constraints.txt pins everything: without its torch version pip may fetch a build many times the size.
$(VENV)/.pinned: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	BIN=$(BIN) bash scripts/demo.sh

lint: setup
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/vermin --quiet --no-tips --violations --target=3.6- --eval-annotations device_agents

test: lint
	$(PYTEST) $(BESIDE) --durations=25 || $(PYTEST) $(AGAIN) "not alone"
	$(PYTEST) $(ALONE) --durations=5 || $(PYTEST) $(AGAIN) alone

coverage: lint
	$(PYTEST) $(BESIDE) --cov --cov-report=
	$(PYTEST) $(ALONE) --cov --cov-append --cov-report=term:skip-covered

clean-demo:
	rm -rf build/demo
