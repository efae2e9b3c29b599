{{- /* repository:tag@digest, or repository:tag while the lock has no digest */ -}}
{{- define "lib.image" -}}
image: {{ .repository }}:{{ .tag }}{{ with .digest }}@{{ . }}{{ end }}
# A tag `latest` would mean Always, and then no pod starts while the registry is away.
imagePullPolicy: IfNotPresent
{{- end }}

{{- /*
  What every pod has: pull secrets, no API token, no root. Who owns no data on a volume
  runs as a user that no host has. Takes a dict: root; uid
*/ -}}
{{- define "lib.podDefaults" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- $uid := .uid | default 10001 }}
  runAsUser: {{ $uid }}
  runAsGroup: {{ $uid }}
  fsGroup: {{ $uid }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- /*
  Who runs it, for programs that ask: the image's passwd has no 10001, and a Go program that
  was built without C fails where $USER does not tell it.
*/ -}}
{{- define "lib.userEnv" -}}
# Where the root is read-only, tools keep their settings here.
- name: HOME
  value: /tmp
- name: USER
  value: ameide
{{- end }}

{{- define "lib.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- /* For pods that run for seconds: hooks and tests. */ -}}
{{- define "lib.smallResources" -}}
resources:
  requests:
    cpu: 5m
    memory: 16Mi
  limits:
    memory: 256Mi
{{- end }}

{{- /* An environment variable from a secret. Takes a dict: name, secret, key */ -}}
{{- define "lib.secretEnv" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end }}

{{- /*
  A container that runs one script. In arguments Kubernetes reads $$ as one $, so a
  script's own $$ is doubled.
  Takes a dict: name, image, script; env, volumeMounts, resources
*/ -}}
{{- define "lib.scriptContainer" -}}
- name: {{ .name }}
  {{- include "lib.image" .image | nindent 2 }}
  command: [/bin/sh, -euc]
  args:
    - |
      {{- .script | trim | replace "$$" "$$$$" | nindent 6 }}
  env:
    {{- include "lib.userEnv" . | nindent 4 }}
    {{- with .env }}
    {{- . | trim | nindent 4 }}
    {{- end }}
  {{- include "lib.containerSecurity" . | nindent 2 }}
  {{- if .resources }}
  resources:
    {{- toYaml .resources | nindent 4 }}
  {{- else }}
  {{- include "lib.smallResources" . | nindent 2 }}
  {{- end }}
  volumeMounts:
    - name: tmp
      mountPath: /tmp
    {{- with .volumeMounts }}
    {{- . | trim | nindent 4 }}
    {{- end }}
{{- end }}
