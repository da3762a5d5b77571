{{- define "segment-counter-crds.labels" -}}
{{- $own := dict
      "app.kubernetes.io/name" .Chart.Name
      "app.kubernetes.io/instance" .Release.Name
      "app.kubernetes.io/part-of" "segment-counter"
      "app.kubernetes.io/managed-by" .Release.Service
      "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- toYaml (merge $own .Values.labels) -}}
{{- end -}}

{{- define "segment-counter-crds.annotations" -}}
{{- $all := deepCopy .Values.annotations -}}
{{- if .Values.keep -}}
{{- $_ := set $all "helm.sh/resource-policy" "keep" -}}
{{- end -}}
{{- if $all -}}
{{- toYaml $all -}}
{{- end -}}
{{- end -}}
