# k8slite: two commands. `make up` gives a cluster on this machine, `make test` proves it.
SHELL := /bin/bash
VENV := .venv
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env=DOCKER_HOST,DOCKER_OPTS)
DATA_DIR ?= /var/lib/k8slite
UP_FLAGS ?=
DOWN_FLAGS ?=

.PHONY: help up down test check bench lab lab-shell images lock
.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

up: $(VENV)/installed ## a cluster on this machine (UP_FLAGS="--node-ip …"): ready when it returns
	@./prepare host
	@$(SUDO) $(VENV)/bin/k8slite up --data-dir $(DATA_DIR) $(UP_FLAGS)

down: ## stop it and leave the host as it was found
	@if [ -x $(VENV)/bin/k8slite ]; then $(SUDO) $(VENV)/bin/k8slite down --data-dir $(DATA_DIR) $(DOWN_FLAGS); else echo "nothing to stop: no cluster was installed from here"; fi

test: $(VENV)/tested ## install what the tests need and run all of them
	@./prepare host test
	@$(SUDO) tests/run $(TESTS)

check: $(VENV)/tested ## types, style, and the laws of the rooms
	$(VENV)/bin/ruff check src tests bench
	$(VENV)/bin/ruff format --check src tests bench
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	@! find tests -name 'test_*.py' -printf '%f\n' | sort | uniq -d | grep . || { echo 'two files of tests have one name'; exit 1; }

bench: $(VENV)/tested ## measure what docs and README quote, each figure beside its peer
	@./prepare host test
	@$(SUDO) $(VENV)/bin/python -m bench $(BENCH)

lab: $(VENV)/tested ## three bare hosts and conf, as in the article; `make lab-shell HOST=node1` beside it
	@./prepare host test
	@$(SUDO) $(VENV)/bin/python -m tests.lab

lab-shell:
	@$(SUDO) $(VENV)/bin/python -m tests.lab shell $(HOST)

images: ## busybox and nginx from Debian packages, without a registry
	@$(SUDO) examples/images/build.sh

lock: $(VENV)/tested ## write the versions in use to requirements.lock
	@$(VENV)/bin/pip freeze --exclude-editable --exclude k8slite > requirements.lock

$(VENV)/installed: pyproject.toml requirements.lock
	@./prepare venv
	@touch $@

$(VENV)/tested: $(VENV)/installed
	@./prepare venv dev
	@touch $@
