{{- define "tandem.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "tandem.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "tandem.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "tandem.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "tandem.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tandem.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tandem.serverLabels" -}}
{{ include "tandem.selectorLabels" . }}
app.kubernetes.io/component: server
{{- end }}

{{- define "tandem.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "tandem.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "tandem.image" -}}
{{- $variant := ternary "cuda" "cpu" .Values.gpu.enabled }}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default (printf "%s-%s" $.Chart.AppVersion $variant) .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "tandem.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "tandem.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "tandem.cacheClaim" -}}
{{- default (printf "%s-cache" (include "tandem.fullname" .)) .Values.modelCache.existingClaim }}
{{- end }}

{{/* A setting as the operator gave it, or the service's default: (dict "root" $ "name" ...). */}}
{{- define "tandem.setting" -}}
{{- $defaults := .root.Files.Get "files/settings.json" | fromJson }}
{{- $value := get $defaults .name }}
{{- if hasKey .root.Values.settings .name }}
{{- $value = get .root.Values.settings .name }}
{{- end }}
{{- include "tandem.scalar" $value }}
{{- end }}

{{/* Helm reads numbers as floats, and would write large ones as 2.1e+09. */}}
{{- define "tandem.scalar" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}
{{- int64 . }}
{{- else }}
{{- . }}
{{- end }}
{{- end }}

{{/* Time that a Pod may take to end: the endpoints' delay, the drain, the last answers. */}}
{{- define "tandem.terminationGracePeriodSeconds" -}}
{{- $drain := include "tandem.setting" (dict "root" . "name" "drain_s") | float64 | ceil | int64 }}
{{- $lameDuck := include "tandem.setting" (dict "root" . "name" "lame_duck_s") | float64 | ceil | int64 }}
{{- add (int64 .Values.shutdown.preStopSeconds) $lameDuck $drain 15 }}
{{- end }}

{{/* The Hub ids of the settings, each with its revision, a line each. */}}
{{- define "tandem.hubModels" -}}
{{- range $name := list "translate_model" "summarize_model" }}
{{- range $given := splitList "," (include "tandem.setting" (dict "root" $ "name" $name)) }}
{{- $model := trim $given }}
{{- if and (contains "/" $model) (not (hasPrefix "/" $model)) (not (hasPrefix "." $model)) }}
{{ $model }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "tandem.metricsPortName" -}}
{{- ternary "metrics" "http" (gt (int .Values.metrics.port) 0) }}
{{- end }}

{{/* The value of the label `job` of what is scraped. */}}
{{- define "tandem.job" -}}
{{- if eq .Values.metrics.monitor "podMonitor" }}
{{- printf "%s/%s" .Release.Namespace (include "tandem.fullname" .) }}
{{- else }}
{{- include "tandem.fullname" . }}
{{- end }}
{{- end }}

{{/* What the values contradict, beyond what their schema can say. */}}
{{- define "tandem.check" -}}
{{- $hub := include "tandem.hubModels" . | trim }}
{{- range $model := splitList "\n" $hub }}
{{- if and $model $.Values.fetch.enabled (not (regexMatch "^[[:word:].-]+/[[:word:].-]+@[0-9a-f]{40}$" $model)) }}
{{- fail (printf "settings: %s: fetch.enabled wants the commit of every Hub id, as %s@<40 hex digits>" $model (regexReplaceAll "@.*" $model "")) }}
{{- end }}
{{- end }}
{{- if and .Values.fetch.enabled (not $hub) }}
{{- fail "fetch.enabled: no setting names a checkpoint of the Hub" }}
{{- end }}
{{- if and $hub (not .Values.fetch.enabled) (not .Values.hub.online) (not .Values.modelCache.existingClaim) }}
{{- fail (printf "settings: %s is on the Hub: expected fetch.enabled, hub.online or modelCache.existingClaim" (regexReplaceAll "\n" $hub ", ")) }}
{{- end }}
{{- if and .Values.checkpointSettings (hasKey .Values.settings "checkpoints_file") }}
{{- fail "checkpointSettings and settings.checkpoints_file: expected one of them" }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail (printf "autoscaling.minReplicas is %d: expected at most maxReplicas, %d" (int .minReplicas) (int .maxReplicas)) }}
{{- end }}
{{- end }}
{{- if eq (int .Values.metrics.port) (int .Values.service.port) }}
{{- fail (printf "metrics.port is %d, as service.port is: expected another one" (int .Values.metrics.port)) }}
{{- end }}
{{- $tested := trimPrefix "/" .Values.test.path }}
{{- if eq "none" (include "tandem.setting" (dict "root" . "name" (printf "%s_model" $tested))) }}
{{- fail (printf "test.path is /%s, which settings.%s_model switches off: expected the other endpoint" $tested $tested) }}
{{- end }}
{{- end }}
