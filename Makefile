# Every target is one sentence here and one command behind it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo

.PHONY: help run test lint

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

run: ## Build, serve from the embedded ledger on 127.0.0.1:8080 and say how to use it
	$(CARGO) run --release --bin segment-counter -- serve

test: ## Install what is missing and pass every test
	tests/install.sh
	$(MAKE) --no-print-directory lint
	$(CARGO) test

lint: ## Formatting and clippy
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
