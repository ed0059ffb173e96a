# The real Kubernetes that tests and the demo run on; tests/cluster/README.md tells how.
.PHONY: cluster-up cluster-down cluster-load

cluster-up: ## bring a Kubernetes up on this machine
	@tests/cluster/run up

cluster-down: ## remove it and all its traces
	@tests/cluster/run down

# The cargo profile of the operator that goes in; with BINARY= set, that file goes in as it is. For this target alone: the
# demo has a default of its own.
cluster-load: export PROFILE ?= dev
cluster-load: compiler ## build the operator and put its two images into it
	@[ -n "$$BINARY" ] || cargo build --profile $$PROFILE
	@tests/cluster/run load
