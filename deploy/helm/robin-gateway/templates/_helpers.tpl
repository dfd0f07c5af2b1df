{{- define "robin.suffix" -}}
{{- if ne .Release.Name "robin-gateway" }}-{{ .Release.Name }}{{ end -}}
{{- end -}}

{{- define "robin.name" -}}
{{- $name := printf "robin-gateway%s" (include "robin.suffix" .) -}}
{{- if gt (len $name) 54 }}{{ fail "the release name is too long: at most 40 characters" }}{{ end -}}
{{- $name -}}
{{- end -}}

{{- define "robin.labels" -}}
app.kubernetes.io/name: robin-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "robin.pod" -}}
{{ include "robin.labels" . }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- define "robin.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "robin.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end -}}

{{/* A duration of robin.yaml in whole seconds. */}}
{{- define "robin.seconds" -}}
{{- if hasSuffix "ms" . }}{{ div (trimSuffix "ms" . | int) 1000 -}}
{{- else if hasSuffix "s" . }}{{ trimSuffix "s" . | int -}}
{{- else if hasSuffix "m" . }}{{ mul (trimSuffix "m" . | int) 60 -}}
{{- else if hasSuffix "h" . }}{{ mul (trimSuffix "h" . | int) 3600 -}}
{{- else }}{{ fail (printf "%s is no duration" .) }}{{ end -}}
{{- end -}}

{{- define "robin.grace" -}}
{{- $drain := (.Values.config.drain | default dict).max | default "5m" -}}
{{- add (include "robin.seconds" $drain | int) 30 -}}
{{- end -}}

{{/* Egress rules to the name servers of a dns.mode. */}}
{{- define "robin.dns" -}}
{{- if eq .mode "kube-dns" -}}
- to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
      podSelector: {matchLabels: {k8s-app: kube-dns}}
  ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
{{- else if eq .mode "openshift" -}}
- to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: openshift-dns}}
      podSelector: {matchLabels: {dns.operator.openshift.io/daemonset-dns: default}}
  ports: [{protocol: UDP, port: 5353}, {protocol: TCP, port: 5353}]
{{- else if eq .mode "nodelocal" -}}
- to: [{ipBlock: {cidr: 169.254.20.10/32}}]
  ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
{{- else if eq .mode "custom" -}}
{{ toYaml .custom }}
{{- end -}}
{{- end -}}

{{/* The addresses of the API server: as given, else those that the cluster publishes. */}}
{{- define "robin.apiserver" -}}
{{- $cidrs := .Values.networkPolicy.apiServerCidrs -}}
{{- if not $cidrs -}}
{{- range ((lookup "discovery.k8s.io/v1" "EndpointSlice" "default" "kubernetes") | default dict).endpoints -}}
{{- range .addresses }}{{ $cidrs = append $cidrs (printf "%s/%s" . (ternary "128" "32" (contains ":" .))) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if not $cidrs }}{{ fail "networkPolicy.apiServerCidrs is empty and no cluster can be asked: give the addresses of the API server" }}{{ end -}}
{{- toJson $cidrs -}}
{{- end -}}

{{/* Whether a listener has TLS. */}}
{{- define "robin.tls" -}}
{{- if or (ne .Values.auth.mode "open") .Values.config.routes }}yes{{ end -}}
{{- end -}}

{{/* Whether tokens are verified with the keys of the API server. */}}
{{- define "robin.asksapiserver" -}}
{{- if and (or (eq .Values.auth.mode "jwt") .Values.config.routes) (eq .Values.auth.jwks "apiserver") }}yes{{ end -}}
{{- end -}}

{{/* Whether they are verified with those of a ConfigMap. */}}
{{- define "robin.hasjwks" -}}
{{- if and (or (eq .Values.auth.mode "jwt") .Values.config.routes) (eq .Values.auth.jwks "configMap") }}yes{{ end -}}
{{- end -}}

{{/* The namespaces of everyone who gets trust: agents, and the callers of routes. */}}
{{- define "robin.namespaces" -}}
{{- $namespaces := list -}}
{{- range concat .Values.agents (ternary .Values.reverse.callers list (not (empty .Values.config.routes))) }}{{ $namespaces = append $namespaces .namespace }}{{ end -}}
{{- uniq $namespaces | sortAlpha | toJson -}}
{{- end -}}

{{/* An issuer of robin.yaml: this cluster, for one audience and the namespaces of its users. */}}
{{- define "robin.issuer" -}}
{{- $auth := .root.Values.auth -}}
{{- $jwks := dict "file" "/etc/robin/jwks/jwks.json" -}}
{{- if eq $auth.jwks "apiserver" -}}
{{- $jwks = dict "url" (printf "https://kubernetes.default.svc.%s/openid/v1/jwks" .root.Values.clusterDomain) "ca_file" "/var/run/secrets/robin/apiserver/ca.crt" "bearer_file" "/var/run/secrets/robin/apiserver/token" -}}
{{- else if eq $auth.jwks "url" -}}
{{- $jwks = dict "url" (required "auth.jwksUrl is missing" $auth.jwksUrl) -}}
{{- end -}}
{{- $namespaces := list -}}
{{- range .users }}{{ $namespaces = append $namespaces .namespace }}{{ end -}}
{{- $issuer := dict "name" .name "kind" "kubernetes" "issuer" $auth.issuer "audiences" (list .audience) "jwks" $jwks -}}
{{- with $namespaces }}{{ $_ := set $issuer "namespaces" (uniq . | sortAlpha) }}{{ end -}}
{{- toYaml $issuer -}}
{{- end -}}

{{/* The map `gateway:` of robin.yaml. */}}
{{- define "robin.config" -}}
{{- $name := include "robin.name" . -}}
{{- $host := printf "%s.%s.svc.%s" $name .Release.Namespace .Values.clusterDomain -}}
{{- $names := list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace) $host -}}
{{- with .Values.service.clusterIP }}{{ $names = append $names . }}{{ end -}}
{{- $made := deepCopy .Values.config -}}
{{- $tls := dict "minted_names" $names -}}
{{- if eq .Values.ca.mode "none" -}}
{{- if and (not .Values.ca.listenerSecret) (include "robin.tls" .) }}{{ fail "ca.mode none needs ca.listenerSecret, the certificate of the listeners" }}{{ end -}}
{{- $tls = dict "cert_file" "/etc/robin/listener/tls.crt" "key_file" "/etc/robin/listener/tls.key" -}}
{{- end -}}
{{- $listener := dict "name" "proxy" "kind" "proxy" "listen" (printf "%s:8081" .Values.service.listen) -}}
{{- if eq .Values.auth.mode "open" -}}
{{- $_ := set $listener "auth" "none" }}{{ $_ := set $listener "unsafe_open" true -}}
{{- else -}}
{{- $_ := set $listener "auth" .Values.auth.mode }}{{ $_ := set $listener "tls" $tls -}}
{{- end -}}
{{- $listeners := list $listener -}}
{{- $issuers := list -}}
{{- if eq .Values.auth.mode "jwt" -}}
{{- $_ := set $listener "issuers" (list "cluster") -}}
{{- $issuers = list (include "robin.issuer" (dict "root" . "name" "cluster" "audience" .Values.auth.audience "users" .Values.agents) | fromYaml) -}}
{{- end -}}
{{- if eq .Values.auth.mode "mtls" -}}
{{- $_ := set $listener "mtls" (dict "ca_file" "/etc/robin/clients/ca.crt" "trust_domains" .Values.auth.mtls.trustDomains "accept_cn" .Values.auth.mtls.acceptCn) -}}
{{- end -}}
{{- if .Values.config.routes -}}
{{- if eq .Values.reverse.audience .Values.auth.audience }}{{ fail "reverse.audience is auth.audience: a token for the proxy must not do for the routes, nor the other way round" }}{{ end -}}
{{- $listeners = append $listeners (dict "name" "reverse" "kind" "reverse" "listen" (printf "%s:8080" .Values.service.listen) "auth" "jwt" "issuers" (list "routes") "tls" $tls) -}}
{{- $users := concat .Values.agents .Values.reverse.callers -}}
{{- $issuers = append $issuers (include "robin.issuer" (dict "root" . "name" "routes" "audience" .Values.reverse.audience "users" $users) | fromYaml) -}}
{{- end -}}
{{- with $issuers }}{{ $_ := set $made "issuers" . }}{{ end -}}
{{- $_ := set $made "name" $name -}}
{{- $_ := set $made "listeners" $listeners -}}
{{- $_ := set $made "admin" (dict "probes" (printf "%s:9090" .Values.service.listen)) -}}
{{- $addresses := $made.addresses | default dict -}}
{{- $_ := set $addresses "self_names" (concat (list $host) ($addresses.self_names | default list)) -}}
{{- $_ := set $made "addresses" $addresses -}}
{{- if .Values.probe.enabled -}}
{{- $_ := set $made "canary" (printf "robin-canary%s.%s.svc.%s:9099" (include "robin.suffix" .) .Release.Namespace .Values.clusterDomain) -}}
{{- end -}}
{{- if ne .Values.ca.mode "none" -}}
{{- if not (has .Values.ca.signWith .Values.ca.slots) }}{{ fail "ca.signWith is none of ca.slots" }}{{ end -}}
{{- $slots := dict -}}
{{- range .Values.ca.slots }}{{ $_ := set $slots . (printf "/etc/robin/ca/%s" .) }}{{ end -}}
{{- $bridge := $made.bridge | default dict -}}
{{- $_ := set $bridge "slots" $slots }}{{ $_ := set $bridge "sign_with" .Values.ca.signWith -}}
{{- $_ := set $made "bridge" $bridge -}}
{{- end -}}
{{- toYaml (dict "version" 1 "gateway" $made) -}}
{{- end -}}

{{/* The pod that publishes the certificates of the slots. It mounts no key. */}}
{{- define "robin.trustpod" -}}
metadata:
  labels: {{- include "robin.labels" .root | nindent 4 }}
    app.kubernetes.io/component: trust
spec:
  restartPolicy: OnFailure
  serviceAccountName: {{ .name }}
  automountServiceAccountToken: true
  enableServiceLinks: false
  securityContext: {runAsNonRoot: true, runAsUser: 10001, runAsGroup: 10001, fsGroup: 10001, seccompProfile: {type: RuntimeDefault}}
  {{- with .root.Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .root.Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: trust
      image: {{ include "robin.image" .root }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args:
        - ca
        - bundle
        {{- range .root.Values.ca.slots }}
        - --ca=/etc/robin/ca/{{ . }}/tls.crt
        {{- end }}
        - --public-roots
        - --keep
        {{- range .namespaces }}
        - --configmap={{ . }}/{{ $.name }}
        {{- end }}
      resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {memory: 128Mi}}
      securityContext: {{- include "robin.confined" .root | nindent 8 }}
      volumeMounts:
        {{- range .root.Values.ca.slots }}
        - {name: ca-{{ . }}, mountPath: /etc/robin/ca/{{ . }}, readOnly: true}
        {{- end }}
  volumes:
    {{- range .root.Values.ca.slots }}
    - {name: ca-{{ . }}, secret: {secretName: {{ include "robin.name" $.root }}-ca-{{ . }}, defaultMode: 0440, items: [{key: tls.crt, path: tls.crt}]}}
    {{- end }}
{{- end -}}
