{{- /*
  The pod of `helm test`: one script, seconds. Its logs are found by its labels.
  Takes a dict: root, name, image, script; uid, env, volumes, volumeMounts, namespace, weight,
  clientOf (the servers that it may reach)
*/ -}}
{{- define "lib.testPod" -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ .name }}
  namespace: {{ .namespace | default .root.Release.Namespace }}
  labels:
    {{- include "lib.labels" (dict "root" .root "component" "test") | nindent 4 }}
    {{- with .clientOf }}
    {{- include "lib.clientLabels" . | trim | nindent 4 }}
    {{- end }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation
    helm.sh/hook-weight: {{ .weight | default 0 | quote }}
spec:
  restartPolicy: Never
  activeDeadlineSeconds: {{ .deadline | default 60 }}
  terminationGracePeriodSeconds: 1
  {{- include "lib.podDefaults" . | nindent 2 }}
  containers:
    {{- include "lib.scriptContainer" . | nindent 4 }}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- with .volumes }}
    {{- . | trim | nindent 4 }}
    {{- end }}
{{- end }}
