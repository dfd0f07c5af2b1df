"""What a cluster is given before anything else: rights for the network policy controller and the API server, and cluster DNS."""

from typing import Any

from tests.cluster.parts.services import DNS_ADDRESS, NODE_ADDRESS

DNS_IMAGE = "localhost/coredns:1"
RBAC = "rbac.authorization.k8s.io/v1"
ROUTER_READS = [
    {"apiGroups": [""], "resources": ["namespaces", "pods", "services", "nodes", "endpoints"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
]
DNS_READS = [
    {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
]
COREFILE = """.:53 {
  errors
  ready
  hosts /etc/coredns/hosts {
    fallthrough
  }
  kubernetes cluster.local
}
"""


def objects(*names: str) -> list[dict[str, Any]]:
    """All of it; `names` are outside names that lead to the node's own address, where tests have their servers."""
    labels = {"k8s-app": "kube-dns"}
    return [
        *bound("kube-router", ROUTER_READS, {"kind": "User", "name": "kube-router", "apiGroup": "rbac.authorization.k8s.io"}),
        _binding(
            "kubelet-client", "system:kubelet-api-admin", {"kind": "User", "name": "kubelet-client", "apiGroup": RBAC.partition("/")[0]}
        ),
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "coredns", "namespace": "kube-system"}},
        *bound("coredns", DNS_READS, {"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "coredns", "namespace": "kube-system"},
            "data": {"Corefile": COREFILE, "hosts": "".join(f"{NODE_ADDRESS} {name}\n" for name in names)},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "coredns", "namespace": "kube-system", "labels": labels},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": _dns_pod()}},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
            "spec": {
                "selector": labels,
                "clusterIP": DNS_ADDRESS,
                "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}],
            },
        },
    ]


def bound(name: str, rules: list[dict[str, Any]], subject: dict[str, str]) -> list[dict[str, Any]]:
    """A cluster role of this name, for this subject."""
    return [{"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}, _binding(name, name, subject)]


def _binding(name: str, role: str, subject: dict[str, str]) -> dict[str, Any]:
    reference = {"apiGroup": RBAC.partition("/")[0], "kind": "ClusterRole", "name": role}
    return {"apiVersion": RBAC, "kind": "ClusterRoleBinding", "metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}


def _dns_pod() -> dict[str, Any]:
    return {
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "containers": [
            {
                "name": "coredns",
                "image": DNS_IMAGE,
                "args": ["-conf", "/etc/coredns/Corefile"],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
                "volumeMounts": [{"name": "configuration", "mountPath": "/etc/coredns", "readOnly": True}],
            }
        ],
        "volumes": [{"name": "configuration", "configMap": {"name": "coredns"}}],
    }
