{{- define "synapse-keeper.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 52 characters: the longest suffix is "-uninstall", and a Job's name must fit into a label. */}}
{{- define "synapse-keeper.fullname" -}}
{{- $name := include "synapse-keeper.name" . }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "synapse-keeper.selectorLabels" -}}
app.kubernetes.io/name: {{ include "synapse-keeper.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "synapse-keeper.labels" -}}
{{ include "synapse-keeper.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "synapse-keeper.serviceAccountName" -}}
{{- $default := ternary (include "synapse-keeper.fullname" .) "default" .Values.serviceAccount.create }}
{{- default $default .Values.serviceAccount.name }}
{{- end }}

{{/* The one namespace that the operator sees; empty: all. */}}
{{- define "synapse-keeper.watchNamespace" -}}
{{- default (ternary .Release.Namespace "" .Values.namespaced) .Values.watchNamespace }}
{{- end }}

{{/* Takes a dict: image, and root for the default tag. */}}
{{- define "synapse-keeper.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end }}
{{- end }}

{{/* What the operator's Pod and the hook's have in common: account, security, placement. */}}
{{- define "synapse-keeper.podSettings" -}}
serviceAccountName: {{ include "synapse-keeper.serviceAccountName" . }}
automountServiceAccountToken: true
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What the operator's container and the hook's have in common: image, security, what they are told. */}}
{{- define "synapse-keeper.containerSettings" -}}
image: {{ include "synapse-keeper.image" (dict "image" .Values.image "root" .) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
{{- end }}

{{- define "synapse-keeper.env" -}}
# Empty: all namespaces.
- name: WATCH_NAMESPACE
  value: {{ include "synapse-keeper.watchNamespace" . | quote }}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: LOG_FORMAT
  value: {{ .Values.log.format }}
- name: RUST_LOG
  value: {{ .Values.log.level | quote }}
{{- end }}
