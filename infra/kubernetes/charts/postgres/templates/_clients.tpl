{{- /* The secret of each user under /secrets/USER, for scripts that act as each in turn. */ -}}
{{- define "postgres.userVolumes" -}}
{{- range .Values.users }}
- name: {{ .name }}
  secret:
    secretName: {{ $.Release.Name }}-{{ .name }}
{{- end }}
{{- end }}

{{- define "postgres.userVolumeMounts" -}}
{{- range .Values.users }}
- name: {{ .name }}
  mountPath: /secrets/{{ .name }}
{{- end }}
{{- end }}
