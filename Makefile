# One word a job. `make demo` and `make test` do all their set-up by themselves.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
NATIVE = setup.py pyproject.toml $(wildcard src/websocket_handler/engine/*.p* src/websocket_handler/engine/core/*)

.PHONY: demo test test-all lint format sanitize dist clean

demo: $(VENV)/.installed
	$(BIN)/python -m websocket_handler

test: $(VENV)/.test-ready
	$(BIN)/python -m pytest tests

# The suite on every Python from 3.10 on that is here, with and without the native engine.
test-all:
	scripts/test-all

lint: $(VENV)/.test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test-ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The native part with AddressSanitizer and UndefinedBehaviorSanitizer, and the suite on it.
sanitize:
	scripts/sanitize

dist: $(VENV)/.test-ready
	$(BIN)/python -m build

clean:
	rm -rf .venv* build dist src/*.egg-info src/websocket_handler/engine/*.so
	rm -rf src/websocket_handler/engine/*.c tests/peers/node_modules

$(VENV)/.installed: $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.test-ready: $(VENV)/.installed tests/peers/package.json scripts/install-test-peers
	$(BIN)/python -m pip install --quiet --group dev
	scripts/install-test-peers
	touch $@
