# The real Kubernetes that tests and the demo run on; tests/cluster/README.md tells how.
.PHONY: cluster-up cluster-down cluster-load

cluster-up: ## bring a Kubernetes up on this machine
	@tests/cluster/run up

cluster-down: ## remove it and all its traces
	@tests/cluster/run down

cluster-load: ## put the operator's and the tools' image, made from $BINARY, into it
	@tests/cluster/run load
