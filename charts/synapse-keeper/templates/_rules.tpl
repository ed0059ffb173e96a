{{/* What the API server calls our kinds in a path, as a JSON list, by the CRDs of the chart. */}}
{{- define "synapse-keeper.plurals" -}}
{{- $plurals := list }}
{{- range $path, $_ := .Files.Glob "files/crds/*.yaml" }}
{{- $plurals = append $plurals ($.Files.Get $path | fromYaml).spec.names.plural }}
{{- end }}
{{- toJson $plurals }}
{{- end }}

{{/*
The operator's rights, each with its reason; docs/security.md has them as a table. There are none on Secrets and
ConfigMaps (Jobs mount them) and none to change a workload but for its scale: who may patch a Deployment may run any image.
*/}}
{{- define "synapse-keeper.rules" -}}
{{- $plurals := include "synapse-keeper.plurals" . | fromJsonArray }}
# What it is asked to do.
- apiGroups: [synapse-keeper.dev]
  resources: {{ toJson $plurals }}
  verbs: [get, list, watch]
# How it went.
- apiGroups: [synapse-keeper.dev]
  resources: [{{ range $index, $plural := $plurals }}{{ if $index }}, {{ end }}{{ $plural }}/status{{ end }}]
  verbs: [update]
# The finalizer of an operation, which is there only while replica counts are out, or while data are to go first.
- apiGroups: [synapse-keeper.dev]
  resources: {{ without $plurals "synapses" | toJson }}
  verbs: [patch]
# The homeserver's workloads: how many replicas they have, who scaled them up meanwhile.
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, watch]
# Stopping and starting them.
- apiGroups: [apps]
  resources: [deployments/scale, statefulsets/scale]
  verbs: [get, patch]
# Whether a selected workload holds the Pods behind postgres.host, which must not stop.
- apiGroups: [""]
  resources: [services]
  verbs: [get]
# The steps.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# Whether Pods are really gone, are Ready again, or why they are not; on which node a volume is that a step mounts.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list]
# Whether a claim that a step mounts is there, and on how many nodes it may be.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
# The report of a step, where it is too long for the Pod's status, and the end of the log of one that failed.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# What happened, for kubectl describe. A repeated event is patched. Why a controller makes no Pod stands in its events alone.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [list, create, patch]
# One Lease a homeserver: who works on it, and the replica counts to give back.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, list, watch, create, update, delete]
{{- end }}

{{/* In the release's own namespace. */}}
{{- define "synapse-keeper.ownRules" -}}
# Which replica is the leader.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, create, update]
# Whether `helm uninstall` has asked to bring everything back.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch]
{{- end }}
