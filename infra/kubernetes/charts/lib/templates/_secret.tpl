{{- /*
  A secret's value that is made once: what the cluster already holds, else a new
  random one. Without a cluster (helm template) it is always new.
  Takes a dict: namespace, name, key
*/ -}}
{{- define "lib.generatedValue" -}}
{{- $existing := (lookup "v1" "Secret" .namespace .name).data | default dict -}}
{{- with get $existing .key -}}
{{ . }}
{{- else -}}
{{ randAlphaNum 32 | b64enc }}
{{- end -}}
{{- end }}
