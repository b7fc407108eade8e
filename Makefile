# make demo     watch Rota at work: its own environment, an embedded database, jobs that show the point
# make test     check style, types and layers, then run every test on every database that can be had
#               DATABASES="sqlite postgresql" limits them; PYTEST_OPTIONS="-n 3 -k lease" goes to pytest
# make test-databases  whatever works on a database, on every one; `make test` runs the store on all, the rest on one
# make test-crash  a process killed at each crash point: both deliveries, every database; `make test` does a selection
# make docs     write the reference again, from the code
# make screenshots  take the pictures of all pages again; wants Chromium, and five minutes
# make bench    measure; DATABASE=postgresql, BENCH_OPTIONS=...
# make faults   five hosts under load and random faults; DATABASE=mariadb, SEED=2, FAULT_OPTIONS="--seconds 60"
#
# Everything lives in .venv, which `make clean` removes. PYTHON chooses the interpreter that it is made with.

SHELL = /bin/sh
# Tests start programs thousands of times, each of which would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help demo test test-databases test-crash test-long test-zones lint format docs screenshots bench faults clean prerequisites

DATABASES ?= $(ROTA_TEST_DATABASES)
DATABASE ?= sqlite
PYTEST_OPTIONS ?= -n 3 --dist worksteal
BENCH_OPTIONS ?=
SEED ?= 1
FAULT_OPTIONS ?=
# The first of these that is new enough.
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
endif

BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo "sudo ")

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: .venv/.installed
	@$(BIN)/rota up --demo

test: lint
	ROTA_TEST_DATABASES="$(DATABASES)" $(BIN)/pytest $(PYTEST_OPTIONS)

test-databases: .venv/.developing
	ROTA_TEST_DATABASES="$(DATABASES)" $(BIN)/pytest --every-database tests/cluster tests/engine tests/client $(PYTEST_OPTIONS)
	ROTA_TEST_DATABASES="$(DATABASES)" $(BIN)/pytest --every-database -m "(takes_turns or cases_take_turns) and not long" tests/store $(PYTEST_OPTIONS)

test-crash: .venv/.developing
	ROTA_TEST_DATABASES="$(DATABASES)" $(BIN)/pytest --every-database -m "not zones" \
		tests/test_crash.py tests/cluster/test_crash_points.py \
		tests/cluster/test_crash_points_beside.py $(PYTEST_OPTIONS)

test-long: .venv/.developing
	ROTA_TEST_DATABASES="$(DATABASES)" $(BIN)/pytest --every-database -m long $(PYTEST_OPTIONS)

test-zones: .venv/.developing
	$(BIN)/pytest -m zones tests/model $(PYTEST_OPTIONS)

lint: .venv/.developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/basedpyright

format: .venv/.developing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.developing
	@$(BIN)/python -m docs.generate

screenshots: .venv/.developing
	@$(BIN)/python -m docs.screenshots

bench: .venv/.developing
	$(BIN)/python -m benchmarks --database $(DATABASE) $(BENCH_OPTIONS)

faults: .venv/.developing
	$(BIN)/python -m faults --database $(DATABASE) --seed $(SEED) $(FAULT_OPTIONS)

clean:
	rm -rf .venv .build .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# What a bare machine may lack, each with the line that helps. Debian keeps venv's better half in a package of its own.
prerequisites:
	@if [ -x $(BIN)/python ]; then exit 0; fi; \
	if [ -z "$(PYTHON)" ]; then \
		found=$$(python3 --version 2>/dev/null) && package=python3.11 || { found=none; package=python3; }; \
		echo "Rota needs Python 3.11 or newer, and there is $$found." >&2; \
		echo "    $(SUDO)apt-get install -y $$package $$package-venv" >&2; exit 1; fi; \
	if ! $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then \
		echo "$(PYTHON) cannot make virtual environments: its venv module is not installed." >&2; \
		package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		echo "    $(SUDO)apt-get install -y $$package" >&2; exit 1; fi

# A half-made environment, left by an interrupted run, is made again.
$(BIN)/python: | prerequisites
	@echo "making .venv with $(PYTHON)"
	@$(PYTHON) -m venv --clear .venv || { rm -rf .venv; exit 1; }

.venv/.installed: pyproject.toml | $(BIN)/python
	@echo "installing Rota and the drivers of its databases into .venv"
	@$(PIP) install --editable '.[all]'
	@touch $@

# pip learned --group only in 2025, so the group is read for it.
.venv/.developing: .venv/.installed
	@echo "installing what checks and tests Rota into .venv"
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' \
		> .venv/development.txt
	@$(PIP) install --requirement .venv/development.txt
	@touch $@
