# make setup      a virtual environment in .venv with pinned versions
# make demo       something learns from pixels, in a minute or two, shown in the terminal
# make verify     plays the published agents again, and says whether they are as stated
# make train      one Atari 100K run: make train GAME=Breakout ARGS="--seed=1"
# make lint       ruff and pyright, as CI runs them
# make test       the default tests; make test-all adds those marked slow;
#                 WORKERS=1 runs it in one process in place of three, with less memory
# make test-quick parity, goldens, the loop and checkpoints
# make aot        all programs compiled for an H100 and a v5e, in an environment of its own (5 GB);
#                 fails where one needs more than benchmarks/compiled says
# make soak       runs killed at random moments, again and again
# make doctor     what this machine can run, and what to mend
# make clean      remove .venv and caches; runs/ stays

PYTHON ?= python3
GAME ?= Pong
WORKERS ?= 3
ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
# A Python newer than the newest constraints file uses that file.
CONSTRAINTS := $(or $(wildcard constraints/python$(VERSION).txt),constraints/python3.12.txt)
STAMP := $(VENV)/installed-$(VERSION)

.PHONY: setup demo verify train lint test test-all test-quick aot soak doctor clean

setup: $(STAMP)

$(STAMP): setup.py $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo 'Needs Python 3.11 or newer; $(PYTHON) is "$(VERSION)". Name another: make setup PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo '$(PYTHON) lacks the venv module. On Debian or Ubuntu: sudo apt-get install python3-venv'; exit 1; }
	@test -e $@ || $(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --upgrade pip
	$(RUN) -m pip install -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

demo: setup
	@$(RUN) -m experiments.demo $(ARGS)

verify: setup
	$(RUN) -m experiments.verify $(ARGS)

train: setup
	$(RUN) -m experiments.atari100k --game=$(GAME) $(ARGS)

lint: setup
	$(RUN) -m ruff format --check -q .
	$(RUN) -m ruff check -q --output-format=concise .
	$(VENV)/bin/basedpyright --level error

PYTEST := $(RUN) -m pytest -n $(WORKERS) --dist worksteal

test: setup
	$(PYTEST) $(ARGS)

test-all: setup
	$(PYTEST) -m '' $(ARGS)

test-quick: setup
	$(PYTEST) tests/parity_test.py tests/dreamer_test.py tests/loop_test.py tests/checkpoint_test.py $(ARGS)

# The compilers for GPUs and TPUs stay apart from the tests, which are for what this machine has.
AOT := .venv-aot
FIGURES ?= $(wildcard benchmarks/compiled/*.json)

$(AOT)/installed-$(VERSION): setup.py $(CONSTRAINTS)
	@test -e $@ || $(PYTHON) -m venv --clear $(AOT)
	$(AOT)/bin/python -m pip install -c $(CONSTRAINTS) -e '.[aot-gpu,aot-tpu]'
	@touch $@

aot: $(AOT)/installed-$(VERSION)
	@failed=0; for file in $(FIGURES); do \
	  echo "== $$file"; $(AOT)/bin/python -m experiments.benchmark --again=$$file || failed=1; \
	done; exit $$failed

soak: setup
	$(RUN) -m pytest -n $(WORKERS) -m slow -rP tests/kills_test.py $(ARGS)

doctor: setup
	$(RUN) -m experiments.doctor

clean:
	rm -rf $(VENV) $(AOT) build dist *.egg-info .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
