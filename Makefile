# Every target is one sentence here and one command behind it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo

.PHONY: help run test test-cluster lint generated

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

run: ## Build, serve from the embedded ledger on 127.0.0.1:8080 and say how to use it
	$(CARGO) run --release --bin segment-counter -- serve

test: ## Install what is missing and pass every test
	tests/install.sh
	$(MAKE) --no-print-directory lint
	$(CARGO) test

test-cluster: ## Pass the tests that need a cluster (KUBECONFIG) and helm (HELM)
	$(CARGO) test --test 'cluster_*'

generated: ## Write what is generated: the definition, its chart and the install manifest (HELM)
	UPDATE=1 $(CARGO) test --test schema every_generated_file
	charts/render.sh

lint: ## Formatting and clippy
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --test 'cluster_*' -- -D warnings
