# Two commands on a fresh machine: `make demo` and `make test`.
# Every target first makes .venv from the pinned lock when it is missing or out of date.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-lock
SEED ?= 1
OUT ?= runs/demo

.PHONY: setup demo test test-console test-peers soak lint docs-check clean
setup: $(STAMP)

$(STAMP): requirements/lock.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lodestem needs Python 3.11 or newer; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/lock.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

demo: setup
	$(BIN)/lodestem demo --seed $(SEED) --out $(OUT)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs-check: setup
	$(BIN)/mkdocs build --strict --quiet --site-dir site

test: lint docs-check
	$(BIN)/pytest -q -n 2 -m "not soak and not gpu and not instrument and not live and not peers and not console"
	$(BIN)/pytest -q -m "live and not soak and not console"

test-peers:
	$(PYTHON) tests/peers/run.py $(PEERS)

# Chromium of the system, or of the distribution, or of Playwright, whichever can be had.
CHROMIUM := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)

test-console: setup
ifeq ($(CHROMIUM),)
	(apt-get update -q && apt-get install -y -q --no-install-recommends chromium) \
		|| $(BIN)/playwright install --with-deps chromium
endif
	$(BIN)/pytest -q -m console tests/console --timeout 600

soak: setup
	$(BIN)/pytest -q -m "soak and not peers and not console" --timeout 7200

clean:
	rm -rf $(VENV) site runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .peers
