# Everything starts here; each target sets up what it needs. Needed beforehand: Python 3.11 to 3.13, and make; for the
# tests, PostgreSQL's programs, too.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
export DAGSTER_HOME ?= $(abspath $(or $(TRADING_DATA_DIR),.trading))/dagster
export DAGSTER_DISABLE_TELEMETRY ?= 1

# the sample's last 60 sessions
FROM ?= 2022-10-04
TO ?= 2022-12-28

.PHONY: help run ui test test-e2e lint format bench lock clean

help:
	@echo "make run       run the pipeline over the sample's last 60 sessions (FROM=, TO= to change)"
	@echo "make ui        the Dagster UI on http://127.0.0.1:3000"
	@echo "make test      fast tests;  make test-e2e   whole-system tests;  make lint   ruff and mypy"
	@echo "make bench     measurements;  make lock   resolve dependencies again"

run: .venv/.run
	@$(BIN)/trading run --from $(FROM) --to $(TO)

ui: .venv/.run
	@$(BIN)/trading ui

test: .venv/.dev
	$(BIN)/pytest -n 2 --dist loadfile -m "not e2e"

test-e2e: .venv/.dev
	$(BIN)/pytest -n 2 --dist loadfile -m e2e -v --durations=10

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.dev
	$(BIN)/python -m benchmarks

lock: .venv/.uv
	$(UV) pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url --no-header \
		--quiet --upgrade --output-file requirements.lock
	$(UV) pip compile pyproject.toml --extra dev --constraint requirements.lock --universal --generate-hashes \
		--no-emit-index-url --no-header --quiet --output-file requirements-dev.lock

clean:
	rm -rf .venv

.venv/.uv:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else \
		f"Python {v[0]}.{v[1]} found; 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ...")'
	@echo "setting up .venv (once; 1.5 GB installed)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check "uv>=0.9"
	@printf '%s\n' "" "# added by make: Dagster's home, and the module for the one subcommand that does not read pyproject.toml" \
		'export DAGSTER_HOME="$${DAGSTER_HOME:-$(CURDIR)/.trading/dagster}"; mkdir -p "$$DAGSTER_HOME"' \
		'dagster() { if [ "$${1-}" = asset ]; then DAGSTER_MODULE_NAME=trading_dagster.definitions command dagster "$$@";' \
		'  else command dagster "$$@"; fi; }' >> .venv/bin/activate
	@touch $@

# the runtime alone, unless the developer's tools, which hold it, are there already
.venv/.run: requirements.lock pyproject.toml | .venv/.uv
	@if [ -e .venv/.dev ]; then $(MAKE) --no-print-directory .venv/.dev; \
	else $(UV) pip sync --quiet --compile-bytecode requirements.lock && $(UV) pip install --quiet --no-deps --editable .; fi
	@touch $@

.venv/.dev: requirements-dev.lock requirements.lock pyproject.toml | .venv/.uv
	@$(UV) pip sync --quiet --compile-bytecode requirements-dev.lock
	@$(UV) pip install --quiet --no-deps --editable .
	@touch $@
