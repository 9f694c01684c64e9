{{- define "beamsteer.name" -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "beamsteer.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "beamsteer.labels" -}}
{{ include "beamsteer.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "beamsteer.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "beamsteer.claim" -}}
{{ .Values.persistence.existingClaim | default (printf "%s-state" (include "beamsteer.name" .)) }}
{{- end -}}

{{- define "beamsteer.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "beamsteer.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Names of files, never values: `beamsteer` reads BEAMSTEER_X_FILE. */}}
{{- define "beamsteer.environment" -}}
{{- with .Values.secrets }}
{{- if .token }}
- {name: BEAMSTEER_TOKEN_FILE, value: /secrets/token}
{{- end }}
{{- if .people }}
- {name: BEAMSTEER_PEOPLE, value: /secrets/people.yaml}
{{- end }}
{{- if .kafkaPassword }}
- {name: BEAMSTEER_KAFKA_PASSWORD_FILE, value: /secrets/kafka-password}
{{- end }}
{{- end }}
- {name: MPLCONFIGDIR, value: /tmp/matplotlib}
- {name: NUMBA_CACHE_DIR, value: /tmp/numba}
{{- end -}}

{{- define "beamsteer.probes" -}}
{{- /* The first answer may wait for the first compilation of kernels. */ -}}
startupProbe:
  httpGet: {path: /health, port: {{ . }}}
  periodSeconds: 5
  failureThreshold: 180
livenessProbe:
  httpGet: {path: /health, port: {{ . }}}
  periodSeconds: 15
  timeoutSeconds: 5
  failureThreshold: 4
readinessProbe:
  httpGet: {path: /ready, port: {{ . }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end -}}
