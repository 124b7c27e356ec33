# Two commands on a fresh machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
DEVICE_VENV ?= .venv-device
BIN := $(VENV)/bin
# Two workers, a test file at a time.
PARALLEL := -n 2 --dist loadfile
SOURCES := pyproject.toml constraints.txt hatch_build.py $(wildcard proto/airdraft/v1/*.proto)
PIP := -m pip --disable-pip-version-check -q
# Of `make soak`: how long, and which faults; of `make fuzz`: how long each harness.
MINUTES ?= 5
SEED ?= 1
# One thread a process: on two cores the edge and the device each have one.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test check lint types contracts tests-all tests-slow tests-device bench soak fuzz clean

demo: $(VENV)/.stamp-demo
	@$(BIN)/python -m bench demo

test: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

check: lint types contracts tests-all tests-device

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.stamp-dev
	$(BIN)/mypy

contracts: $(VENV)/.stamp-dev
	$(BIN)/lint-imports

tests-all: test tests-slow

tests-slow: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest $(PARALLEL) -m slow

# What a phone installs: no torch, no transformers. Its edge node comes from the other environment.
tests-device: $(VENV)/.stamp-dev $(DEVICE_VENV)/.stamp
	AIRDRAFT_TEST_EDGE_PYTHON=$(BIN)/python $(DEVICE_VENV)/bin/python -m pytest $(PARALLEL) \
		tests/core tests/wire tests/link tests/conformance tests/coordinator tests/device_client tests/system/test_device_install.py \
		--ignore=tests/device_client/test_torch_drafter.py

bench: $(VENV)/.stamp-dev
	$(BIN)/python -m bench overhead --bars
	$(BIN)/python -m bench engine --bars
	$(BIN)/python -m bench queue --bars
	$(BIN)/python -m bench faults --bars
	$(BIN)/python -m bench resume --bars
	$(BIN)/python -m bench relay --bars
	$(BIN)/python -m bench sessions --bars
	$(BIN)/python -m bench hostile --bars
	$(BIN)/python -m bench fuzz --bars

soak: $(VENV)/.stamp-dev
	$(BIN)/python -m bench soak --minutes $(MINUTES) --seed $(SEED)

# For nights: `make fuzz MINUTES=30`. What was found is listed at the end, with the line that shows it again.
fuzz: $(VENV)/.stamp-dev
	$(BIN)/python -m fuzz all --minutes $(MINUTES)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "airdraft needs Python 3.11 or newer; name one with make PYTHON=…")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.stamp-demo: $(VENV)/bin/python $(SOURCES)
	@echo "installing into $(VENV): a few minutes the first time"
	$(BIN)/python $(PIP) install -c constraints.txt -e '.[bench]'
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/bin/python $(SOURCES)
	@echo "installing into $(VENV): a few minutes the first time"
	$(BIN)/python $(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.stamp-demo

$(DEVICE_VENV)/.stamp: $(SOURCES)
	$(PYTHON) -m venv $(DEVICE_VENV)
	$(DEVICE_VENV)/bin/python $(PIP) install -c constraints.txt -e '.[device]' pytest pytest-asyncio pytest-timeout pytest-xdist hypothesis
	@touch $@

clean:
	rm -rf $(VENV) $(DEVICE_VENV) airdraft/v1/*_pb2*.py* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
