# Every target is one sentence here and one command behind it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
CARGO ?= cargo
PROFILE ?= debug

.PHONY: help run demo test test-long bench test-citus test-pgbouncer test-cluster cluster-up cluster-images cluster-down generated lint

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

run: ## Build, serve from the embedded ledger on 127.0.0.1:8080 and say how to use it (DEMO=1: send a real stream, show its counts)
	@[ -n "$${DEMO:-}" ] || exec $(CARGO) run --release --bin segment-counter -- serve
	$(CARGO) build --release --bin segment-counter --example demo
	release="$${CARGO_TARGET_DIR:-target}/release"
	# In memory and with a window of ten years: the stream is years old, and its answers are known for this window.
	export SEGMENT_COUNTER_DATABASE_URL="$${SEGMENT_COUNTER_DATABASE_URL:-sqlite::memory:}"
	"$$release/segment-counter" serve --listen 127.0.0.1:8080 --window-seconds 315360000 &
	server=$$!
	trap 'kill $$server 2> /dev/null || true' EXIT
	# Whoever else may hold the port is not sent anything.
	sleep 1; kill -0 $$server
	"$$release/examples/demo" --url http://127.0.0.1:8080
	echo; echo "still serving on http://127.0.0.1:8080 until Ctrl-C"
	# Ctrl-C reaches the server too: the first wait ends with the signal, the second with the server.
	trap : INT TERM
	wait $$server || wait $$server
	trap - EXIT

test: ## Install what is missing and pass every test, on real servers and on a real Kubernetes
	tests/install.sh cluster
	$(MAKE) --no-print-directory lint
	$(CARGO) test
	$(MAKE) --no-print-directory test-cluster

test-long: ## Pass the long forms of the suites that have one (half an hour; each prints its seed and its figures)
	SEGMENT_COUNTER_TEST_ROUNDS=$${SEGMENT_COUNTER_TEST_ROUNDS:-50} $(CARGO) test --test crash -- --nocapture
	$(MAKE) --no-print-directory test-long-schedules

test-long-schedules: ## Run 10,000 random schedules in memory, 500 on PostgreSQL, 100 with four lanes and 200 on a file (SEGMENT_COUNTER_TEST_SCHEDULES: how many in memory)
	export SEGMENT_COUNTER_TEST_SCHEDULES=$${SEGMENT_COUNTER_TEST_SCHEDULES:-10000}
	$(CARGO) test --test ledger_conformance schedules::whatever -- --nocapture

bench: ## Measure speed and size beside their limits and print the table (QUICK=1: shorter, and noisier); what the cluster's tests measured last is in it
	tests/install.sh bench
	rows=$(wildcard $(CURDIR)/target/cluster-figures.json)
	# What is measured is what is released: the binary that cargo builds for a bench has the features that only tests need, and is slower for it.
	if [ -z "$${SEGMENT_COUNTER_BENCH_BINARY:-}" ]; then
	  $(CARGO) build --profile bench --bin segment-counter --bin segment-counter-operator
	  built="$$(realpath "$${CARGO_TARGET_DIR:-target}")"
	  mkdir -p "$$built/released"
	  cp "$$built/release/segment-counter" "$$built/release/segment-counter-operator" "$$built/released"
	  export SEGMENT_COUNTER_BENCH_BINARY="$$built/released/segment-counter"
	fi
	$(CARGO) bench --bench figures -- $(if $(QUICK),--quick) $${rows:+--rows "$$rows"} $(BENCH_OPTIONS)

test-cluster: ## Bring the local Kubernetes up, pass the tests that need it, and end it (KUBE_CONTEXT: use that cluster; KEEP_CLUSTER=1: leave it)
	tests/install.sh cluster
	cluster=$$(tests/cluster/up.sh)
	eval "$$cluster"
	[ -n "$${KEEP_CLUSTER:-}$${KUBE_CONTEXT:-}" ] || trap tests/cluster/down.sh EXIT
	$(MAKE) --no-print-directory cluster-images
	PROFILE=$(PROFILE) $(CARGO) test --test 'cluster_*'

test-citus: ## Pass the conformance suite, schedules and a load over Citus: PREFIX is a PostgreSQL with the extension (docs/scaling.md), or CITUS_URL leads to a cluster
	if [ -z "$${CITUS_URL:-}" ]; then
	  cluster=$$(tests/citus.sh up "$${PREFIX:?a folder of PostgreSQL with the extension citus, or set CITUS_URL}")
	  eval "$$cluster"
	  trap 'tests/citus.sh down "$$CITUS_FOLDER"' EXIT
	fi
	$(CARGO) test --test ledger_conformance citus -- --test-threads 2
	$(CARGO) test --test ledger_conformance distributed:: -- --test-threads 1 --nocapture

test-pgbouncer: ## Pass the suites that ask a PostgreSQL through a PgBouncer in transaction mode, and measure it: PREFIX is the program, 1.21 or newer
	up=$$(tests/pgbouncer.sh up "$${PREFIX:?the program pgbouncer, 1.21 or newer}")
	eval "$$up"
	trap 'tests/pgbouncer.sh down "$$PGBOUNCER_FOLDER"' EXIT
	export DATABASE_URL="$$PGBOUNCER_URL"
	brisk=(a_segment_moves_while_it_is_written archive_and_sweep_disturb_no_writer)
	others=(--skip sqlite:: --skip citus:: --skip distributed::)
	$(CARGO) test --test ledger_conformance -- --test-threads 2 --nocapture "$${others[@]}" "$${brisk[@]/#/--skip=}" --skip what_a_pooler_costs
	# Their settle times are short, and the sessions' timeouts with them.
	DATABASE_URL="$${DATABASE_URL/counter:/brisk:}" $(CARGO) test --test ledger_conformance -- --test-threads 1 --nocapture "$${others[@]}" "$${brisk[@]}"
	$(CARGO) test --test ledger_conformance pooled::what_a_pooler_costs -- --nocapture

demo: ## Do the whole of the main job on the local Kubernetes (KUBE_CONTEXT: on that one) and print what was done
	@tests/install.sh cluster >&2
	cluster=$$(tests/cluster/up.sh)
	eval "$$cluster"
	$(MAKE) --no-print-directory cluster-images
	$(CARGO) build --example demo
	tests/cluster/demo.sh

cluster-up: ## Bring the local Kubernetes up and print what to export (about 15 minutes the first time, then seconds)
	@tests/install.sh cluster >&2
	@tests/cluster/up.sh

cluster-images: ## Build our programs (PROFILE=release) and load their image, and those of Postgres and Valkey, into the local Kubernetes
	# Another cluster pulls its images itself: TEST_IMAGE, TEST_POSTGRES_IMAGE and TEST_REDIS_IMAGE name them.
	[ -z "$${KUBE_CONTEXT:-}" ] || exit 0
	$(CARGO) build $(if $(filter release,$(PROFILE)),--release)
	tests/cluster/images.sh --profile "target/$(PROFILE)" segment-counter postgres redis

cluster-down: ## End the local Kubernetes and take its state away
	tests/cluster/down.sh

generated: ## Write what is generated: the OpenAPI document, the definition, its chart and the install manifest (HELM)
	UPDATE=1 $(CARGO) test --test api the_committed_document
	UPDATE=1 $(CARGO) test --test schema every_generated_file
	charts/render.sh

lint: ## Formatting and clippy
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --test 'cluster_*' -- -D warnings
