{{- define "postgres.reconcile" -}}
\getenv password POSTGRES_PASSWORD
ALTER ROLE postgres PASSWORD :'password';
{{- range $user := .Values.users }}

\getenv password PASSWORD_{{ $user.name | upper }}
SELECT 'CREATE ROLE {{ $user.name }} LOGIN'
  WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{{ $user.name }}') \gexec
ALTER ROLE {{ $user.name }} PASSWORD :'password';
{{- range $user.databases }}
SELECT 'CREATE DATABASE {{ . }} OWNER {{ $user.name }}'
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{{ . }}') \gexec
ALTER DATABASE {{ . }} OWNER TO {{ $user.name }};
REVOKE CONNECT ON DATABASE {{ . }} FROM PUBLIC;
{{- end }}
{{- end }}
{{- end }}

{{- define "postgres.config" -}}
init.sh: |
  {{- .Files.Get "files/init.sh" | trim | nindent 2 }}
pg_hba.conf: |
  {{- .Files.Get "files/pg_hba.conf" | trim | nindent 2 }}
reconcile.sql: |
  {{- include "postgres.reconcile" . | trim | nindent 2 }}
{{- end }}
