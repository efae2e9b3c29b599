{{- /* mc knows the server as "minio": the kubelet puts the secret into the address. */ -}}
{{- define "minio.clientEnv" -}}
{{- include "lib.secretEnv" (dict "name" "ROOT_USER" "secret" .Values.rootSecret "key" "root-user") }}
{{ include "lib.secretEnv" (dict "name" "ROOT_PASSWORD" "secret" .Values.rootSecret "key" "root-password") }}
- name: MC_HOST_minio
  value: http://$(ROOT_USER):$(ROOT_PASSWORD)@{{ .Release.Name }}:9000
- name: MC_CONFIG_DIR
  value: /tmp/mc
- name: BUCKETS
  value: {{ join " " .Values.buckets | quote }}
{{- end }}
