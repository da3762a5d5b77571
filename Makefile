# Every target is one sentence here and one command behind it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
CARGO ?= cargo

.PHONY: help run test bench test-cluster cluster-up cluster-images cluster-down generated lint

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

run: ## Build, serve from the embedded ledger on 127.0.0.1:8080 and say how to use it
	$(CARGO) run --release --bin segment-counter -- serve

test: ## Install what is missing and pass every test that needs no cluster (those: make test-cluster)
	tests/install.sh
	$(MAKE) --no-print-directory lint
	$(CARGO) test

bench: ## Measure speed and size beside their limits and print the table of the README (QUICK=1: two minutes)
	tests/install.sh bench
	$(CARGO) bench --bench figures -- $(if $(QUICK),--quick) $(BENCH_OPTIONS)

test-cluster: ## Bring the local Kubernetes up, pass the tests that need it, and end it (KUBE_CONTEXT: use that cluster)
	tests/install.sh cluster
	cluster=$$(tests/cluster/up.sh)
	eval "$$cluster"
	[ -n "$${KEEP_CLUSTER:-}$${KUBE_CONTEXT:-}" ] || trap tests/cluster/down.sh EXIT
	$(CARGO) test --test 'cluster_*'

cluster-up: ## Bring the local Kubernetes up and print what to export (about 15 minutes the first time, then seconds)
	@tests/install.sh cluster >&2
	@tests/cluster/up.sh

cluster-images: ## Build our programs and load the images of them, of Postgres and of Redis into the local Kubernetes
	$(CARGO) build
	tests/cluster/images.sh segment-counter postgres redis

cluster-down: ## End the local Kubernetes and take its state away
	tests/cluster/down.sh

generated: ## Write what is generated: the definition, its chart and the install manifest (HELM)
	UPDATE=1 $(CARGO) test --test schema every_generated_file
	charts/render.sh

lint: ## Formatting and clippy
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --test 'cluster_*' -- -D warnings
