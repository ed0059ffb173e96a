// Modules that carry CRDs. They are downloaded, checked against go.sum, and read; nothing of them is built, so what they
// need themselves is not here: `go mod download module@version` adds a sum, `go mod tidy` is not for this file.
module synapse-keeper.dev/gitops/shipped

go 1.26.3

require (
	github.com/argoproj/argo-cd/v3 v3.5.7
	// Of Flux 2.9.
	github.com/fluxcd/kustomize-controller v1.9.6
	github.com/fluxcd/source-controller v1.9.6
)
