"""`robin kube` in a pod with the two accounts, and an agent with kubectl and no credential of the cluster in another."""

import base64
import json
from typing import Any

import yaml
from tests.cluster.parts.cluster import NodeCluster
from tests.cluster.parts.pods import MANIFESTS, aside, idle_pod, robin_pod
from tests.cluster.parts.services import NODE

from robin.testing.certificates import CertificateAuthority

MINTER, AGENT = "robin-minter", "robin-agent"
RBAC = "rbac.authorization.k8s.io"
ROBIN_YAML = """
version: 1
kube:
  listen: 0.0.0.0:6444
  tls: {{cert_file: /etc/robin-tls/tls.crt, key_file: /etc/robin-tls/tls.key}}
  state_dir: /var/lib/robin/kube  # a folder of its own: an emptyDir itself can be written by everyone in the pod
  credentials:
    jit: {{service_account: {agent}, namespace: {namespace}}}
  policy:
    version: 1
    agents:
      tester:
        rules:
          - {{name: discover, namespaces: ["*"], nonresource: ["*"], tiers: {{0: allow}}}}
          - {{name: look, namespaces: [{work}], resources: ["*"], tiers: {{0: allow}}}}
          - {{name: logs, namespaces: [{work}], resources: ["pods/log"], tiers: {{2: allow}}}}
          - {{name: run, namespaces: [{work}], resources: ["pods/exec"], tiers: {{4: allow}}}}
"""
SECRETS = "import os; print(os.path.exists('/var/run/secrets'))"
KUBECTL = ("/opt/kubernetes/kubectl", "--kubeconfig=/var/run/agent/kubeconfig", "--cache-dir=/tmp/kubectl")


def rights(namespace: str, work: str) -> list[dict[str, Any]]:
    """Robin may mint for one account and nothing else; that account may look at `work`, read logs and run programs there."""
    accounts = [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": namespace},
            "automountServiceAccountToken": False,
        }
        for name in (MINTER, AGENT)
    ]
    mints = [{"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"], "resourceNames": [AGENT]}]
    works = [
        {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]},
    ]
    return [*accounts, *_role(MINTER, namespace, mints, MINTER, namespace), *_role(AGENT, work, works, AGENT, namespace)]


def _role(name: str, namespace: str, rules: list[dict[str, Any]], account: str, of: str) -> list[dict[str, Any]]:
    metadata = {"name": name, "namespace": namespace}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": of}
    role = {"apiGroup": RBAC, "kind": "Role", "name": name}
    return [
        {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {"apiVersion": f"{RBAC}/v1", "kind": "RoleBinding", "metadata": metadata, "roleRef": role, "subjects": [subject]},
    ]


async def test_an_agent_without_a_credential_works_through_robin_on_a_real_node(
    cluster: NodeCluster, namespace: str, authority: CertificateAuthority
):
    work = f"{namespace[:50]}-work"
    await aside(cluster.request, "POST", "/api/v1/namespaces", {"metadata": {"name": work}})
    await aside(cluster.has_account, "default", namespace=work)
    text = ROBIN_YAML.format(agent=AGENT, namespace=namespace, work=work)
    host = f"robin-kube.{namespace}.svc.cluster.local"
    leaf = authority.issue(host, ends_in_s=86400.0)
    pair = {"tls.crt": leaf.certificate_file.read_text(), "tls.key": leaf.key_file.read_text()}
    tls = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tls"}, "type": "kubernetes.io/tls", "stringData": pair}
    robin = robin_pod(
        "robin-kube",
        {"robin": "kube"},
        "kube",
        configuration="kube",
        port=6444,
        serviceAccountName=MINTER,
        automountServiceAccountToken=True,
        volumes=[{"name": "state", "emptyDir": {}}, {"name": "tls", "secret": {"secretName": "tls", "defaultMode": 0o440}}],
        mounts=[{"name": "state", "mountPath": "/var/lib/robin"}, {"name": "tls", "mountPath": "/etc/robin-tls", "readOnly": True}],
    )
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "robin-kube"},
        "spec": {"selector": {"robin": "kube"}, "ports": [{"port": 6444}]},
    }
    configuration = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube"}, "data": {"robin.yaml": text}}
    await aside(cluster.apply, rights(namespace, work))
    await aside(cluster.apply, [configuration, tls, service, robin], namespace=namespace)
    target = idle_pod(
        "target", {}, command=("/usr/bin/python3", "-c", "print('from the target', flush=True); import time; time.sleep(600)")
    )
    await aside(cluster.apply, target, namespace=work)
    await aside(cluster.wait_for, "pod", "robin-kube", "Ready", namespace=namespace, timeout_s=30)

    words = (
        "kubeconfig",
        "--agent",
        "tester",
        "--namespace",
        work,
        "--server",
        f"https://{host}:6444",
        "--state-dir",
        "/var/lib/robin/kube",
    )
    program = ("/usr/bin/python3", "-m", "robin.cli.main")
    code, kubeconfig = await aside(cluster.execute, "robin-kube", "robin", *program, *words, namespace=namespace)
    assert code == 0, kubeconfig
    document = yaml.safe_load(kubeconfig)
    document["clusters"][0]["cluster"]["certificate-authority-data"] = base64.b64encode(authority.ca_pem).decode()  # that of tls.cert_file
    kubeconfig = json.dumps(document)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "agent"}, "stringData": {"kubeconfig": kubeconfig}}
    agent = idle_pod("agent", {"robin": "agent"}, volumes=[{"name": "kubectl", "hostPath": {"path": "/opt/kubernetes"}}])
    agent["spec"]["volumes"].append({"name": "agent", "secret": {"secretName": "agent"}})
    agent["spec"]["containers"][0]["volumeMounts"].append({"name": "agent", "mountPath": "/var/run/agent"})
    await aside(cluster.apply, [secret, agent], namespace=namespace)
    await aside(cluster.wait_for, "pod", "agent", "Ready", namespace=namespace)
    await aside(cluster.wait_for, "pod", "target", "Ready", namespace=work)

    async def kubectl(*arguments: str) -> tuple[int, str]:
        return await aside(cluster.execute, "agent", "app", *KUBECTL, *arguments, namespace=namespace)

    assert await kubectl("get", "pods", "-o", "name") == (0, "pod/target\n")
    assert await kubectl("logs", "target") == (0, "from the target\n")
    assert await kubectl("exec", "target", "--", "/usr/bin/python3", "-c", "print(6 * 7)") == (0, "42\n")
    code, text = await kubectl("delete", "pod", "target")
    assert (code, "robin: tier 3" in text) == (1, True), text
    code, text = await kubectl("--namespace", namespace, "get", "secrets")
    assert (code, "robin: " in text) == (1, True), text
    code, text = await kubectl("--server", "https://10.96.0.1", "get", "pods")
    assert code == 1, "what the agent holds is nothing to the cluster itself"
    code, text = await aside(cluster.execute, "agent", "app", "/usr/bin/python3", "-c", SECRETS, namespace=namespace)
    assert (code, text.strip()) == (0, "False")
    await aside(cluster.request, "DELETE", f"/api/v1/namespaces/{work}")


def storage(name: str, path: str) -> dict[str, Any]:
    """A volume of the node for the one claim that the shipped manifest makes."""
    here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}]}
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "local": {"path": path},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [here]}},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}


async def test_the_shipped_manifests_are_ready_on_a_real_node(cluster: NodeCluster, authority: CertificateAuthority):
    """With what a site brings: a volume, a certificate for the Service's name, and the CA of the agents."""
    leaf = authority.issue("robin-kube.robin-system.svc", ends_in_s=86400.0)
    pair = {"tls.crt": leaf.certificate_file.read_text(), "tls.key": leaf.key_file.read_text()}
    agents = {"ca.crt": authority.ca_pem.decode()}
    await aside(cluster.node.run, "mkdir", "-p", "/var/lib/robin-kube")
    await aside(cluster.apply, storage("robin-kube", "/var/lib/robin-kube"))
    for name in ("robin-system", "payments"):
        await aside(cluster.apply, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    brought = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "robin-kube-tls"}, "type": "kubernetes.io/tls", "stringData": pair},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "robin-kube-agents"}, "data": agents},
    ]
    await aside(cluster.apply, brought, namespace="robin-system")
    for name in ("agent.yaml", "plane.yaml"):
        await aside(cluster.apply, MANIFESTS / "kube" / name)
    await aside(cluster.rolled_out, "deployment/robin-kube", namespace="robin-system", timeout_s=60.0)
    (pod,) = (await aside(cluster.every, "pods", namespace="robin-system")).values()
    assert [one["restartCount"] for one in pod["status"]["containerStatuses"]] == [0]
    for name in ("robin-system", "payments"):
        await aside(cluster.request, "DELETE", f"/api/v1/namespaces/{name}")
