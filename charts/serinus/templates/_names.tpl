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
{{- $_ := set $uris $name (required (printf "set registries.%s.trackingUri to the MLflow server" $name) $registry.trackingUri) }}
{{- end }}
{{- toJson $uris }}
{{- end }}

{{/* What the operator may do where it watches: read and write what it owns, read pods, read releases and write their status. */}}
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
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
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
