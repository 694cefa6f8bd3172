# make run     start the server and print the link to open       make run ARGS="--port 9000"
# make test    make check, then every test                       make test TESTS=tests/project
#              JOBS processes share the tests; those marked `alone` come after the others, at most two at a time;
#              JOBS=1: all one after another
# make check   style, types, imports, spelling
# make bench   the measurements of bench/ but the soak, which takes an hour, and what only calls the others
# make clean   remove everything that these targets made
#
# Each target first makes or updates .venv; a second call finds nothing to do. PYTHON=... picks the interpreter.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help run test check bench clean pins

VENV := .venv
BIN := $(VENV)/bin
# What the extra `mediapipe` brings, which is no part of the development environment: its OpenCV would lie over the other.
ELSEWHERE := absl-py|mediapipe|opencv-contrib-python|sounddevice
RUN_STAMP := $(VENV)/.sdstream-run
DEV_STAMP := $(VENV)/.sdstream-dev
INPUTS := pyproject.toml constraints.txt .ci/environment.sh
CLIENTS := tests/clients
NODE_STAMP := $(CLIENTS)/node_modules/.package-lock.json
ARGS ?=
TESTS ?=
JOBS := 2
PYTEST_ARGS ?=
# Hundreds of processes import the same files, and the second run collects what the first did: each reads what one
# compiled, also where the image that this runs in says otherwise.
unexport PYTHONDONTWRITEBYTECODE

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

run: $(RUN_STAMP)
	@exec $(BIN)/sdstream serve $(ARGS)

# The first run writes down which tests it leaves for the second (tests/conftest.py), which then need not look everywhere.
test: check node
	@mkdir -p artifacts; SECONDS=0; status=5; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	export LEFT_TESTS=$$folder/tests; \
	run() { $(BIN)/python -m pytest $(PYTEST_ARGS) "$$@"; local got=$$?; \
	    if [ $$status -eq 5 ] || { [ $$status -eq 0 ] && [ $$got -ne 5 ]; }; then status=$$got; fi; }; \
	if [ $(JOBS) -eq 1 ]; then run $(TESTS); else run -n $(JOBS) -m "not alone" $(TESTS); \
	    if [ -s "$$LEFT_TESTS" ]; then run -n 2 -m alone "@$$LEFT_TESTS"; else run -n 2 -m alone $(TESTS); fi; fi; \
	echo "tests took $$((SECONDS / 60)) min $$((SECONDS % 60)) s"; exit $$status

# pyright, the longest, runs beside the others.
check: $(DEV_STAMP)
	@$(BIN)/pyright & types=$$!; status=0; \
	$(BIN)/ruff check . || status=1; \
	$(BIN)/ruff format --check . || status=1; \
	$(BIN)/lint-imports --no-logo || status=1; \
	$(BIN)/codespell || status=1; \
	wait $$types || status=1; exit $$status

bench: $(DEV_STAMP)
	@mkdir -p artifacts; set -e; for program in bench/*.py; do \
	    case $$program in */__init__.py|*/_*|*/card.py|*/soak.py|*/turns.py) continue;; esac; \
	    grep -q '__main__' $$program || continue; \
	    name=$${program#bench/}; echo "== $$name"; $(BIN)/python -m bench.$${name%.py} $(ARGS); \
	done

clean:
	@rm -rf $(VENV) artifacts build dist .pytest_cache .ruff_cache .hypothesis .schemathesis .import_linter_cache $(CLIENTS)/node_modules
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

pins: $(DEV_STAMP)
	@{ sed -n '/^#/p' constraints.txt; { grep -E '^($(ELSEWHERE))==' constraints.txt; $(BIN)/python -m pip freeze --exclude sdstream 2>/dev/null | sed 's/+[a-z0-9.]*$$//'; } | LC_ALL=C sort -f; } > constraints.new
	@mv constraints.new constraints.txt

# The npm packages of the client tests; without npm those tests skip themselves and say so.
.PHONY: node
node:
	@if [ -f $(CLIENTS)/package-lock.json ] && command -v npm >/dev/null; then $(MAKE) --no-print-directory $(NODE_STAMP); fi

$(NODE_STAMP): $(CLIENTS)/package.json $(CLIENTS)/package-lock.json
	@echo "Installing the npm packages of $(CLIENTS)"
	@cd $(CLIENTS) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

$(RUN_STAMP): $(INPUTS)
	@bash .ci/environment.sh $(VENV) run
	@touch $@

$(DEV_STAMP): $(INPUTS)
	@bash .ci/environment.sh $(VENV) dev
	@touch $(RUN_STAMP) $@
