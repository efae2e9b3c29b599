{{- define "redis.config" -}}
{{ .Files.Get "files/redis.conf" | trim }}
maxmemory {{ .Values.maxMemory }}
{{- end }}
