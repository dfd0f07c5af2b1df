"""SPIRE in the cluster: server and agent as pods, nodes attested by projected tokens, workloads by what the kubelet knows of them."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from deploy.image import oci
from tests.cluster.parts import images
from tests.cluster.parts.cluster import NodeCluster
from tests.cluster.parts.system import bound
from tests.real.parts import cache, gobuild

NAMESPACE = "spire"
PARTS = ("server", "agent")
TRUST_DOMAIN = "cluster.test"
CLUSTER = "test"
AGENT_ALIAS = f"spiffe://{TRUST_DOMAIN}/node"
SYNC = "1s"
IMAGE = "localhost/spire-{part}:1"
SOCKETS = "/run/spire/sockets"
SERVER_SOCKET = "/run/spire/server.sock"
SERVER_CONF = f"""
server {{
  bind_address = "0.0.0.0"
  bind_port = 8081
  socket_path = "{SERVER_SOCKET}"
  trust_domain = "{TRUST_DOMAIN}"
  data_dir = "/run/spire"
  log_level = "INFO"
  experimental {{ cache_reload_interval = "{SYNC}" }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3", connection_string = "/run/spire/datastore.sqlite3" }} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "k8s_psat" {{
    plugin_data {{ clusters = {{ "{CLUSTER}" = {{ service_account_allow_list = ["{NAMESPACE}:spire-agent"] }} }} }}
  }}
  Notifier "k8sbundle" {{ plugin_data {{ namespace = "{NAMESPACE}" }} }}
}}
"""
AGENT_CONF = f"""
agent {{
  data_dir = "/run/spire/data"
  log_level = "DEBUG"
  server_address = "spire-server"
  server_port = 8081
  socket_path = "{SOCKETS}/agent.sock"
  trust_bundle_path = "/run/spire/bundle/bundle.crt"
  trust_domain = "{TRUST_DOMAIN}"
  experimental {{ sync_interval = "{SYNC}" }}
}}
plugins {{
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "k8s_psat" {{ plugin_data {{ cluster = "{CLUSTER}", token_path = "/run/spire/token/token" }} }}
  WorkloadAttestor "k8s" {{ plugin_data {{ kubelet_ca_path = "/run/spire/kubelet-ca/ca.crt", node_name_env = "NODE_NAME" }} }}
}}
"""
SERVER_MAY = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["spire-bundle"], "verbs": ["get", "patch"]},
]
AGENT_MAY = [{"apiGroups": [""], "resources": ["nodes", "nodes/proxy", "pods"], "verbs": ["get"]}]


class Spire:
    """Made by `install`."""

    def __init__(self, cluster: NodeCluster) -> None:
        self._cluster = cluster
        self.folder = cluster.folder
        self.trust_domain = TRUST_DOMAIN
        self.ask_program = gobuild.find(gobuild.SPIFFE) / "spiffe-ask"  # go-spiffe, which judges its tokens

    def name_nodes(self) -> None:
        """Give every node of the cluster one name, the parent of all entries."""
        self._server("entry", "create", "-spiffeID", AGENT_ALIAS, "-node", "-selector", f"k8s_psat:cluster:{CLUSTER}")

    def entry(self, path: str, *selectors: str, lifetime_s: int = 60) -> str:
        """Register an identity for workloads with all of these selectors; its SPIFFE ID."""
        spiffe_id = f"spiffe://{TRUST_DOMAIN}/{path}"
        words = ["-parentID", AGENT_ALIAS, "-spiffeID", spiffe_id, "-jwtSVIDTTL", str(lifetime_s)]
        self._server("entry", "create", *words, *(word for one in selectors for word in ("-selector", one)))
        return spiffe_id

    def fetch_bundle(self) -> dict[str, Any]:
        """The keys that JWT-SVIDs verify with, as a JWKS."""
        found: dict[str, Any] = json.loads(self._server("bundle", "show", "-format", "spiffe"))
        return {
            "keys": [{name: value for name, value in key.items() if name != "use"} for key in found["keys"] if key["use"] == "jwt-svid"]
        }

    def restart_agent(self) -> None:
        """Delete the agent's pod, and wait until another one is ready."""
        (pod,) = [name for name in self._cluster.every("pods", namespace=NAMESPACE) if name.startswith("spire-agent")]
        self._cluster.delete("pod", pod, "--grace-period=0", "--force", namespace=NAMESPACE)
        self._cluster.rolled_out("daemonset/spire-agent", namespace=NAMESPACE)

    def _server(self, *words: str) -> str:
        at = next((number for number, word in enumerate(words) if word.startswith("-")), len(words))
        command = ("/spire-server", *words[:at], "-socketPath", SERVER_SOCKET, *words[at:])
        code, text = self._cluster.execute("spire-server", "server", *command, namespace=NAMESPACE)
        assert code == 0, text
        return text


def install(cluster: NodeCluster, robin: Path) -> Spire:
    """Server and agent, running and attested. `robin` is Robin's image, whose lowest layer has the C library that SPIRE needs."""
    for archive in _images(oci.read(robin)[0][0]):
        cluster.load(archive)
    cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    cluster.apply(_objects(cluster.ca_file.read_text()), namespace=NAMESPACE)
    cluster.wait_for("pod", "spire-server", "Ready", namespace=NAMESPACE)
    cluster.rolled_out("daemonset/spire-agent", namespace=NAMESPACE)
    spire = Spire(cluster)
    spire.name_nodes()
    return spire


def _images(base: oci.Layer) -> list[Path]:
    """An image for each of SPIRE's programs, on a layer with the C library."""
    programs = gobuild.find(gobuild.SPIRE)

    def build(folder: Path) -> None:
        for part in PARTS:
            with tempfile.TemporaryDirectory() as made:
                shutil.copy(programs / f"spire-{part}", made)
                layers, names = [base, oci.layer(Path(made))], [IMAGE.format(part=part)]
                oci.write(folder / f"{part}.tar", layers, config={"Entrypoint": [f"/spire-{part}"]}, names=names, created=images.EPOCH)

    folder = cache.obtain("spire-images", cache.digest([programs.name, base.digest]), build)
    return [folder / f"{part}.tar" for part in PARTS]


def _objects(kubelet_ca: str) -> list[dict[str, Any]]:
    server, agent = ({"kind": "ServiceAccount", "name": f"spire-{part}", "namespace": NAMESPACE} for part in PARTS)
    accounts = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": one["name"]}} for one in (server, agent)]
    data = {"spire-bundle": {}, "spire": {"server.conf": SERVER_CONF, "agent.conf": AGENT_CONF}, "kubelet-ca": {"ca.crt": kubelet_ca}}
    maps = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": value} for name, value in data.items()]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "spire-server"},
        "spec": {"selector": {"app": "spire-server"}, "ports": [{"port": 8081}]},
    }
    agents = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "spire-agent"},
        "spec": {
            "selector": {"matchLabels": {"app": "spire-agent"}},
            "template": {"metadata": {"labels": {"app": "spire-agent"}}, "spec": _agent_pod()},
        },
    }
    servers = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "spire-server", "labels": {"app": "spire-server"}},
        "spec": _server_pod(),
    }
    return [*accounts, *bound("spire-server", SERVER_MAY, server), *bound("spire-agent", AGENT_MAY, agent), *maps, service, servers, agents]


def _server_pod() -> dict[str, Any]:
    container = {
        "name": "server",
        "image": IMAGE.format(part="server"),
        "args": ["run", "-config", "/conf/server.conf"],
        "readinessProbe": {"exec": {"command": ["/spire-server", "healthcheck", "-socketPath", SERVER_SOCKET]}, "periodSeconds": 1},
        "volumeMounts": [{"name": "conf", "mountPath": "/conf"}, {"name": "state", "mountPath": "/run/spire"}],
    }
    volumes = [{"name": "conf", "configMap": {"name": "spire"}}, {"name": "state", "emptyDir": {}}]
    return {"serviceAccountName": "spire-server", "containers": [container], "volumes": volumes}


def _agent_pod() -> dict[str, Any]:
    token = {"serviceAccountToken": {"path": "token", "audience": "spire-server", "expirationSeconds": 7200}}
    container = {
        "name": "agent",
        "image": IMAGE.format(part="agent"),
        "args": ["run", "-config", "/conf/agent.conf"],
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}],
        "readinessProbe": {
            "exec": {"command": ["/spire-agent", "healthcheck", "-socketPath", f"{SOCKETS}/agent.sock"]},
            "periodSeconds": 1,
        },
        "volumeMounts": [
            {"name": "conf", "mountPath": "/conf"},
            {"name": "bundle", "mountPath": "/run/spire/bundle"},
            {"name": "token", "mountPath": "/run/spire/token"},
            {"name": "kubelet-ca", "mountPath": "/run/spire/kubelet-ca"},
            {"name": "state", "mountPath": "/run/spire/data"},
            {"name": "sockets", "mountPath": SOCKETS},
        ],
    }
    return {
        "serviceAccountName": "spire-agent",
        "hostPID": True,  # it looks at the process that calls
        "terminationGracePeriodSeconds": 5,
        "containers": [container],
        "volumes": [
            {"name": "conf", "configMap": {"name": "spire"}},
            {"name": "bundle", "configMap": {"name": "spire-bundle"}},
            {"name": "kubelet-ca", "configMap": {"name": "kubelet-ca"}},
            {"name": "token", "projected": {"sources": [token]}},
            {"name": "state", "emptyDir": {}},
            {"name": "sockets", "hostPath": {"path": SOCKETS, "type": "DirectoryOrCreate"}},
        ],
    }
