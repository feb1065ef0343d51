# Everything a person or a build runs. Needs python3 >= 3.11 and GNU make, nothing else.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# The suite starts hundreds of processes: without cached bytecode each would compile every module.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
STAMP := .venv/.setup-stamp
ARGS ?=
SEED ?= 0
HISTORIES ?= 20000
MINUTES ?= 60
PYTEST_ARGS ?=
# Workers share one embedded Kafka and PostgreSQL; each test has its own database and topics.
# Files go out in order of their names: the long ones (bench, e2e, integration) first, so that at
# the end, among the quick ones of tests/unit, no worker waits for another. A fourth one saves an
# eighth of the time on four processors, and leaves nothing for when such a machine stands still.
PYTEST_WORKERS ?= 3

.PHONY: help setup demo test test-keycloak check simulate fuzz bench schemas lint types clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make .venv from uv.lock (needs only python3 >= 3.11)
	@:

$(STAMP): pyproject.toml uv.lock scripts/setup
	@scripts/setup
	@touch $@

demo: setup ## the whole story on real Kafka and PostgreSQL (ARGS=--keep leaves it running)
	@$(BIN)/faregate demo $(ARGS)

test: setup ## the whole suite, real Kafka and PostgreSQL included (PYTEST_ARGS="-k dlq")
	$(BIN)/pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder -m "not keycloak" $(PYTEST_ARGS)

test-keycloak: setup ## tokens, keys and users of a real Keycloak (fetched once, 160 MB)
	$(BIN)/pytest -m keycloak $(PYTEST_ARGS) tests/integration/keycloak

check: setup lint types ## the inner loop: lint, types, and the tests that need no servers
	$(BIN)/pytest -q -m "not stack and not faults" $(PYTEST_ARGS) tests/unit tests/contracts tests/tidy

simulate: setup ## 20,000 random histories, invariants after every step (SEED=7 HISTORIES=1: one again)
	@$(BIN)/python -m tests.simulation --seed $(SEED) --histories $(HISTORIES) $(ARGS)

fuzz: setup ## call every route of openapi.json with made-up values for MINUTES=60 (ARGS="--seed 7")
	@$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(ARGS)

bench: setup ## measure, write .bench/latest.json, compare with bench/baseline.json
	@$(BIN)/python -m tests.bench $(ARGS)

schemas: setup ## write schemas/ again from the event models and the routes
	@$(BIN)/python -m faregate.events.schemagen
	@$(BIN)/python -m faregate.gateway.openapi

lint: setup ## ruff (rules and format) and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup ## mypy --strict over every part and the tests
	$(BIN)/mypy --strict

clean: ## remove caches and build output (keeps .venv and the embedded servers' data)
	rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -path ./.uv -prune -o -name __pycache__ -type d -exec rm -rf {} +
