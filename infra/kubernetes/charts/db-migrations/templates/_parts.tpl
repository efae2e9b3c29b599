{{- define "db-migrations.volumes" -}}
- name: migrations
  configMap:
    name: {{ .Release.Name }}
- name: secret
  secret:
    secretName: {{ .Values.secret }}
{{- end }}

{{- define "db-migrations.volumeMounts" -}}
- name: migrations
  mountPath: /migrations
- name: secret
  mountPath: /secret
{{- end }}

{{- define "db-migrations.env" -}}
- name: SECRET
  value: {{ .Values.secret }}
{{- end }}

{{- /* Takes a dict: root, file */ -}}
{{- define "db-migrations.script" -}}
{{ .root.Files.Get "files/connect.sh" }}
{{ .root.Files.Get .file }}
{{- end }}
