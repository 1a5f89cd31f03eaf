# Every target works as the first command in a fresh clone: it installs what it needs into .venv.

PYTHON ?= python3
DATA ?= demo
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help features classify check test test-browser torture bench clean clean-cache

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

features: $(VENV)/.for-use  ## Show every image of DATA to the network once and keep its features (DATA=demo)
	@$(BIN)/pipeline features "$(DATA)" $(ARGS)

classify: $(VENV)/.for-use  ## Train and compare classifiers on the features of DATA (DATA=demo)
	@$(BIN)/pipeline classify "$(DATA)" $(ARGS)

check: $(VENV)/.for-development  ## Check format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

test: $(VENV)/.for-development  ## Run the tests
	@$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

test-browser: $(VENV)/.for-browser  ## Test the pages in a real browser (installs Chromium where it may)
	@BROWSER_REQUIRED=1 $(BIN)/pytest tests/browser $(ARGS)

torture: $(VENV)/.for-development  ## Kill, starve and damage the cache for some minutes (docs/promises.md)
	@TORTURE=1 $(BIN)/pytest tests/test_torture.py tests/features/test_cluster.py \
		tests/cli/test_cli_finetune.py tests/models/test_strange_models.py \
		tests/runs/test_reading.py tests/cli/test_cache_commands.py tests/app/test_labels_file.py tests/app/test_site.py -rP $(ARGS)
	@TORTURE_NETWORK=efficientnet-lite0 $(BIN)/pytest tests/test_torture.py -rP $(ARGS)

bench: $(VENV)/.for-development  ## Measure again, an hour (one of it: make bench ARGS=demo; for hours: ARGS=accuracy)
	@$(BIN)/python -m benchmarks $(ARGS)

clean:  ## Remove the environment and what tools leave behind; features and runs stay
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find pipeline tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

clean-cache:  ## Remove the features: the next run makes them again
	find cache -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	{ echo "This needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.for-use: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (once; TensorFlow and the demo data are about 600 MB) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[offline,demo]'
	@touch $@

$(VENV)/.for-development: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (once; TensorFlow and the demo data are about 600 MB) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.for-use

# Playwright's own browsers are left alone: the system's has what it needs, and is kept up to date.
$(VENV)/.for-browser: $(VENV)/.for-development
	@test -n "$$BROWSER_PATH" || which chromium chromium-browser google-chrome | grep -q . || \
	{ echo "Installing Chromium ..." >&2; { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } >/dev/null 2>&1; } || \
	{ echo "This needs Chromium, which could not be installed from here. As root: apt-get install chromium. Or name a browser: make test-browser BROWSER_PATH=/path/to/chrome"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,browser]'
	@touch $@
