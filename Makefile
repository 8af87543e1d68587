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

# an engine without buildx has the older builder alone
export DOCKER_BUILDKIT ?= $(shell docker buildx version >/dev/null 2>&1 && echo 1 || echo 0)
DOCKER_SOCKET ?= /var/run/docker.sock
of_env = $(shell sed -n 's/^$(1)=//p' .env 2>/dev/null)
IMAGE := trading-dagster:$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

.PHONY: help run ui test test-e2e lint format bench lock clean docker-build docker-up docker-down docker-test

help:
	@echo "make run       run the pipeline over the sample's last 60 sessions (FROM=, TO= to change)"
	@echo "make ui        the Dagster UI on http://127.0.0.1:3000"
	@echo "make test      fast tests;  make test-e2e   whole-system tests;  make lint   ruff and mypy"
	@echo "make bench     measurements;  make lock   resolve dependencies again"
	@echo "make docker-up an installation in containers: docs/deployment.md;  make docker-down  stop it, data stays"
	@echo "make docker-test  its tests, in an installation of their own"

run: .venv/.run
	@$(BIN)/trading run --from $(FROM) --to $(TO)

ui: .venv/.run
	@$(BIN)/trading ui

# two workers share two cores: libraries that take both for themselves would get in their way
test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not e2e and not docker"

test-e2e: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "e2e and not docker" -v --durations=10

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

docker-build:
	docker build --quiet --tag $(IMAGE) $(foreach name,PYTHON_IMAGE POSTGRES_IMAGE,$(addprefix --build-arg $(name)=,$(call of_env,$(name)))) .

docker-up: .env backups docker-build
	docker compose up --detach --wait --no-build
	@echo "up: http://127.0.0.1:$$(docker compose port webserver 3000 | cut -d: -f2), and docker compose ps"

docker-down:
	docker compose --profile '*' down --remove-orphans

docker-test: .venv/.dev docker-build
	$(BIN)/pytest -m "docker$(if $(DOCKER_ENGINE_RESTART),, and not restarts_engine)" -v -rP --durations=15

# what Compose cannot find out by itself: a password for the database, and who may use the engine's socket
.env:
	@umask 077; secret() { $(PYTHON) -c 'import secrets; print(secrets.token_hex(24))'; }; \
	{ echo "POSTGRES_PASSWORD=$$(secret)"; echo "GRAFANA_PASSWORD=$$(secret)"; \
	  echo "DOCKER_GROUP=$$(stat -c %g $(DOCKER_SOCKET))"; echo "RUN_CPUS=$$(($$(nproc) > 1 ? 2 : 1))"; } > $@
	@echo "wrote .env, with new passwords: the database on its volume opens with this one only"

# the containers write to it as user 1000
backups:
	@mkdir -m 770 $@
	@[ "$$(stat -c %u $@)" = 1000 ] || chown 1000:1000 $@ || \
	  { rmdir $@; echo "make the folder for backups by hand: sudo install -d -o 1000 -g 1000 -m 770 $@" >&2; exit 1; }

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
