# The two commands are `make` and `make test`; `make help` lists the rest. CI calls these targets.
# Everything happens in .venv; nothing outside this folder is written but tools' own caches.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := repro

VENV := .venv
INSTALLED := $(VENV)/.installed
# With the environment first on PATH, the stages' `python` is the one that has the packages.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# One at a time: a second `make` waits for the first, and for what is left of a killed one, as
# children inherit the lock. (macOS has no flock; there DVC's own lock says who is at work.)
define ALONE
mkdir -p .run
exec 9>.run/make.lock
if command -v flock >/dev/null && ! flock --nonblock 9; then
  echo "make: another make is at work in this folder; waiting for it" >&2
  flock 9
fi
endef

# The other runtimes have an environment of their own, and npm packages where a lock file lies; so
# have the peers of `make bench`.
CONSUMERS := consumers/.venv/.installed
# So has DVC with its SSH and S3.
SHARING := checks/sharing/.venv/.installed
PEERS := benchmarks/.venv/.installed
NODE_MODULES := $(patsubst %/package-lock.json,%/node_modules/.package-lock.json,$(wildcard consumers/*/package-lock.json))

.PHONY: help repro recipe heal report sweep-picture test test-web test-consumers test-workers page lint format lock \
	check-repro check-portable check-workers check-lock gate mutations torture bench bench-scale \
	conformance conformance-tools push pull check-sharing sharing-tools clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

repro: $(INSTALLED)  ## run what is not up to date of the pipeline (plain `make` does this)
	@$(ALONE)
	trap 'exit 130' INT
	# DVC takes one that was killed for alive until someone has reaped it.
	if grep -qs '"pid"' .dvc/tmp/rwlock; then python -m checks.heal --locks; fi
	echo "make: dvc repro"
	# Where it failed because something is damaged, that is removed and made again; not where
	# someone killed it (128 and a signal's number; DVC's own failures are 1 and 255).
	dvc repro || {
	  status=$$?
	  if (( status > 128 && status < 255 )) || ! python -m checks.heal --quiet; then exit $$status; fi
	  dvc repro
	}

recipe: $(INSTALLED)  ## run recipes/NAME.txt as a DVC experiment of that name, e.g. NAME=quick
	@if [ ! -f "recipes/$(NAME).txt" ]; then
	  echo "make: no recipes/$(NAME).txt; there are: $(basename $(notdir $(wildcard recipes/*.txt)))" >&2
	  exit 1
	fi
	$(ALONE)
	# In a folder of its own, so that this one's files stay as they are.
	dvc exp run --temp --force --name "$(NAME)$(if $(SEED),-seed$(SEED))" \
	  $$(grep -v '^#' "recipes/$(NAME).txt") $(if $(SEED),-S train.seed=$(SEED))
	dvc metrics diff --no-path HEAD "$(NAME)$(if $(SEED),-seed$(SEED))"

heal: $(INSTALLED)  ## remove damaged files, here and in DVC's cache, and make them again
	@$(ALONE)
	python -m checks.heal || true
	dvc repro

report: repro  ## write report.html: the last run in one file, to look at and to send
	@python -m report

sweep-picture: $(INSTALLED)  ## draw this commit's experiments to docs/sweep.png; METRIC=validation_loss: another metric
	@python -m report.sweep $(METRIC)

test: $(INSTALLED)  ## run the tests (under 5 minutes)
	@echo "make: pytest, two files at a time"
	python -m pytest -n 2 --dist loadfile

page: $(INSTALLED)  ## make consumers/web a whole page (needs Node's npm, and `make` before)
	@command -v npm >/dev/null || {
	  echo "make: page needs npm; on Debian or Ubuntu: apt-get install npm" >&2
	  exit 1
	}
	npm ci --prefix consumers/web --ignore-scripts --no-audit --no-fund --loglevel=error
	python consumers/web/prepare.py

CHROMIUM ?= /usr/bin/chromium
test-web: page  ## test the page in real Chromium
	@[ -x "$(CHROMIUM)" ] || {
	  echo "make: no $(CHROMIUM); on Debian or Ubuntu: apt-get install chromium; elsewhere: make test-web CHROMIUM=PATH" >&2
	  exit 1
	}
	echo "make: pytest -m web"
	CHROMIUM="$(CHROMIUM)" python -m pytest -m web -rP

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

check-workers: $(INSTALLED)  ## train with several workers, kill some: the same losses and weights? (2 minutes)
	@python -m checks.workers

mutations: repro  ## break the ONNX model in a thousand ways: does the proof notice each? (4 to 10 minutes)
	@python -m checks.mutations

check-lock: $(INSTALLED)  ## say whether dvc.lock is current
	@python -m checks.lock

gate: $(INSTALLED)  ## refuse metrics worse than those of REV (main) by more than gate.tolerances
	@python -m checks.gate $(REV)

torture: $(INSTALLED)  ## kill, starve and damage a small copy, over and over (under 20 minutes)
	@python -m checks.torture

bench: $(INSTALLED) $(PEERS)  ## time everything, beside peers and bare NumPy (under 8 minutes on two idle cores)
	@python -m benchmarks

bench-scale: $(INSTALLED)  ## time and memory at 1 to 10 times the data (10 minutes, 4 GB of disk)
	@python -m benchmarks.scale

conformance: $(INSTALLED) $(CONSUMERS) $(NODE_MODULES)  ## run the model in every runtime on every test image, against Keras
	@if [ ! -f models/fashion_mlp.onnx ]; then
	  echo "make: models/fashion_mlp.onnx is not there; \`make\` makes it" >&2
	  exit 1
	fi
	$(ORT_LAYOUT)
	# Always: what is measured is this machine's runtimes, which DVC does not track.
	dvc repro --force --single-item consumers/dvc.yaml

test-consumers: $(INSTALLED) $(CONSUMERS) $(NODE_MODULES)  ## run the snippets of consumers/README.md as printed
	@$(ORT_LAYOUT)
	python -m pytest -m consumers tests/test_consumers.py

test-workers: $(INSTALLED)  ## train with two workers, lose one, refuse what does not fit (1 minute)
	@echo "make: pytest -m workers"
	python -m pytest -m workers tests/test_cluster.py

conformance-tools:  ## as root on Debian or Ubuntu: install what conformance needs from there
	@missing=()
	command -v gcc > /dev/null || missing+=(gcc libc6-dev)
	command -v node > /dev/null || missing+=(nodejs)
	command -v npm > /dev/null || missing+=(npm)
	command -v chromium > /dev/null || missing+=(chromium)
	if [ "$${#missing[@]}" -gt 0 ]; then
	  apt-get update --quiet
	  apt-get install --quiet --yes --no-install-recommends "$${missing[@]}"
	fi

push: $(INSTALLED) $(SHARING)  ## bring results to the team's remote (docs/sharing.md)
	@checks/sharing/.venv/bin/dvc push --run-cache

pull: $(INSTALLED) $(SHARING)  ## bring results from the team's remote (docs/sharing.md)
	@checks/sharing/.venv/bin/dvc pull --run-cache || {
	  echo "make: not all came; docs/sharing.md has what each message means; \`make\` makes what lacks" >&2
	  exit 1
	}

check-sharing: $(INSTALLED) $(SHARING)  ## push, pull and damage results on real SSH and S3 servers (4 minutes)
	@python -m checks.sharing

sharing-tools:  ## as root on Debian or Ubuntu: install what check-sharing needs from there
	@command -v sshd /usr/sbin/sshd > /dev/null || {
	  apt-get update --quiet
	  apt-get install --quiet --yes --no-install-recommends openssh-server
	}

lock: $(INSTALLED)  ## write all requirements.lock; UPGRADE=1: with newest versions
	@compile="uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet $(if $(UPGRADE),--upgrade)"
	$$compile pyproject.toml --group dev --output-file requirements.lock
	for folder in consumers benchmarks; do
	  $$compile $$folder/requirements.in --output-file $$folder/requirements.lock
	done
	$$compile checks/sharing/requirements.in --constraint <(sed -n 's/^\(dvc[a-z-]*==[^ ]*\).*/\1/p' requirements.lock) --output-file checks/sharing/requirements.lock
	echo "make: wrote requirements.lock, also in consumers/, benchmarks/ and checks/sharing/; the targets that need them install them"

clean:  ## remove the environment and tools' caches; data, models and DVC's cache stay
	rm -rf $(VENV) consumers/.venv benchmarks/.venv checks/sharing/.venv consumers/*/node_modules consumers/c_api/onnxruntime .mypy_cache .pytest_cache .ruff_cache .hypothesis dvc_plots

# The stamp is written last, so that an install that was cut off starts again.
$(INSTALLED): requirements.lock
	@$(ALONE)
	if [ $@ -nt requirements.lock ]; then exit 0; fi
	for python in $(PYTHON) python3 python3.11 python3.12; do
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

$(CONSUMERS) $(SHARING) $(PEERS): %/.venv/.installed: %/requirements.lock | $(INSTALLED)
	@echo "make: installing $< into $*/.venv"
	rm -f $@
	python -m venv --clear $*/.venv
	uv pip sync --quiet --python $*/.venv/bin/python --require-hashes $< || {
	  echo "make: uv could not; pip tries (it knows pip's own settings for mirrors and proxies)"
	  $*/.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	}
	if [ $* = benchmarks ]; then
	  $(TORCH)
	fi
	touch $@

# PyTorch is not in the lock: for Linux the package registry has its build for CUDA alone, which
# takes gigabytes. Its build for processors comes from wherever pip is told to look (PyTorch's page
# "Get started" has the address, for PIP_EXTRA_INDEX_URL); without it, `make bench` leaves it out.
define TORCH
version=2.13.0; [ "$$(uname -s)" != Linux ] || version=$$version+cpu
  benchmarks/.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "torch==$$version" ||
    echo "make: PyTorch $$version could not be installed; \`make bench\` goes on without it" >&2
endef

# Where npm is missing or fails, the rest is still run: the check says at its end what was not.
consumers/%/node_modules/.package-lock.json: consumers/%/package-lock.json
	@echo "make: npm ci in $(<D)"
	(cd $(<D) && npm ci --ignore-scripts --no-audit --no-fund && touch node_modules/.package-lock.json) || \
	  echo "make: npm could not install $(<D)/package-lock.json" >&2

# onnxruntime's official archive for C holds include/ and lib/. Where only package registries are
# in reach, its header comes from an npm package and its library from the Python wheel.
define ORT_LAYOUT
mkdir -p consumers/c_api/onnxruntime/lib
ln -sfn ../node_modules/com.github.asus4.onnxruntime/Plugins/iOS~/onnxruntime.xcframework/ios-arm64/onnxruntime.framework/Headers consumers/c_api/onnxruntime/include
library=$$(cd consumers/.venv && echo lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.*)
ln -sf "../../../.venv/$$library" consumers/c_api/onnxruntime/lib/libonnxruntime.so
ln -sf libonnxruntime.so consumers/c_api/onnxruntime/lib/libonnxruntime.so.1
endef
