{{- define "temporal.clientEnv" -}}
- name: TEMPORAL_ADDRESS
  value: {{ .Release.Name }}-frontend:7233
- name: NAMESPACES
  value: {{ range .Values.namespaces }}{{ .name }}={{ .retention }} {{ end }}
{{- end }}
