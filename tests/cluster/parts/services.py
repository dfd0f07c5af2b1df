"""The programs of the cluster with their arguments: a control plane, a node's agent and runtime, service proxy, DNS and network policy.

Paths are those inside the machine: /cluster is the folder of this run, /var/lib is in memory.
"""

import json
from typing import Any

NODE = "node1"
NODE_ADDRESS = "10.98.0.1"
PODS = "10.97.0.0/24"
SERVICES = "10.96.0.0/16"
API = f"https://{NODE_ADDRESS}:6443"
DNS_ADDRESS = "10.96.0.10"
ISSUER = "https://kubernetes.default.svc.cluster.local"
CONTAINERD_SOCKET = "/run/containerd.sock"
PAUSE_IMAGE = "localhost/pause:1"
# user -> groups in the API server's token file; each has its own kubeconfig, /cluster/NAME.kubeconfig
USERS = {
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
    "router": ("kube-router", ""),
}
API_NAMES = ("kubernetes", "localhost", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
API_ADDRESSES = ("127.0.0.1", NODE_ADDRESS, "10.96.0.1")

APISERVER = [
    *("kube-apiserver", "--etcd-servers=unix:///cluster/client:0"),
    *("--bind-address=0.0.0.0", f"--advertise-address={NODE_ADDRESS}", "--secure-port=6443"),
    *("--tls-cert-file=/cluster/apiserver.pem", "--tls-private-key-file=/cluster/apiserver.key", "--client-ca-file=/cluster/ca.pem"),
    *("--kubelet-client-certificate=/cluster/kubelet-client.pem", "--kubelet-client-key=/cluster/kubelet-client.key"),
    *("--kubelet-certificate-authority=/cluster/ca.pem", "--kubelet-preferred-address-types=InternalIP"),
    *(f"--service-account-issuer={ISSUER}", f"--service-account-jwks-uri={API}/openid/v1/jwks"),
    *("--service-account-key-file=/cluster/service-accounts.key", "--service-account-signing-key-file=/cluster/service-accounts.key"),
    *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--token-auth-file=/cluster/tokens.csv"),
    *("--allow-privileged=true", f"--service-cluster-ip-range={SERVICES}"),
]
CONTROLLER_MANAGER = [
    *("kube-controller-manager", "--kubeconfig=/cluster/controller-manager.kubeconfig", "--leader-elect=false", "--bind-address=127.0.0.1"),
    *("--service-account-private-key-file=/cluster/service-accounts.key", "--root-ca-file=/cluster/ca.pem"),
    *("--use-service-account-credentials=true", "--allocate-node-cidrs=false"),
]
SCHEDULER = ["kube-scheduler", "--kubeconfig=/cluster/scheduler.kubeconfig", "--leader-elect=false", "--bind-address=127.0.0.1"]
CONTAINERD = ["containerd", "-c", "/cluster/containerd.toml"]
KUBELET = [
    *("kubelet", "--config=/cluster/kubelet.json", "--kubeconfig=/cluster/kubelet.kubeconfig", f"--hostname-override={NODE}"),
    *(f"--node-ip={NODE_ADDRESS}", "--root-dir=/var/lib/kubelet", "--cert-dir=/var/lib/kubelet-pki"),
]
PROXY = [
    *("kube-proxy", "--kubeconfig=/cluster/proxy.kubeconfig", f"--hostname-override={NODE}", "--proxy-mode=nftables"),
    *(
        f"--cluster-cidr={PODS}",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    ),
]
ROUTER = [
    *("kube-router", "--kubeconfig=/cluster/router.kubeconfig", f"--hostname-override={NODE}", "--run-firewall=true", "--run-router=false"),
    *(
        "--run-service-proxy=false",
        "--run-loadbalancer=false",
        "--enable-cni=false",
        f"--service-cluster-ip-range={SERVICES}",
        "--health-port=0",
    ),
]


def kubelet_configuration() -> dict[str, Any]:
    """KubeletConfiguration, for a node in namespaces on control groups v1."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "enforceNodeAllocatable": [],
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "address": NODE_ADDRESS,
        "tlsCertFile": "/cluster/kubelet-server.pem",
        "tlsPrivateKeyFile": "/cluster/kubelet-server.key",
        "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": "/cluster/ca.pem"}, "webhook": {"enabled": True}},
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        "failSwapOn": False,
        "featureGates": {"KubeletInUserNamespace": True},  # goes on without the sysctls and devices that the namespaces lack
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
        "imageGCHighThresholdPercent": 100,
        "syncFrequency": "10s",
        "volumePluginDir": "/var/lib/kubelet-plugins",
    }


def containerd_configuration() -> str:
    """Its config.toml: state in memory, images only from files, runc with the cgroupfs driver."""
    return f"""\
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins.'io.containerd.internal.v1.opt']
  path = "/var/lib/containerd-opt"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{PAUSE_IMAGE}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/opt/cni"]
    conf_dir = "/cluster/cni"
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = "/usr/sbin/runc"
        SystemdCgroup = false
"""


def network_configuration() -> str:
    """The CNI network: one bridge, addresses by host-local."""
    ipam = {"type": "host-local", "dataDir": "/var/lib/ipam", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True, "ipam": ipam}
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]})
