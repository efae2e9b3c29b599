{{- /* The server fills in the environment itself ("enable-template"): no password stands here. */ -}}
{{- define "temporal.config" -}}
# enable-template
log:
  stdout: true
  level: info
persistence:
  defaultStore: default
  visibilityStore: visibility
  numHistoryShards: {{ .Values.historyShards }}
  datastores:
    {{- range $store, $database := dict "default" .Values.database.default "visibility" .Values.database.visibility }}
    {{ $store }}:
      sql:
        pluginName: postgres12
        databaseName: {{ $database }}
        connectAddr: {{ `{{ printf "%s:%s" (env "SQL_HOST") (env "SQL_PORT") | quote }}` }}
        connectProtocol: tcp
        user: {{ `{{ env "SQL_USER" | quote }}` }}
        password: {{ `{{ env "SQL_PASSWORD" | quote }}` }}
        maxConns: {{ $.Values.database.maxConnections }}
        maxIdleConns: {{ $.Values.database.maxConnections }}
        maxConnLifetime: 1h
    {{- end }}
global:
  membership:
    maxJoinDuration: 30s
    broadcastAddress: {{ `{{ env "POD_IP" | quote }}` }}
services:
  {{- range $service, $port := dict "frontend" 7233 "history" 7234 "matching" 7235 "worker" 7239 }}
  {{ $service }}:
    rpc:
      grpcPort: {{ $port }}
      membershipPort: {{ sub $port 300 }}
      bindOnIP: 0.0.0.0
  {{- end }}
clusterMetadata:
  enableGlobalNamespace: false
  failoverVersionIncrement: 10
  masterClusterName: active
  currentClusterName: active
  clusterInformation:
    active:
      enabled: true
      initialFailoverVersion: 1
      rpcName: frontend
      rpcAddress: 127.0.0.1:7233
dcRedirectionPolicy:
  policy: noop
{{- end }}
