{{- /*
  A script by the clock; or suspended, to make a Job of by hand (`kubectl create job --from`).
  Takes a dict: root, name, component, schedule, containers, volumes, clientOf, deadline
  (seconds); suspend
*/ -}}
{{- define "lib.cronJob" -}}
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "lib.labels" (dict "root" .root "component" .component) | nindent 4 }}
spec:
  schedule: {{ .schedule | quote }}
  suspend: {{ .suspend | default false }}
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 3600
  successfulJobsHistoryLimit: 1
  failedJobsHistoryLimit: 3
  jobTemplate:
    spec:
      backoffLimit: 2
      activeDeadlineSeconds: {{ .deadline }}
      template:
        metadata:
          labels:
            {{- include "lib.selectorLabels" (dict "root" .root "component" .component) | nindent 12 }}
            {{- include "lib.clientLabels" .clientOf | trim | nindent 12 }}
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: 5
          {{- include "lib.podDefaults" . | nindent 10 }}
          containers:
            {{- .containers | trim | nindent 12 }}
          volumes:
            - name: tmp
              emptyDir: {}
            {{- .volumes | trim | nindent 12 }}
{{- end }}

{{- /*
  The backup of a server into a claim that is none of the release's, and its restore, which
  only a Job made by hand runs. Nothing is rendered where no claim is named.
  Takes a dict: root, image, env, volumes, volumeMounts (YAML of what both need), backup and
  restore (scripts)
*/ -}}
{{- define "lib.backup" -}}
{{- $values := .root.Values.backup }}
{{- if $values.claim }}
{{- $name := .root.Release.Name }}
{{- $common := dict "image" .image "resources" $values.resources }}
{{- $env := printf "%s\n- name: KEEP\n  value: %q" (trim .env) (toString $values.keep) }}
{{- $mounts := printf "%s\n- name: backup\n  mountPath: /backup" (.volumeMounts | default "" | trim) }}
{{- $volumes := printf "%s\n- name: backup\n  persistentVolumeClaim:\n    claimName: %s" (.volumes | default "" | trim) $values.claim }}
{{- $job := dict "root" .root "schedule" $values.schedule "volumes" $volumes "clientOf" (list $name) "deadline" $values.deadline }}
---
{{- $container := merge (dict "name" "backup" "script" .backup "env" $env "volumeMounts" $mounts) $common }}
{{ include "lib.cronJob" (merge (dict
  "name" (printf "%s-backup" $name) "component" "backup"
  "containers" (include "lib.scriptContainer" $container)) $job) }}
---
{{- $env := printf "%s\n- name: BACKUP\n  value: \"\"" (trim .env) }}
{{- $container := merge (dict "name" "restore" "script" .restore "env" $env "volumeMounts" (printf "%s\n  readOnly: true" $mounts)) $common }}
{{ include "lib.cronJob" (merge (dict
  "name" (printf "%s-restore" $name) "component" "restore" "suspend" true
  "containers" (include "lib.scriptContainer" $container)) $job) }}
{{- end }}
{{- end }}
