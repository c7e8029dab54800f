# make setup   a virtual environment with the pinned versions
# make demo    from a fresh machine to a report: calibrate, optimize, measure before and after
# make test    lint, types, the agent's Python floor, all tests with coverage
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := rig device_agents power_models
SOURCES := $(wildcard $(PACKAGES) tests benchmarks experiments examples)

.PHONY: setup demo test lint clean-demo

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
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --durations=15

clean-demo:
	rm -rf build/demo
