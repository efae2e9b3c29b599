{{- /* The database's secret under the names that a tool reads. Takes a dict: root, host, port, user, password */ -}}
{{- define "temporal.databaseEnv" -}}
{{- $secret := .root.Values.database.secret -}}
{{ include "lib.secretEnv" (dict "secret" $secret "key" "host" "name" .host) }}
{{ include "lib.secretEnv" (dict "secret" $secret "key" "port" "name" .port) }}
{{ include "lib.secretEnv" (dict "secret" $secret "key" "username" "name" .user) }}
{{ include "lib.secretEnv" (dict "secret" $secret "key" "password" "name" .password) }}
{{- end }}

{{- define "temporal.sqlEnv" -}}
{{- include "temporal.databaseEnv" (dict "root" . "host" "SQL_HOST" "port" "SQL_PORT" "user" "SQL_USER" "password" "SQL_PASSWORD") }}
{{- end }}

{{- define "temporal.psqlEnv" -}}
{{- include "temporal.databaseEnv" (dict "root" . "host" "PGHOST" "port" "PGPORT" "user" "PGUSER" "password" "PGPASSWORD") }}
{{- end }}
