.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The compiler that links what cargo and go build.
.PHONY: compiler
compiler:
	@hack/need cc build-essential

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: compiler ## A cluster, a Synapse full of rooms, and a VACUUM FULL of it (CONTEXT=name ROOMS=n EVENTS=n)
	@tests/demo/run $(CONTEXT)

.PHONY: test
test: compiler ## All tests, tier after tier (TIERS="unit chart" for some)
	@tests/run $(TIERS)

.PHONY: fresh
fresh: ## make test and make demo in a new minimal Debian, from nothing (TIERS="unit chart" for these tiers alone, TIERS=demo)
	@tests/fresh $(TIERS)

.PHONY: soak
soak: compiler ## The whole postgres tier on PostgreSQL 17 and 18: too long for make test
	@tests/postgres/majors all 17 18

.PHONY: bench
bench: compiler ## The operator's footprint, backups and restores beside pg_dump and pg_restore (BENCH=backup for one)
	@set -e; for bench in $(or $(BENCH),footprint backup restore); do tests/bench/run $$bench; done

.PHONY: generate
generate: compiler ## Make the CRDs from the types
	@hack/generate

.PHONY: check-generated
check-generated: compiler ## Fail if `make generate` would change anything
	@hack/generate --check

.PHONY: fmt
fmt: ## Format the source
	@cargo fmt

.PHONY: lint
lint: compiler ## Format, clippy and shellcheck, without a test
	@tests/run fmt shell clippy

# cluster-up, cluster-load, cluster-down
-include tests/cluster/cluster.mk
