"""The gateway's chart in the cluster: installed by helm with CAs of the test's own, and agents that know the gateway by its Service."""

import contextlib
import datetime
import json
import os
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.parts.cluster import NodeCluster
from tests.cluster.parts.pods import aside, idle_pod
from tests.deploy.renders import KUSTOMIZE
from tests.real.parts.kube import KubeRefused
from tests.real.parts.renders import helm_command, kustomize

from robin.planes.gateway.new_authority import make_authority

AGENTS, GATEWAYS = "agents", "robin-egress"  # as shipped
SLOTS = ("a", "b")
TOKEN = "/var/run/secrets/tokens/token"
TRUST = "/etc/robin/trust"
PRIVATE = "10.98.0.0/24"  # where tests have their upstreams


def install(cluster: NodeCluster, release: str, namespace: str, values: dict[str, Any], *, word: str = "install") -> None:
    """`helm install`, or `upgrade` as `word`, and wait for its pods."""
    _helm(cluster, *helm_command(word, release, namespace), values=values)
    for deployment in cluster.every("deployments", namespace=namespace):
        cluster.rolled_out(f"deployment/{deployment}", namespace=namespace)


@contextlib.contextmanager
def shipped_namespaces(cluster: NodeCluster) -> Iterator[None]:
    """The namespaces of the shipped files. They stay, emptied, since a namespace waits long for pods with a long grace period."""
    for name in (AGENTS, GATEWAYS):
        with contextlib.suppress(KubeRefused):  # there already
            cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    cluster.has_account("default", namespace=AGENTS)
    yield
    cluster.delete("pods,configmaps,networkpolicies", "--all", namespace=AGENTS)
    _helm(cluster, *helm_command("uninstall", "robin-gateway", GATEWAYS)[:3], f"--namespace={GATEWAYS}", "--wait", "--timeout=100s")
    cluster.delete("jobs,pods,secrets", "--all", namespace=GATEWAYS)


def values(agents: str, **labels: str) -> dict[str, Any]:
    """For agents with these labels in the namespace `agents`; the CAs are written by `write_authorities`."""
    rule = {"name": "broker", "hosts": ["broker.example"], "ports": [8443], "methods": ["GET"], "private": [PRIVATE]}
    return {
        "agents": [{"namespace": agents, "podLabels": labels}],
        "ca": {"mode": "existingSecrets"},
        "networkPolicy": {"privateCidrs": [PRIVATE]},
        "config": {"policy": {"rules": [rule]}},
    }


def _helm(cluster: NodeCluster, *command: str | Path, values: dict[str, Any] | None = None) -> None:
    environment = {"KUBECONFIG": str(cluster.kubeconfig), "HOME": str(cluster.folder)}
    asked = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert asked.returncode == 0, asked.stderr


def write_authorities(cluster: NodeCluster, namespace: str, *slots: str, suffix: str = "") -> dict[str, str]:
    """What cert-manager does: a CA for each slot, as the gateway's Secrets. Their certificates, by slot."""
    now, certificates = datetime.datetime.now(datetime.UTC), {}
    for slot in slots:
        certificate, key = make_authority(f"robin-bridge-ca-test-{slot}", days=30, permit_dns=[], now=now)
        certificates[slot] = certificate.decode()
        data = {"tls.crt": b64encode(certificate).decode(), "tls.key": b64encode(key).decode()}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"robin-gateway{suffix}-ca-{slot}"}, "data": data}
        cluster.apply(secret, namespace=namespace)
    return certificates


def write_trust(cluster: NodeCluster, namespace: str, agents: str, *, suffix: str = "") -> None:
    """The CAs, and their certificates for the agents: by hand, for `trust.mode: none`."""
    certificates = "".join(write_authorities(cluster, namespace, *SLOTS, suffix=suffix).values())
    trust = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"robin-trust{suffix}"}, "data": {"ca.crt": certificates}}
    cluster.apply(trust, namespace=agents)


def agent(name: str, labels: dict[str, str], *, suffix: str = "", **more: Any) -> dict[str, Any]:
    """A pod with a token for the gateway and the CAs, which speaks to it without a relay."""
    pod = idle_pod(name, labels, **more)
    token = {"serviceAccountToken": {"path": "token", "audience": "robin-gateway", "expirationSeconds": 600}}
    pod["spec"]["volumes"] = [
        {"name": "tokens", "projected": {"sources": [token]}},
        {"name": "trust", "configMap": {"name": f"robin-trust{suffix}"}},
    ]
    pod["spec"]["containers"][0]["volumeMounts"] = [
        {"name": "tokens", "mountPath": TOKEN.rpartition("/")[0], "readOnly": True},
        {"name": "trust", "mountPath": TRUST, "readOnly": True},
    ]
    return pod


def agents(folder: Path, *pods: dict[str, Any], components: tuple[str, ...] = ("agent",)) -> list[dict[str, Any]]:
    """What the shipped kustomizations make of pods in the namespace `agents`; `folder` is for the overlay."""
    (folder / "pods.yaml").write_text(yaml.safe_dump_all(pods))
    used = [os.path.relpath(KUSTOMIZE / one, folder.resolve()) for one in components]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({"namespace": "agents", "resources": ["pods.yaml"], "components": used}))
    return list(kustomize(folder).values())


async def printed(cluster: NodeCluster, namespace: str, pod: str, program: str, *, container: str = "app") -> Any:
    """What a program that prints one JSON value found in the pod."""
    code, text = await aside(cluster.execute, pod, container, "/usr/bin/python3", "-c", program, namespace=namespace)
    assert code == 0, text
    return json.loads(text)
