# The two commands are `make` and `make test`; `make help` lists the rest. CI calls these targets.
# Everything happens in .venv; nothing outside this folder is written.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := repro

VENV := .venv
INSTALLED := $(VENV)/.installed
# With the environment first on PATH, the stages' `python` is the one that has the packages.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help repro test lint format lock check-repro check-portable mutations bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

repro: $(INSTALLED)  ## run what is not up to date of the pipeline (plain `make` does this)
	@echo "make: dvc repro"
	dvc repro

test: $(INSTALLED)  ## run the tests (under 5 minutes)
	@echo "make: pytest"
	python -m pytest

lint: $(INSTALLED)  ## check style (ruff) and types (mypy)
	@echo "make: ruff, mypy"
	ruff check .
	ruff format --check .
	mypy

format: $(INSTALLED)  ## mend style
	@ruff check --fix .
	ruff format .

check-repro: $(INSTALLED)  ## clone HEAD, run everything from nothing, compare every committed byte
	@python -m checks.repro

check-portable: $(INSTALLED)  ## train under other threads, libraries and emulated processors: same bits?
	@python -m checks.portable

mutations: repro  ## break the ONNX model in a thousand ways: does the proof notice each? (10 minutes)
	@python -m checks.mutations

bench: $(INSTALLED)  ## time an epoch against Keras' fit as the paper writes it, side by side
	@python -m benchmarks.epoch

lock: $(INSTALLED)  ## write requirements.lock from pyproject.toml; UPGRADE=1: with newest versions
	@uv pip compile pyproject.toml --group dev --universal --python-version 3.11 \
		--generate-hashes --no-header $(if $(UPGRADE),--upgrade) --quiet --output-file requirements.lock
	echo "make: wrote requirements.lock; \`make\` installs it"

clean:  ## remove the environment and tools' caches; data, models and DVC's cache stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dvc_plots

# The stamp is written last, so that an install that was cut off starts again.
$(INSTALLED): requirements.lock
	@for python in $(PYTHON) python3 python3.11 python3.12; do
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
	    found="$$python"; break
	  fi
	done
	if [ -z "$${found:-}" ]; then
	  echo "make: needs Python 3.11 or 3.12 with venv; on Debian or Ubuntu: apt-get install python3 python3-venv" >&2
	  echo "make: where it has another name: make PYTHON=/path/to/python3.11" >&2
	  exit 1
	fi
	echo "make: installing requirements.lock into $(VENV) ($$($$found --version)); about half a minute"
	rm -f $@
	$$found -m venv --clear $(VENV)
	# uv first, by pip and by its hash in the lock; it installs the rest eight times as fast.
	sed -n '/^uv==/,/^[a-z]/{/^uv==/p;/--hash/p}' requirements.lock > $(VENV)/uv.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(VENV)/uv.lock
	$(VENV)/bin/uv pip sync --quiet --python $(VENV)/bin/python --require-hashes --compile-bytecode requirements.lock || {
	  echo "make: uv could not; pip tries (it knows pip's own settings for mirrors and proxies)"
	  $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	}
	touch $@
