"""Agents as the shipped kustomization makes them of pods: a relay, a probe that waits for the network, environment, nothing secret."""

import copy
import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.parts import chart, images
from tests.cluster.parts.chart import AGENTS, GATEWAYS, printed
from tests.cluster.parts.cluster import NodeCluster
from tests.cluster.parts.pods import APP_IMAGE, WAIT, aside, states, told
from tests.cluster.parts.services import DNS_ADDRESS, NODE_ADDRESS
from tests.cluster.parts.upstream import ClusterUpstream
from tests.real.parts.process import poll

LOCKED = ("agent", "components/lockdown")
LOOK = ("/usr/bin/python3", "-m", "robin.cli.main", "wait", "egress", "--hold", "1", "--timeout", "5s")
CLIENTS = """
import json, urllib.request, urllib.error
import httpx, requests
def of_urllib(url):
    try:
        return urllib.request.urlopen(url, timeout=10).status
    except urllib.error.HTTPError as refused:
        return refused.code
def refused(call):
    try:
        return call()
    except Exception as failure:
        return "403" in str(failure)
url = "https://broker.example:8443/"
found = {"requests": requests.get(url, timeout=10).status_code, "httpx": httpx.get(url, timeout=10).status_code, "urllib": of_urllib(url)}
found["other"] = refused(lambda: requests.get("https://other.example/", timeout=10).status_code)
print(json.dumps(found))
"""
HELD = """
import json, os
tops = ("/var/run/secrets", "/run/secrets", "/etc/robin")
found = [os.path.join(folder, name) for top in tops for folder, _, names in os.walk(top) for name in names]
print(json.dumps(sorted(name for name in found if ".." not in name)))
"""


FLOWS = """
import json, socket
def tcp(place):
    try:
        socket.create_connection(place, timeout=2).close()
    except OSError:
        return False
    return True
def udp(place):
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", place)
    except OSError:
        return False
    return True
print(json.dumps({name: {"tcp": tcp, "udp": udp}[name.partition(" ")[0]](tuple(place)) for name, place in json.loads(%r).items()}))
"""


def certificates(pem: str) -> set[bytes]:
    return {
        ssl.PEM_cert_to_DER_cert(one) for one in re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", pem, re.DOTALL)
    }


def coder() -> dict[str, Any]:
    """A pod as its owner writes it."""
    container = {"name": "agent", "image": APP_IMAGE, "command": ["/usr/bin/python3", "-c", WAIT]}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 2}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "coder", "labels": {"robin": "agent"}}, "spec": spec}


@pytest.fixture
def shipped(cluster: NodeCluster) -> Iterator[None]:
    """The namespaces of the shipped files, with CAs."""
    with chart.shipped_namespaces(cluster):
        chart.write_authorities(cluster, GATEWAYS, *chart.SLOTS)
        yield


@pytest.mark.usefixtures("shipped")
async def test_an_agent_starts_when_the_network_is_closed_and_holds_nothing_secret(
    cluster: NodeCluster, broker: ClusterUpstream, tmp_path: Path
):
    agents = await aside(chart.agents, tmp_path, coder())
    (made,) = [one for one in agents if one["kind"] == "Pod"]
    (probe,) = [one for one in made["spec"]["initContainers"] if one["name"] == "probe"]
    places = [word for word in probe["args"] if word.startswith("--")]

    def look() -> int:
        """The probe's exit code, asked from the agent's pod at once."""
        return cluster.execute("coder", "relay", *LOOK, *places, namespace=AGENTS)[0]

    def is_held_back() -> bool:
        found = states(cluster.get("pod", "coder", namespace=AGENTS))
        return "running" in found["relay"]["state"] and "waiting" in found["agent"]["state"]

    def scaled(name: str, count: int) -> None:
        cluster.kubectl("--namespace", GATEWAYS, "scale", f"deployment/{name}", f"--replicas={count}")
        cluster.rolled_out(f"deployment/{name}", namespace=GATEWAYS)

    await aside(cluster.router.kill)  # a network that enforces nothing yet: what it has no rules for is open
    try:
        await aside(chart.install, cluster, "robin-gateway", GATEWAYS, chart.values(AGENTS, robin="agent"))
        await aside(cluster.apply, agents, namespace=AGENTS)
        await aside(poll, is_held_back, timeout_s=60.0, what="the relay to run", every_s=0.5)
        assert await aside(look) == 4
        assert await aside(is_held_back), "the agent does not start in an open network"
    finally:
        await aside(cluster.router.start, lambda: True)
    await aside(cluster.wait_for, "pod", "coder", "Ready", namespace=AGENTS)
    assert await aside(look) == 0

    status = await printed(cluster, AGENTS, "coder", CLIENTS, container="agent")
    assert status == {"requests": 401, "httpx": 401, "urllib": 401, "other": True}, (
        "401 is the broker's own, through relay, gateway and bridge"
    )
    assert {one.target for one in broker.judgements} == {"/"}
    assert await printed(cluster, AGENTS, "coder", HELD, container="agent") == ["/etc/robin/trust/bundle.crt", "/etc/robin/trust/ca.crt"]
    assert await aside(cluster.every, "secrets", namespace=AGENTS) == {}
    relayed = [
        line for line in told(await aside(cluster.logs, "coder", "relay", namespace=AGENTS)) if line.get("event") == "gateway.decision"
    ]
    assert {line["host"] for line in relayed} == {"broker.example", "other.example"}

    before = (await aside(cluster.get, "configmap", "robin-trust", namespace=AGENTS))["data"]["ca.crt"]
    renewed = (await aside(chart.write_authorities, cluster, GATEWAYS, "b"))["b"]
    await aside(cluster.kubectl, "--namespace", GATEWAYS, "create", "job", "again", "--from=cronjob/robin-trust")
    await aside(cluster.wait_for, "job", "again", "Complete", namespace=GATEWAYS)
    after = (await aside(cluster.get, "configmap", "robin-trust", namespace=AGENTS))["data"]
    assert len(certificates(after["ca.crt"])) == 3, "both slots, and what slot b had before: agents may still meet it"
    assert certificates(before + renewed) == certificates(after["ca.crt"])
    assert certificates(after["ca.crt"]) < certificates(after["bundle.crt"]), "and the public roots"
    assert "PRIVATE" not in json.dumps(after)

    await aside(scaled, "robin-canary", 0)
    await aside(poll, lambda: look() == 5, timeout_s=60.0, what="the probe to see that the canary is down", every_s=1.0)
    await aside(scaled, "robin-canary", 1)
    await aside(poll, lambda: look() == 0, timeout_s=60.0, what="the canary to be back", every_s=1.0)
    await aside(cluster.delete, "networkpolicy", "robin-agent-egress", namespace=AGENTS)
    await aside(poll, lambda: look() == 4, timeout_s=60.0, what="the probe to see that the agent's own policy is gone", every_s=1.0)
    await aside(scaled, "robin-gateway", 0)
    await aside(poll, lambda: look() == 3, timeout_s=60.0, what="the probe to see that the gateway is gone", every_s=1.0)
    assert "eyJ" not in json.dumps(relayed)


WITHOUT_DNS = {"dns": {"mode": "none"}, "service": {"clusterIP": "10.96.0.80"}}


@pytest.mark.parametrize("without_dns", [{}, WITHOUT_DNS], ids=["dns", "no-dns"])
@pytest.mark.usefixtures("shipped")
async def test_a_lockdown_holds_where_no_policy_is_enforced(
    cluster: NodeCluster, broker: ClusterUpstream, tmp_path: Path, without_dns: dict[str, Any]
):
    await aside(cluster.load, await aside(images.with_nft, images.robin(), tmp_path / "nft.tar"))
    values = chart.values(AGENTS, robin="agent") | {"networkPolicy": {"enabled": False}} | without_dns
    await aside(chart.install, cluster, "robin-gateway", GATEWAYS, values)
    components = (*LOCKED, "components/dns-none") if without_dns else LOCKED
    made = [one for one in await aside(chart.agents, tmp_path, coder(), components=components) if one["kind"] == "Pod"]
    weak = copy.deepcopy(made)
    weak[0]["metadata"]["name"] = "weak"
    (lockdown,) = [one for one in weak[0]["spec"]["initContainers"] if one["name"] == "lockdown"]
    lockdown["securityContext"]["capabilities"] = {"drop": ["ALL"]}
    await aside(cluster.apply, [*made, *weak], namespace=AGENTS)  # without the NetworkPolicy
    await aside(cluster.wait_for, "pod", "coder", "Ready", namespace=AGENTS)
    places = {
        "tcp broker": ("broker.example", 8443),
        "tcp api": ("10.96.0.1", 443),
        "tcp node": (NODE_ADDRESS, 6443),
        "udp quic": (NODE_ADDRESS, 443),
        "udp foreign dns": (NODE_ADDRESS, 53),
        "tcp gateway": (f"robin-gateway.{GATEWAYS}.svc.cluster.local", 8081),
        "udp dns": (DNS_ADDRESS, 53),
    }
    open_ = {"tcp gateway"} if without_dns else {"tcp gateway", "udp dns"}
    found = await printed(cluster, AGENTS, "coder", FLOWS % json.dumps(places), container="agent")
    assert found == {name: name in open_ for name in places}
    assert (await printed(cluster, AGENTS, "coder", CLIENTS, container="agent"))["requests"] == 401

    def failed() -> bool:
        last = states(cluster.get("pod", "weak", namespace=AGENTS))["lockdown"]
        return any(last[state].get("terminated", {}).get("exitCode") == 1 for state in ("state", "lastState"))

    await aside(poll, failed, timeout_s=60.0, what="a lockdown without NET_ADMIN to fail", every_s=0.5)
    assert "waiting" in states(await aside(cluster.get, "pod", "weak", namespace=AGENTS))["agent"]["state"]
