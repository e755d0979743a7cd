# The two commands are `make` and `make test`; `make help` lists the rest. CI calls these targets.
# Each calls tasks/, a program that needs nothing but Python and makes .venv before anything else.
# For GNU make 3.81, which macOS has: tests/test_makefile.py refuses what is newer.

TASK := sh tasks/start.sh
TARGETS := help repro recipe seeds dataset heal report watch sweep-picture test test-web test-consumers \
	page release verify-release lint format lock check-repro check-portable \
	check-workers check-lock check-sharing check-prove gate mutations torture bench conformance \
	conformance-tools push pull clean
UNKNOWN := $(filter-out $(TARGETS) Makefile,$(MAKECMDGOALS))
.NOTPARALLEL:  # targets share the folder
.PHONY: $(TARGETS) $(UNKNOWN)
.DEFAULT_GOAL := repro

# Values reach the program through the environment: no shell reads them, nor does make expand them.
# WSL has a NAME in the environment, the computer's: this one is the command line's alone.
override NAME := $(if $(filter command,$(origin NAME)),$(value NAME))
override FOLDER := $(value FOLDER)
override PLAIN := $(value PLAIN)
override SHAPE := $(value SHAPE)
override SEED := $(value SEED)
override SEEDS := $(value SEEDS)
override REV := $(value REV)
override UPGRADE := $(value UPGRADE)
override PYTHON := $(value PYTHON)
override CHROMIUM := $(value CHROMIUM)
override DIR := $(value DIR)
override KEY := $(value KEY)
override PORT := $(value PORT)
export DIR KEY PORT NAME FOLDER PLAIN SHAPE SEED SEEDS REV UPGRADE PYTHON CHROMIUM MAKECMDGOALS
# Options that a shell would take from its user's: noclobber, noexec.
unexport SHELLOPTS BASHOPTS BASH_ENV ENV CDPATH

help:  ## list the targets
	@$(TASK) help

repro:  ## run what is not up to date of the pipeline (plain `make` does this)
	@$(TASK) repro

recipe:  ## run presets/NAME.yaml as a DVC experiment of that name, e.g. NAME=quick SEED=1
	@$(TASK) recipe

seeds:  ## run presets/NAME.yaml with the seeds 1 to SEEDS (5): mean, standard deviation, n
	@$(TASK) seeds

dataset:  ## make a data set of FOLDER/CLASS/*.jpg; PLAIN=1: only resize; SHAPE=32x32; NAME=…
	@$(TASK) dataset

heal:  ## remove damaged files, here and in DVC's cache, and make them again
	@$(TASK) heal

report: repro  ## write report.html: the last run in one file, to look at and to send
	@$(TASK) run python -m report

watch:  ## show the curves of a training run as it goes, in a browser; PORT=8001
	@$(TASK) run python -m report.live @PORT

sweep-picture:  ## draw this commit's experiments to docs/sweep.png
	@$(TASK) run python -m report.sweep

test:  ## run the tests (5 minutes)
	@$(TASK) run python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

page:  ## make consumers/web a whole page (needs Node's npm, and `make` before)
	@$(TASK) page

release: repro page  ## lay out dist/: ONNX files, card, page, provenance; KEY=private.pem: signed
	@$(TASK) run python -m release @KEY

verify-release:  ## check the release in DIR, byte by byte; KEY=public.pem: and its signature
	@$(TASK) run python -m release.verify @DIR @KEY

test-web: page  ## test the page in real Chromium; CHROMIUM=PATH: where it is not /usr/bin/chromium
	@$(TASK) test-web

lint:  ## check style (ruff) and types (mypy)
	@$(TASK) run ruff check .
	@$(TASK) run ruff format --check .
	@$(TASK) run mypy

format:  ## mend style
	@$(TASK) run ruff check --fix .
	@$(TASK) run ruff format .

check-repro:  ## clone HEAD, run everything from nothing, compare every committed byte
	@$(TASK) run python -m checks.repro

check-portable:  ## train under other threads, libraries and emulated processors: same bits?
	@$(TASK) run python -m checks.portable

check-workers:  ## train with several workers, kill some: the same losses and weights? (3 minutes)
	@$(TASK) run python -m pytest -m workers tests/test_workers.py

mutations: repro  ## break the ONNX model in a thousand ways: does the proof notice each? (4 to 10 minutes)
	@$(TASK) run python -m checks.mutations

check-prove:  ## hold `prove` to 2,500 broken files of 25 networks, by two exporters (4 to 10 minutes)
	@$(TASK) run python -m checks.anybody

check-lock:  ## say whether dvc.lock is current
	@$(TASK) run python -m checks.lock

gate:  ## refuse metrics worse than those of REV (main) by more than gate.tolerances
	@$(TASK) run python -m checks.gate @REV

torture:  ## kill, starve and damage a small copy, over and over (20 to 30 minutes)
	@$(TASK) run python -m checks.torture

bench:  ## time everything, beside baselines and bare NumPy (8 to 13 minutes on two idle cores)
	@$(TASK) run --with benchmarks python -m benchmarks

conformance:  ## run the model in every runtime on every test image, against Keras (needs `make` before)
	@$(TASK) run --with consumers python -m consumers.conformance

test-consumers:  ## run the snippets of consumers/README.md as printed
	@$(TASK) run --with consumers python -m pytest -m consumers tests/test_consumers.py

conformance-tools:  ## install as root, on Debian or Ubuntu, what conformance needs
	@$(TASK) apt gcc=gcc,libc6-dev node=nodejs npm=npm chromium=chromium \
		aarch64-linux-gnu-gcc=gcc-aarch64-linux-gnu,libc6-dev-arm64-cross qemu-aarch64=qemu-user

push:  ## bring results to the team's remote (docs/sharing.md)
	@$(TASK) run dvc push --run-cache

pull:  ## bring results from the team's remote (docs/sharing.md)
	@$(TASK) pull

check-sharing:  ## push, pull and damage results on real SSH and S3 servers
	@$(TASK) run python -m pytest -m sharing tests/test_sharing.py

lock:  ## write all requirements.lock; UPGRADE=1: with newest versions
	@$(TASK) lock

clean:  ## remove environments, tools' caches and dist/; data, models and DVC's cache stay
	@$(TASK) clean

$(UNKNOWN):
	@$(TASK) unknown
