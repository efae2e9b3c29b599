{{- /*
  A job that runs on every install and upgrade, so its script must be one that can
  be repeated and be cut short anywhere. Hooks, because a Job cannot be changed.
  Takes a dict: root, name, hook, containers, component; uid, initContainers, volumes,
  clientOf (the servers that it may reach)
*/ -}}
{{- define "lib.hookJob" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "lib.labels" (dict "root" .root "component" .component) | nindent 4 }}
  annotations:
    helm.sh/hook: {{ .hook }}
    helm.sh/hook-delete-policy: before-hook-creation
spec:
  backoffLimit: 3
  template:
    metadata:
      labels:
        {{- include "lib.selectorLabels" (dict "root" .root "component" .component) | nindent 8 }}
        {{- with .clientOf }}
        {{- include "lib.clientLabels" . | trim | nindent 8 }}
        {{- end }}
    spec:
      # A new pod per try: the first steps have to be seen again before the later ones.
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      {{- include "lib.podDefaults" . | nindent 6 }}
      {{- with .initContainers }}
      initContainers:
        {{- . | trim | nindent 8 }}
      {{- end }}
      containers:
        {{- .containers | trim | nindent 8 }}
      volumes:
        - name: tmp
          emptyDir: {}
        {{- with .volumes }}
        {{- . | trim | nindent 8 }}
        {{- end }}
{{- end }}
