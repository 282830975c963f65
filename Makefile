# Everything here works on a machine with Python 3.11 or newer and nothing else installed.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
# A process for each core, and one more, since some tests wait for time to pass, and most of the slow ones do; whoever is done
# first takes from the others. They share one PostgreSQL.
CORES := $(shell getconf _NPROCESSORS_ONLN)
PYTEST := --dist worksteal --numprocesses $(shell echo $$(($(CORES) + 1)))
PYTEST_SLOW := --dist worksteal --numprocesses $(shell echo $$(($(CORES) + 2)))
LOCK := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-strip-extras --upgrade --quiet \
  --custom-compile-command 'make lock'
OTHERS := build/others
BEFORE := build/before
BEFORE_COMMIT := 291eaf3
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test check bench format clean container lock site

run: $(VENV)/.installed
	HOST=$(HOST) PORT=$(PORT) $(BIN)/chatapi run

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PYTEST) -m 'not slow' $(ARGS)

# The tests of `make test` alone must cover the code. The slow ones, of many processes, would take half as long again if
# they were measured.
check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m website.build
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PYTEST) -m 'not slow'
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/python -m pytest $(PYTEST_SLOW) -m slow

bench: $(VENV)/.installed-bench
	@$(MAKE) --silent $(OTHERS)/.installed || echo 'Other servers cannot be installed here; they are left out.'
	@$(MAKE) --silent $(BEFORE)/.installed || echo 'The version before cannot be installed here; it is left out.'
	$(BIN)/python -m benchmarks $(ARGS)

format: $(VENV)/.installed-dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# What the image is made of, by hash: the service and the extra otel. Run it when a dependency changed, and to take newer versions.
lock: $(BIN)/python
	$(PIP) --group lock
	$(BIN)/uv pip compile pyproject.toml --extra otel $(LOCK) --output-file requirements.lock
	echo hatchling | $(BIN)/uv pip compile - $(LOCK) --output-file requirements-build.lock

# The documentation, in build/site; a link that leads nowhere stops it.
site: $(VENV)/.installed-dev
	$(BIN)/python -m website.build

container:
	deploy/build-image

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* dist build

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'chatapi needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'pip>=25.1'

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(PIP) --editable . --group dev
	@touch $@ $(VENV)/.installed

$(OTHERS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(OTHERS)
	$(OTHERS)/bin/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	$(OTHERS)/bin/python -m pip install --quiet --disable-pip-version-check --group others
	@touch $@

# The version that `make bench` compares with.
$(BEFORE)/.installed:
	mkdir -p $(BEFORE)/source
	git archive --output $(BEFORE)/source.tar $(BEFORE_COMMIT)
	tar -xf $(BEFORE)/source.tar -C $(BEFORE)/source
	$(PYTHON) -m venv $(BEFORE)/environment
	$(BEFORE)/environment/bin/python -m pip install --quiet --disable-pip-version-check '$(BEFORE)/source[all]'
	@touch $@

$(VENV)/.installed-bench: pyproject.toml | $(BIN)/python
	$(PIP) --editable . --group bench
	@touch $@ $(VENV)/.installed
