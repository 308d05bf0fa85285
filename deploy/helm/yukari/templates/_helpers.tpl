{{- define "yukari.selector" -}}
app.kubernetes.io/name: yukari
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "yukari.labels" -}}
{{ include "yukari.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The chart's settings, with the user's over them. */}}
{{- define "yukari.settings" -}}
{{- $own := dict "ADMIN_BIND" ":9201" "SLOG_LEVEL" "WARN" -}}
{{- if eq .Values.mode "local" -}}
{{- $own = merge $own (dict "STORAGE" "/var/lib/yukari") -}}
{{- else -}}
{{- $own = merge $own (dict
  "TIGRIS_BUCKET" "yukari"
  "SPOOL_DIR" "/var/lib/yukari/spool"
  "SPOOL_MAX" .Values.spool.max
  "MIN_FREE" "15%"
  "SHUTDOWN_DELAY" "10s"
  "GRACE" "2m") -}}
{{- end -}}
{{- range $name, $value := merge (deepCopy .Values.settings) $own }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "yukari.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
