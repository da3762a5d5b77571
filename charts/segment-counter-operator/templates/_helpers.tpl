{{- define "operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The release's name alone where it says already what runs, so that `helm install segment-counter-operator` is not stuttered. */}}
{{- define "operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "operator.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "operator.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What a selector may hold: it can never change, so no version and nothing of the user's. */}}
{{- define "operator.selector" -}}
app.kubernetes.io/name: {{ include "operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "operator.labels" -}}
{{ include "operator.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: segment-counter
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "operator.image" -}}
{{- with .Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag -}}
{{- end -}}

{{/* The namespaces that are looked after, as a JSON list; with watch.cluster there are none to name. */}}
{{- define "operator.namespaces" -}}
{{- default (list .Release.Namespace) .Values.watch.namespaces | uniq | sortAlpha | toJson -}}
{{- end -}}

{{/*
What the operator may do where it looks after SegmentCounters: each rule is what its code does, and a test compares them with the
API server's audit log.
*/}}
{{- define "operator.rules" -}}
# The objects themselves: watched, never changed.
- apiGroups: [segmentcounter.io]
  resources: [segmentcounters]
  verbs: [list, watch]
# Their status: applied when it differs.
- apiGroups: [segmentcounter.io]
  resources: [segmentcounters/status]
  verbs: [patch]
# The API's pods. Create beside patch: server-side apply of what is not there yet asks for both. No delete: what belongs to an object that
# is deleted is cleared away by Kubernetes itself.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
# The cache's nodes. Delete: they are pruned when the object asks for no cache any more.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
# How the API and the cache's nodes are reached; delete, as above.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
# What the API is configured by, and who it runs as.
- apiGroups: [""]
  resources: [configmaps, serviceaccounts]
  verbs: [get, list, watch, create, patch]
# The cache's password is made here, and never changed. Secrets of others are watched by their metadata alone, and read one by one when a
# SegmentCounter names them.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create]
# Why pods do not come up: asked only while they do not.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
# Keeps a node's drain from taking all of the API's pods at once.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
# The migrations. Delete: one that failed makes room for another try, one of an earlier version is pruned.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
# The archive and the refresh.
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [get, list, watch, create, patch]
# One event for each change of a condition; a repeated one is patched.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
