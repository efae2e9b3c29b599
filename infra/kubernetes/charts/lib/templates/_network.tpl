{{- /*
  Labels by which a pod may reach servers of its namespace: whoever wears a server's label
  may go there, and is let in. Takes a list of servers' names.
*/ -}}
{{- define "lib.clientLabels" -}}
{{- range . }}
ameide/{{ . }}-client: "true"
{{- end }}
{{- end }}

{{- /* The rule that lets a pod ask for names. */ -}}
{{- define "lib.dnsEgress" -}}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .Values.lib.dns.namespace }}
      podSelector:
        matchLabels:
          {{- toYaml .Values.lib.dns.labels | nindent 10 }}
  ports:
    - {protocol: UDP, port: {{ .Values.lib.dns.port }}}
    - {protocol: TCP, port: {{ .Values.lib.dns.port }}}
{{- end }}

{{- /* Takes a dict: root, component, name; namespace */ -}}
{{- define "lib.networkPolicyHead" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ .name }}
  namespace: {{ .namespace | default .root.Release.Namespace }}
  labels:
    {{- include "lib.labels" (dict "root" .root "component" .component) | nindent 4 }}
{{- end }}

{{- define "lib.tcpPorts" -}}
{{- range . }}
- {protocol: TCP, port: {{ . }}}
{{- end }}
{{- end }}

{{- /*
  Who may reach a server, seen from both ends: its pods take connections from pods of the
  namespace that wear the label of its clients, and those may go there and ask for names.
  The server's own pods go nowhere, unless they are clients of something.
  Takes a dict: root, component (of the server's pods), client, ports; peerPorts, that the
  server's pods need of each other
*/ -}}
{{- define "lib.serverPolicies" -}}
---
{{ include "lib.networkPolicyHead" (dict "root" .root "component" .component "name" (printf "%s-server" .client)) }}
spec:
  podSelector:
    matchLabels:
      {{- include "lib.selectorLabels" (dict "root" .root "component" .component) | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - from:
        - podSelector:
            matchLabels:
              {{- include "lib.clientLabels" (list .client) | trim | nindent 14 }}
      ports:
        {{- include "lib.tcpPorts" .ports | trim | nindent 8 }}
    {{- with .peerPorts }}
    - from: &peers
        - podSelector:
            matchLabels:
              {{- include "lib.selectorLabels" (dict "root" $.root "component" $.component) | nindent 14 }}
      ports: &peerPorts
        {{- include "lib.tcpPorts" . | trim | nindent 8 }}
  egress:
    - to: *peers
      ports: *peerPorts
    {{- end }}
---
{{ include "lib.networkPolicyHead" (dict "root" .root "component" .component "name" (printf "%s-client" .client)) }}
spec:
  podSelector:
    matchLabels:
      {{- include "lib.clientLabels" (list .client) | trim | nindent 6 }}
  policyTypes: [Egress]
  egress:
    {{- include "lib.dnsEgress" .root | nindent 4 }}
    - to:
        - podSelector:
            matchLabels:
              {{- include "lib.selectorLabels" (dict "root" .root "component" .component) | nindent 14 }}
      ports:
        {{- include "lib.tcpPorts" .ports | trim | nindent 8 }}
{{- end }}
