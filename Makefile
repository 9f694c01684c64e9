# Two commands on a fresh machine: `make demo` and `make test`. Both set up .venv first.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	&& echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.beamsteer-installed
BEAMSTEER_SHARED_DATA ?= ../shared/data
export BEAMSTEER_SHARED_DATA
# Two test workers share two cores: one thread for each of their numerical libraries.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1

.PHONY: help setup system demo test kernels prove soak bench serve kafka helm lint contracts

help:
	@echo "make demo    simulate and replay a short germanium scan, then invert measured aluminium"
	@echo "make serve   show the page of the last demo or replay again, until Ctrl-C"
	@echo "make kafka   a real Apache Kafka on loopback until Ctrl-C (needs Java 17 and Maven)"
	@echo "make test    every test but the slow ones"
	@echo "make kernels the tests that feel a last bit, under another set of OpenBLAS kernels"
	@echo "make prove   the slow ones, with the figures they measure"
	@echo "make soak    two hours of stream at 20 MB/s through one worker (SOAK=\"--minutes 20\" for less)"
	@echo "make bench   ratios to peers, into build/bench.json"
	@echo "make lint    ruff, pyright, import contracts"
	@echo "make contracts  renew docs/openapi.json and docs/metrics.md from the code"
	@echo "make setup   .venv with all packages"
	@echo "make system  Chromium, Java 17 and Maven for the tests of page and Kafka, where missing"

setup: $(STAMP)

# BEAMSTEER_TORCH may hold extra pip options, e.g. to take a CPU build of torch (see README).
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer; run: apt-get install python3 python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo "Python cannot make a virtual environment; run: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(BEAMSTEER_TORCH) \
		-c constraints.txt -e ".[dask,forcefields,test,oracles]"
	@touch $(STAMP)

# Chromium for the page's test, Java and Maven for the Kafka of the tests: through apt where this
# user may; else the line to run is printed, and what needs them is skipped.
system:
	@missing=; \
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null \
		|| command -v google-chrome >/dev/null || test -n "$${BEAMSTEER_CHROMIUM:-}" \
		|| missing+=" chromium"; \
	if test -z "$${BEAMSTEER_TEST_KAFKA:-}"; then \
		java="$${JAVA_HOME:+$$JAVA_HOME/bin/}java"; \
		version=$$({ "$$java" -version 2>&1 || true; } | sed -n 's/.* version "\([0-9]*\).*/\1/p'); \
		test "$${version:-0}" -ge 17 || missing+=" openjdk-17-jre-headless"; \
		command -v mvn >/dev/null || missing+=" maven"; \
	fi; \
	if test -z "$$missing"; then exit 0; fi; \
	line="For the tests of page and Kafka, run: sudo apt-get install -y$$missing"; \
	if ! command -v apt-get >/dev/null; then \
		echo "Install for the tests of page and Kafka:$$missing"; exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then SUDO=; elif sudo -n true 2>/dev/null; then SUDO="sudo -n"; else \
		echo "$$line"; exit 0; fi; \
	apt="$$SUDO env DEBIAN_FRONTEND=noninteractive apt-get"; \
	$$apt update -qq || true; \
	for package in $$missing; do \
		$$apt install -y -qq --no-install-recommends "$$package" \
			|| echo "apt could not install $$package, which tests of page or Kafka need."; \
	done

demo: setup
	$(BIN)/beamsteer demo -o build/demo

serve: setup
	$(BIN)/beamsteer serve

# KAFKA may hold options of the broker, e.g. KAFKA="--port 19092 --data /var/tmp/kafka".
kafka:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer; run: apt-get install python3"; exit 1; }
	@$(PYTHON) deploy/kafka/broker.py start $(KAFKA)

# Helm and kubeconform judge deploy/helm in the tests, which are skipped where they are not.
helm:
	go install helm.sh/helm/v3/cmd/helm@v3.19.5
	go install github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0

test: setup system
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 -m "not slow" --timeout 300 \
		--ignore tests/benchmarks

# What one seed gives, and whether a run is trusted, may not hang on the kernels that OpenBLAS picks
# for a processor. `make test` runs under those of this one; the next set that it can run is tried
# here: kernels that a processor lacks end in an illegal instruction.
CPUINFO ?= /proc/cpuinfo
SENSITIVE := tests/simulations/virtual/test_sampling.py tests/steering/service/test_model_service.py
SENSITIVE_RUN ?= $(BIN)/python -m pytest -q -n 2 --dist loadfile --max-worker-restart 0 -m "last_bit and not slow" --timeout 300
OWN_KERNELS ?= $(BIN)/python -c "import numpy, threadpoolctl as t; \
	print(*{i['architecture'] for i in t.threadpool_info() if i['internal_api'] == 'openblas'})"
kernels: setup
	@flags=" $$(sed -n '/^flags/{s/^[^:]*: *//p;q}' $(CPUINFO)) "; \
	has() { for flag; do [[ "$$flags" == *" $$flag "* ]] || return 1; done; }; \
	cores=(); \
	if has avx512f avx512bw avx512cd avx512dq avx512vl; then cores+=(SkylakeX); fi; \
	if has avx2 fma; then cores+=(Haswell); fi; \
	if has sse4_2; then cores+=(Nehalem); fi; \
	if [ $${#cores[@]} -lt 2 ]; then echo "OpenBLAS has no two sets of kernels for this processor."; exit 0; fi; \
	own=$$($(OWN_KERNELS)); \
	case "$$own" in Zen) own=Haswell;; Cooperlake|SapphireRapids) own=SkylakeX;; esac; \
	for core in "$${cores[@]:0:2}"; do \
		if [ "$$core" = "$$own" ]; then echo "make test runs under $$core."; continue; fi; \
		echo "OPENBLAS_CORETYPE=$$core"; \
		OPENBLAS_CORETYPE=$$core $(ONE_THREAD) $(SENSITIVE_RUN) $(SENSITIVE); \
	done

prove: setup system
	$(BIN)/python -m pytest -s -m slow --ignore tests/benchmarks

# SOAK may hold options, e.g. SOAK="--minutes 20 --megabytes-per-s 5 --folder /var/tmp/soak".
soak: setup system
	$(ONE_THREAD) $(BIN)/python -m tests.soak $(SOAK)

bench: setup
	@mkdir -p build
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(ONE_THREAD) $(BIN)/python -m pytest -s -q tests/benchmarks

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

contracts: setup
	$(BIN)/python -m steering.cli._openapi > docs/openapi.json
	$(BIN)/python -m steering.service.metrics_page > docs/metrics.md
