.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## A cluster, a Synapse full of rooms, and a VACUUM FULL of it (CONTEXT=name ROOMS=n EVENTS=n)
	@tests/demo/run $(CONTEXT)

.PHONY: test
test: ## All tests, tier after tier (TIERS="unit chart" for some)
	@tests/run $(TIERS)

.PHONY: bench
bench: ## The operator's footprint, backups and restores beside pg_dump and pg_restore (BENCH=backup for one)
	@set -e; for bench in $(or $(BENCH),footprint backup restore); do tests/bench/run $$bench; done

.PHONY: generate
generate: ## Make the CRDs from the types
	@hack/generate

.PHONY: check-generated
check-generated: ## Fail if `make generate` would change anything
	@hack/generate --check

.PHONY: fmt
fmt: ## Format the source
	@cargo fmt

.PHONY: lint
lint: ## Format, clippy and shellcheck, without a test
	@tests/run fmt shell clippy

# cluster-up, cluster-load, cluster-down
-include tests/cluster/cluster.mk
