# A bare machine needs Python 3.11 to 3.14, make and a package index; everything else goes into $(VENV).
# Written for GNU make 3.81 (macOS) and a POSIX shell.

VENV ?= .venv
WORK ?= work/demo
REGISTRY ?= registry
HOST ?= 127.0.0.1
PORT ?= 8000
JOBS ?= 2

SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
PYTHON ?= $(shell for candidate in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$candidate -c '$(SUPPORTED)' 2>/dev/null && { echo $$candidate; break; }; done)

# torch is in no lock file: each platform's CPU build is another file with another hash, so only its version is pinned.
ifeq ($(shell uname -s),Linux)
TORCH ?= torch==2.13.0+cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
else
TORCH ?= torch==2.13.0
endif

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
COMPILE := $(BIN)/uv pip compile --config-file deploy/requirements/uv.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-package torch --custom-compile-command 'make lock' --quiet
UPGRADE ?=
ARGS ?=

# Packages are installed without bytecode, which the first start writes: where that is forbidden, every start takes a second more.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo serve test check bench load soak faults scale dashboards manifests install lock usable-python free-port

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "Settings (make demo PORT=8080): PORT=$(PORT) JOBS=$(JOBS) HOST=$(HOST) WORK=$(WORK) REGISTRY=$(REGISTRY) VENV=$(VENV) PYTHON=$(PYTHON)"
	@echo "torch: TORCH=$(TORCH) TORCH_INDEX=$(TORCH_INDEX); with an NVIDIA GPU on Linux, in a new VENV: make demo TORCH=torch==2.13.0 TORCH_INDEX="

demo: free-port $(VENV)/.installed ## Build a snapshot of Python's own documentation, serve it, print what to try
	$(BIN)/python -m offline run offline/recipes/demo.toml --out $(WORK) --registry $(REGISTRY)
	@$(BIN)/python deploy/serve.py --host $(HOST) --port $(PORT) --target $@ --registry $(REGISTRY)

serve: free-port $(VENV)/.installed ## Serve the registry's current snapshot
	@$(BIN)/python deploy/serve.py --host $(HOST) --port $(PORT) --target $@ --registry $(REGISTRY)

# Two files at a time with as many threads each as there are cores spend a quarter of the time on waiting for each other.
test: $(VENV)/.installed ## Run the tests, JOBS files at a time (ARGS='-k deadline' runs some)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.installed ## Format, lint, types, import borders, container and deployment files, known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy deploy/serve.py deploy/audit.py
	$(BIN)/mypy --explicit-package-bases deploy/grafana deploy/kubernetes
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/yamllint --strict docker-compose.yml deploy
	@if command -v promtool >/dev/null; then promtool check config deploy/prometheus/prometheus.yml; \
		else echo "promtool is not installed: the Prometheus files are checked as YAML only"; fi
	$(BIN)/python deploy/audit.py deploy/requirements/service.txt deploy/requirements/offline.txt

bench: $(VENV)/.installed ## Measure the service beside its floors and rivals (ARGS=--quick: a few minutes)
	$(BIN)/python -m tests.bench $(ARGS)

load: $(VENV)/.installed ## Put the service under hostile and unlucky clients (ARGS='--registry DIR' for a real snapshot)
	$(BIN)/python -m tests.load all $(ARGS)

soak: $(VENV)/.installed ## Swap snapshots under load a hundred times, for hours (ARGS=--quick: ten minutes)
	$(BIN)/python -m tests.soak $(ARGS)

faults: $(VENV)/.installed ## Do to snapshots, registry and service whatever can go wrong (ARGS='--only killed' for some; root for disks)
	$(BIN)/python -m tests.faults $(ARGS)

scale: $(VENV)/.installed ## Go past one machine, as far as the parts install (ARGS='contract milvus' for some)
	$(BIN)/python -m tests.scale $(ARGS)

dashboards: $(VENV)/.installed ## Write Grafana's dashboards from deploy/grafana/dashboards.py
	$(BIN)/python -m deploy.grafana.dashboards

manifests: $(VENV)/.installed ## Write Kubernetes' PrometheusRule from the rules of deploy/prometheus
	$(BIN)/python -m deploy.kubernetes.prometheus_rule

install: $(VENV)/.installed ## Only make the virtual environment

lock: $(BIN)/uv ## Write the locks anew, keeping pins that still fit (UPGRADE=--upgrade: keep none)
	$(COMPILE) $(UPGRADE) pyproject.toml --extra offline --extra demo --extra dev --output-file deploy/requirements/all.txt
	$(COMPILE) $(UPGRADE) pyproject.toml --extra offline --extra demo --extra remote --extra milvus --extra ray --constraint deploy/requirements/all.txt --output-file deploy/requirements/offline.txt
	$(COMPILE) pyproject.toml --extra remote --extra signing --extra docs --extra tracing --extra milvus --constraint deploy/requirements/all.txt --output-file deploy/requirements/service.txt
	echo 'setuptools>=77' | $(COMPILE) - --constraint deploy/requirements/all.txt --output-file deploy/requirements/build.txt

usable-python:
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(SUPPORTED)' 2>/dev/null || { echo "No Python 3.11 to 3.14 with venv and ensurepip found (PYTHON=$(PYTHON))." \
		"Install one (Debian: python3 python3-venv), or name it, as in: make demo PYTHON=/usr/local/bin/python3.12" >&2; exit 1; }

# Before the long work, not after it.
free-port: usable-python
	@$(PYTHON) deploy/serve.py --host '$(HOST)' --port='$(PORT)' --target $(firstword $(filter demo serve,$(MAKECMDGOALS)) demo) --check

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# The locks are whole, so pip need not resolve, and what torch needs is there when it comes. --no-compile saves two of three
# minutes: most of these modules are never imported, and those that are get compiled then.
$(VENV)/.locked: deploy/requirements/all.txt | usable-python
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --no-compile --no-deps --require-hashes --requirement deploy/requirements/all.txt
	$(PIP) install --no-compile --retries 2 --timeout 15 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)' || { \
		echo "$(TORCH) cannot be had from here: taking the package index's own build, which on Linux brings gigabytes of CUDA" >&2; \
		$(PIP) install --no-compile '$(firstword $(subst +, ,$(TORCH)))'; }
	@touch $@

$(BIN)/uv: | usable-python
	$(PYTHON) -m venv $(VENV)
	$(PIP) install 'uv>=0.9'
