{{- define "sluice.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "sluice.labels" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Labels that select the pods of a component. Arguments: root, component. */}}
{{- define "sluice.selector" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The image. Arguments: root, tag. */}}
{{- define "sluice.image" -}}
{{ .root.Values.image.repository }}:{{ .tag | default .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "sluice.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "sluice.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* Settings of every process. */}}
{{- define "sluice.env" -}}
- name: REDIS_URL
  valueFrom:
    secretKeyRef: { name: {{ required "existingSecret: the name of a Secret with REDIS_URL is required" .Values.existingSecret }}, key: REDIS_URL }
- { name: DATA_DIR, value: /data }
- { name: DRAIN_SECONDS, value: {{ .Values.drainSeconds | quote }} }
{{- if .Values.models }}
- { name: MODELS_FILE, value: /config/models.json }
{{- end }}
{{- range $name, $value := .Values.settings }}
- { name: {{ $name }}, value: {{ include "sluice.text" $value | quote }} }
{{- end }}
{{- end }}

{{/* A value as text. Helm reads numbers as floats, and would write 1000000 as 1e+06. */}}
{{- define "sluice.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* Kubernetes accepts only one of the two fields. */}}
{{- define "sluice.disruptionBudget" -}}
{{- if hasKey . "minAvailable" }}minAvailable: {{ .minAvailable }}{{ else }}maxUnavailable: {{ .maxUnavailable }}{{ end }}
{{- end }}

{{- define "sluice.optionalSecret" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef: { name: {{ .root.Values.existingSecret }}, key: {{ .name }}, optional: true }
{{- end }}

{{- define "sluice.mounts" -}}
- { name: data, mountPath: /data }
- { name: tmp, mountPath: /tmp }
{{- if .Values.models }}
- { name: config, mountPath: /config, readOnly: true }
{{- end }}
{{- end }}

{{- define "sluice.volumes" -}}
- name: data
  emptyDir: {}
- name: tmp
  emptyDir: {}
{{- if .Values.models }}
- name: config
  configMap: { name: {{ include "sluice.name" . }}-models }
{{- end }}
{{- end }}
