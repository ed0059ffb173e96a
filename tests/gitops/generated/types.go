// Package generated keeps in go.mod what a CRD is made from.
package generated

import _ "github.com/fluxcd/helm-controller/api/v2"
