"""The chart with cert-manager's own controllers: from nothing to the first request, and a renewal that agents which run do not notice."""

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.parts import chart
from tests.cluster.parts.chart import AGENTS, GATEWAYS, printed
from tests.cluster.parts.cluster import NodeCluster
from tests.cluster.parts.pods import aside
from tests.cluster.parts.upstream import ClusterUpstream
from tests.cluster.test_gateway_agents import CLIENTS, coder
from tests.real.parts import crds, gobuild
from tests.real.parts.missing import MissingPart
from tests.real.parts.process import Server, poll

OLD_TRUST = """
import json, ssl, urllib.request
trust = ssl.create_default_context(cadata=%r)
proxy = urllib.request.ProxyHandler({"https": "http://127.0.0.1:8081"})
opener = urllib.request.build_opener(proxy, urllib.request.HTTPSHandler(context=trust))
try:
    status = opener.open("https://broker.example:8443/", timeout=10).status
except urllib.error.HTTPError as refused:
    status = refused.code
print(json.dumps(status))
"""


@pytest.fixture
def cert_manager(cluster: NodeCluster) -> Iterator[None]:
    """Its kinds and controllers; the namespaces of the shipped files."""
    try:
        program = gobuild.find(gobuild.CERT_MANAGER) / "cert-manager"
    except MissingPart:
        pytest.skip("NOT RUN: `make cluster-test ARGS=--all` builds cert-manager")
    cluster.kubectl("apply", "--server-side", "-f", str(crds.obtain()))
    cluster.kubectl("wait", "--for=condition=established", "crd", "--all")
    controllers = Server("cert-manager", [program, cluster.kubeconfig], folder=cluster.folder)
    controllers.start(lambda: True)
    with chart.shipped_namespaces(cluster):
        yield
    controllers.kill()


@pytest.mark.usefixtures("cert_manager")
async def test_a_renewal_keeps_the_key_so_that_an_agent_with_the_old_certificate_works_on(
    cluster: NodeCluster, broker: ClusterUpstream, tmp_path: Path
):
    values = chart.values(AGENTS, robin="agent") | {"ca": {"mode": "certManager"}}
    await aside(chart.install, cluster, "robin-gateway", GATEWAYS, values)
    await aside(cluster.apply, await aside(chart.agents, tmp_path, coder()), namespace=AGENTS)
    await aside(cluster.wait_for, "pod", "coder", "Ready", namespace=AGENTS)
    assert (await printed(cluster, AGENTS, "coder", CLIENTS, container="agent"))["requests"] == 401, "of the broker, through the bridge"

    old_trust = (await aside(cluster.get, "configmap", "robin-trust", namespace=AGENTS))["data"]["ca.crt"]
    before = (await aside(cluster.get, "secret", "robin-gateway-ca-a", namespace=GATEWAYS))["data"]
    path = f"/apis/cert-manager.io/v1/namespaces/{GATEWAYS}/certificates/robin-gateway-ca-a"
    certificate = cluster.request("GET", path)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    asked = {
        "type": "Issuing",
        "status": "True",
        "reason": "ManuallyTriggered",
        "message": "as cmctl renew does",
        "lastTransitionTime": now,
    }
    certificate["status"]["conditions"].append(asked)
    cluster.request("PUT", f"{path}/status", certificate)
    await aside(
        poll,
        lambda: cluster.get("secret", "robin-gateway-ca-a", namespace=GATEWAYS)["data"]["tls.crt"] != before["tls.crt"],
        timeout_s=60.0,
        what="the renewed certificate",
        every_s=0.5,
    )
    after = (await aside(cluster.get, "secret", "robin-gateway-ca-a", namespace=GATEWAYS))["data"]
    assert after["tls.key"] == before["tls.key"]

    pods = [name for name in await aside(cluster.every, "pods", namespace=GATEWAYS) if name.startswith("robin-gateway-")]
    page = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9090/ca.crt', timeout=5).read().decode())"

    def is_used() -> bool:
        new = base64.b64decode(after["tls.crt"]).decode().strip()
        return all(new in cluster.execute(pod, "gateway", "/usr/bin/python3", "-c", page, namespace=GATEWAYS)[1] for pod in pods)

    await aside(poll, is_used, timeout_s=150.0, what="every replica to have the new certificate", every_s=2.0)
    assert await printed(cluster, AGENTS, "coder", OLD_TRUST % old_trust, container="agent") == 401, (
        "as an agent that read its roots before"
    )
    left = {name for name in await aside(cluster.every, "pods", namespace=GATEWAYS) if name.startswith("robin-gateway-")}
    assert left == set(pods), "without a restart"
