{{- define "coredns-config.override" -}}
{{- range .Values.aliases }}
rewrite stop {
    name exact {{ .name }} {{ .target }}
    answer auto
}
{{- end }}
rewrite stop {
    name regex ^([^.]+)\.{{ .Values.zone | replace "." "\\." }}\.?$ {1}.{{ .Values.namespace }}.svc.cluster.local
    answer auto
}
{{- end }}
