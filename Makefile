# Two commands do everything: `make demo` and `make test`. Needs Python 3.11 or newer, and pip.

PYTHON ?= python3
PORT ?= 8000
# Test processes at a time.
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
# What breaks servers or machines runs alone.
IN_PARALLEL := --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder \
  --ignore tests/faults --ignore tests/machines
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# A file newer than all that it was made from says that a step need not be done again.
STAMPS := $(VENV)/stamps

.DEFAULT_GOAL := help
# chroot and mount need root.
AS_ROOT ?= $(if $(filter 0,$(shell id -u)),,sudo --preserve-env)
SUPPLY := $(VENV)/supply-chain/bin
REPLAY := $(AS_ROOT) $(BIN)/python tools/replay_image.py
VAR := /var/lib/lorawright

.PHONY: help demo up test test-long test-external faults machines upgrade-test lint format clean check-python
.PHONY: image-api image-worker images dockerfiles locks audit sbom

help: ## Show this list
	@echo "make demo    run the main job with real parts: pictures to LoRAs to demo/sheet.png"
	@echo "make up      start the whole stack until Ctrl-C"
	@echo "make test    lint, types, import rules and the tests, but for those of the next five"
	@echo "make test-long  the longest tests: every command of the docs, every way to train, a restore"
	@echo "make test-external"
	@echo "             the tests that use servers, over Debian's Postgres and Redis and moto's S3"
	@echo "make faults  kill, freeze and cut off the service for half an hour: no job may be lost"
	@echo "make machines  two workers in network namespaces: one dies or is cut off; needs root"
	@echo "make upgrade-test  roll over from the last release, with the processes of both"
	@echo "make lint    the same without the tests"
	@echo "make format  put the code in its usual form"
	@echo "make images  replay both Dockerfiles without Docker, as root; needs debootstrap"
	@echo "make locks   write deploy/locks anew from pyproject.toml"
	@echo "make audit   ask for known vulnerabilities of what is locked"
	@echo "make sbom    write build/sbom: what each image holds, as CycloneDX"
	@echo "make clean   remove the environment and caches; the stack's data in .lorawright stays"
	@echo
	@echo "PYTHON=python3.12 chooses the interpreter, PORT=8001 the API's port."

demo: $(STAMPS)/run
	$(BIN)/lorawright demo --port $(PORT)

up: $(STAMPS)/run
	$(BIN)/lorawright up --port $(PORT)

# Two at a time, each with servers of its own; what kills servers and measures stops runs alone.
test: lint
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
	  $(BIN)/pytest -m "not long" $(IN_PARALLEL)
	$(BIN)/pytest tests/faults

test-long: $(STAMPS)/generator $(STAMPS)/test
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
	  $(BIN)/pytest -m long $(IN_PARALLEL)

# What uses no server is the same over any, and tests/faults breaks servers of its own.
test-external: $(STAMPS)/generator $(STAMPS)/test
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
	  $(BIN)/python -m tools.with_external_servers \
	  $(BIN)/pytest --only-with-servers $(IN_PARALLEL)

faults: $(STAMPS)/test
	$(BIN)/python -m tests.faults

machines: $(STAMPS)/test
	$(BIN)/pytest tests/machines

upgrade-test: $(STAMPS)/test
	$(BIN)/python -m tests.upgrade

lint: $(STAMPS)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMPS)/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

images: dockerfiles image-api image-worker

dockerfiles: $(STAMPS)/supply-chain
	$(SUPPLY)/hadolint Dockerfile.api Dockerfile.worker

image-api: $(STAMPS)/venv
	$(REPLAY) Dockerfile.api --check deploy/checks/api.py --volume $(VAR)/uploads

# Without CUDA: the other variant differs by its base, its lock and gigabytes.
image-worker: $(STAMPS)/venv
	$(REPLAY) Dockerfile.worker --build-arg VARIANT=cpu --check deploy/checks/worker.py \
	  --volume $(VAR)/work --volume $(VAR)/models

locks: $(STAMPS)/supply-chain
	$(SUPPLY)/python tools/lock.py

audit: $(STAMPS)/supply-chain
	$(SUPPLY)/python tools/audit.py

sbom: $(STAMPS)/supply-chain
	mkdir -p build/sbom
	for image in api worker-cpu worker-cuda; do \
	  $(SUPPLY)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
	    --output-file build/sbom/$$image.cdx.json deploy/locks/$$image.txt || exit 1; \
	done

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Lorawright needs Python 3.11 or newer; $(PYTHON) is" \
	    "$$($(PYTHON) --version 2>&1). Choose another: make PYTHON=python3.12" >&2; exit 1; }

$(STAMPS)/venv: | check-python
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS)
	touch $@

# torch first: everything after it is told to keep that version, whichever build it is.
$(STAMPS)/torch: $(STAMPS)/venv pyproject.toml
	$(BIN)/python -m tools.install_torch
	$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
	  > $(VENV)/constraints.txt
	touch $@

$(STAMPS)/run: $(STAMPS)/torch pyproject.toml
	$(PIP) install --constraint $(VENV)/constraints.txt --editable '.[worker,embedded]'
	touch $@

$(STAMPS)/test: $(STAMPS)/run pyproject.toml
	$(PIP) install --constraint $(VENV)/constraints.txt --editable '.[worker,embedded,tracing,dev]'
	touch $@

$(STAMPS)/generator: $(STAMPS)/venv tools/client_generator.txt
	$(PYTHON) -m venv $(VENV)/generator
	$(VENV)/generator/bin/python -m pip --disable-pip-version-check --quiet install \
	  --requirement tools/client_generator.txt
	touch $@

$(STAMPS)/supply-chain: $(STAMPS)/venv tools/supply_chain.txt
	$(PYTHON) -m venv $(VENV)/supply-chain
	$(VENV)/supply-chain/bin/python -m pip --disable-pip-version-check --quiet install \
	  --requirement tools/supply_chain.txt
	touch $@
