# Each target does all of its own set-up; only Python 3.11 or newer is needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help quickstart test lint clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: .venv/installed  ## train, test and log a classifier of digits, in under 20 seconds once installed
	$(BIN)/python -m project fit --config configs/quickstart.yaml

test: .venv/installed  ## the tests, but for those that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8

lint: .venv/installed  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# part: benchmarks
.PHONY: bench
bench: .venv/installed .venv-bench/installed  ## measure beside others, and put it into docs/benchmarks.md; ARGS=--quick for 5 minutes
	$(BIN)/python -m benchmarks $(ARGS)
	$(BIN)/python -m benchmarks.table

# end
# part: mine
.PHONY: mine
mine: .venv/installed  ## rename the package, leave parts out: NAME=my_package WITHOUT="compare benchmarks"
	$(BIN)/python tools/mine.py "$(NAME)" $(WITHOUT)

# end
clean:  ## remove the environments
	rm -rf .venv
# part: benchmarks
	rm -rf .venv-bench
# end

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# part: benchmarks
.venv-bench/installed: benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --upgrade pip
	.venv-bench/bin/python -m pip install --quiet --requirement $<
	touch $@
# end
