{{- define "serinus.metadata" -}}
namespace: {{ .Release.Namespace }}
labels: {{- include "serinus.labels" . | nindent 2 }}
{{- end }}

{{- define "serinus.labels" -}}
app.kubernetes.io/name: serinus
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "serinus.selector" -}}
app.kubernetes.io/name: serinus
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "serinus.registries" -}}
{{- $uris := dict }}
{{- range $name, $registry := .Values.registries }}
{{- $uri := $registry.trackingUri }}
{{- if and (not $uri) (eq $name "default") $.Values.tryOut.mlflow.enabled }}
{{- $uri = printf "http://%s-mlflow.%s.svc:5000" $.Release.Name $.Release.Namespace }}
{{- end }}
{{- $_ := set $uris $name (required (printf "set registries.%s.trackingUri to the MLflow server" $name) $uri) }}
{{- end }}
{{- toJson $uris }}
{{- end }}

{{- define "serinus.prometheus" -}}
{{- $url := .Values.prometheus.url }}
{{- if and (not $url) .Values.tryOut.prometheus.enabled }}
{{- $url = printf "http://%s-prometheus.%s.svc:9090" .Release.Name .Release.Namespace }}
{{- end }}
{{- required "set prometheus.url" $url }}
{{- end }}

{{- define "serinus.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "serinus.policy" -}}
{{- if and (not .Values.admissionPolicy.enabled) (not .Values.namespaces) }}
{{- fail "admissionPolicy.enabled=false leaves spec.serving of every namespace unguarded: name the namespaces that may do without it in `namespaces`" }}
{{- end }}
{{- if .Values.admissionPolicy.enabled }}{{ .Release.Name }}-pods.serinus.dev{{ end }}
{{- end }}

{{/*
What the operator may do where it watches. The integration tests run the operator with these rights, and fail on one that it lacks and on one that it does not use.
*/}}
{{- define "serinus.rules" -}}
- apiGroups: [serinus.dev]
  resources: [modelreleases]
  verbs: [get, list, watch]
- apiGroups: [serinus.dev]
  resources: [modelreleases/status]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [get, create, patch]
{{- end }}
