"""The gateway's chart: agents are known by their projected tokens, the network keeps them in, and replicas are replaced under load."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster.parts import chart
from tests.cluster.parts.chart import TOKEN, TRUST, printed
from tests.cluster.parts.cluster import NodeCluster
from tests.cluster.parts.pods import aside, idle_pod, shipped, told
from tests.cluster.parts.services import NODE_ADDRESS
from tests.cluster.parts.upstream import ClusterUpstream
from tests.real.parts.process import poll

from robin.testing.waiting import eventually

BY_HAND = {"trust": {"mode": "none"}}
REACH = """
import json, socket
def reach(host, port):
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True
print(json.dumps({name: reach(host, port) for name, (host, port) in json.loads(%r).items()}))
"""
CONNECT = f"""
import json, socket, ssl
def connect(gateway, authority, token=open({TOKEN!r}).read()):
    trust = ssl.create_default_context(cafile="{TRUST}/ca.crt")
    tls = trust.wrap_socket(socket.create_connection((gateway, 8081), timeout=10), server_hostname=gateway)
    known = f"Proxy-Authorization: Bearer {{token}}\\r\\n" if token else ""
    tls.sendall(f"CONNECT {{authority}} HTTP/1.1\\r\\nHost: {{authority}}\\r\\n{{known}}\\r\\n".encode())
    return tls, tls.recv(65536).split()[1].decode()
"""
THROUGH = """
trust = ssl.create_default_context(cafile=%r)
def inside(tls, authority):
    host = authority.partition(":")[0]
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inner = trust.wrap_bio(incoming, outgoing, server_hostname=host)
    def drive(step):
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                done = None
            tls.sendall(outgoing.read())
            if done is not None:
                return done
            incoming.write(tls.recv(65536))
    drive(lambda: inner.do_handshake() or True)
    drive(lambda: inner.write(f"GET / HTTP/1.1\\r\\nHost: {authority}\\r\\n\\r\\n".encode()))
    status = drive(lambda: inner.read(65536)).split()[1].decode()
    return [status, dict(field for part in inner.getpeercert()["issuer"] for field in part)["commonName"]]
found = {}
for name, authority, token in json.loads(%r):
    tls, status = connect(%r, authority, **({} if token is None else {"token": token}))
    found[name] = [status, *(inside(tls, authority) if status == "200" else [])]
print(json.dumps(found))
"""
LOAD = """
import signal, threading, time
counts = {}
def one():
    try:
        tls, status = connect(%r, "broker.example:8443")
        tls.close()
    except OSError as failure:
        status = repr(failure)
    counts[status] = counts.get(status, 0) + 1
signal.signal(signal.SIGUSR1, lambda *_: print(json.dumps(counts), flush=True))
signal.signal(signal.SIGTERM, signal.SIG_DFL)
while True:
    threading.Thread(target=one).start()
    time.sleep(0.05)
"""

ASK_ROUTES = f"""
import json, ssl, urllib.error, urllib.request
trust = ssl.create_default_context(cafile="{TRUST}/ca.crt")
asked = urllib.request.Request("https://%s:8080/v1/models", headers={{"Authorization": "Bearer " + open({TOKEN!r}).read()}})
try:
    status = urllib.request.urlopen(asked, context=trust, timeout=10).status
except urllib.error.HTTPError as refused:
    status = refused.code
print(json.dumps(status))
"""
PROFILE = """
id: broker
display_name: The broker, which takes a token of the gateway's own account
credentials: [{name: token}]
endpoints: [{host: broker.example, port: 8443, allowed_ips: [%s]}]
"""


@pytest.fixture
def gateways(cluster: NodeCluster) -> Iterator[str]:
    """A namespace for gateways."""
    name = f"robin-egress-{secrets.token_hex(3)}"
    cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    cluster.request("DELETE", f"/api/v1/namespaces/{name}")


def host_of(gateways: str, suffix: str = "") -> str:
    return f"robin-gateway{suffix}.{gateways}.svc.cluster.local"


async def until(cluster: NodeCluster, namespace: str, pod: str, places: dict[str, Any], name: str, *, open_: bool) -> None:
    """Wait until the network lets the pod reach a place, or not."""

    def settled() -> bool:
        code, text = cluster.execute(pod, "app", "/usr/bin/python3", "-c", REACH % json.dumps(places), namespace=namespace)
        return code == 0 and json.loads(text)[name] is open_

    await aside(poll, settled, timeout_s=60.0, what=f"{name} to be {'open' if open_ else 'closed'} to {pod}", every_s=0.5)


async def test_an_agent_reaches_what_rules_allow_by_its_token_and_nothing_else(
    cluster: NodeCluster, namespace: str, gateways: str, broker: ClusterUpstream
):
    await aside(chart.write_trust, cluster, gateways, namespace)
    pods = [
        chart.agent("agent", {"robin": "agent"}),
        chart.agent("stranger", {"robin": "stranger"}),
        idle_pod("other", {"robin": "other"}, command=("/usr/bin/python3", "-m", "http.server", "8000")),
    ]
    await aside(cluster.apply, pods, namespace=namespace)
    for name in ("agent", "stranger", "other"):
        await aside(cluster.wait_for, "pod", name, "Ready", namespace=namespace)
    other = (await aside(cluster.get, "pod", "other", namespace=namespace))["status"]["podIP"]
    outside: dict[str, Any] = {
        "broker": ("broker.example", 8443),
        "api": ("10.96.0.1", 443),
        "pod": (other, 8000),
        "node": (NODE_ADDRESS, 6443),
    }
    await until(cluster, namespace, "agent", outside, "pod", open_=True)
    assert await printed(cluster, namespace, "agent", REACH % json.dumps(outside)) == dict.fromkeys(outside, True), "before the chart"

    await aside(chart.install, cluster, "robin-gateway", gateways, {**chart.values(namespace, robin="agent"), **BY_HAND})
    made = (await aside(cluster.every, "pods", namespace=gateways)).values()
    address = {one["metadata"]["labels"]["app.kubernetes.io/component"]: one["status"]["podIP"] for one in made}
    gateway = host_of(gateways)
    places = {**outside, "canary": (address["canary"], 9099), "probes": (address["gateway"], 9090), "gateway": (gateway, 8081)}
    await until(cluster, namespace, "agent", places, "pod", open_=False)
    closed = dict.fromkeys(places, False)
    assert await printed(cluster, namespace, "agent", REACH % json.dumps(places)) == {**closed, "gateway": True}
    stranger = await printed(cluster, namespace, "stranger", REACH % json.dumps(places))
    assert stranger == {**dict.fromkeys(places, True), "gateway": False, "probes": False}

    foreign = await aside(cluster.mint, "default", audiences=("broker.example",), namespace=namespace)
    questions = [
        ("broker", "broker.example:8443", None),
        ("nobody", "broker.example:8443", ""),
        ("foreign", "broker.example:8443", foreign.token),
        ("api", "10.96.0.1:443", None),
        ("node", f"{NODE_ADDRESS}:6443", None),
        ("itself", f"{gateway}:8081", None),
        ("metadata", "169.254.169.254:80", None),
    ]
    through = CONNECT + THROUGH % (f"{TRUST}/ca.crt", json.dumps(questions), gateway)
    assert await printed(cluster, namespace, "agent", through) == {
        "broker": ["200", "401", "robin-bridge-ca-test-a"],  # the broker's own 401, in a bridge: this gateway has no credential for it
        "nobody": ["407"],
        "foreign": ["407"],
        **{name: ["403"] for name in ("api", "node", "itself", "metadata")},
    }
    assert [one.target for one in broker.judgements] == ["/"]

    records = []
    for name, one in (await aside(cluster.every, "pods", namespace=gateways)).items():
        if one["metadata"]["labels"]["app.kubernetes.io/component"] == "gateway":
            log = await aside(cluster.logs, name, "gateway", namespace=gateways)
            assert "eyJ" not in log, "no token"
            records += [line for line in told(log) if line.get("event") == "gateway.decision" and line.get("verdict") == "permit"]
    assert {(one["caller"]["id"], one["host"]) for one in records} == {(f"k8s:{namespace}/default", "broker.example")}

    await aside(cluster.delete, "networkpolicy", "robin-agent-egress", namespace=namespace)
    await until(cluster, namespace, "agent", places, "canary", open_=True)
    assert not (await printed(cluster, namespace, "stranger", REACH % json.dumps(places)))["gateway"], "the gateway's own policies hold on"


async def test_replicas_are_replaced_under_load_without_a_refused_connect(
    cluster: NodeCluster, namespace: str, gateways: str, broker: ClusterUpstream
):
    await aside(chart.write_trust, cluster, gateways, namespace)
    await aside(chart.install, cluster, "robin-gateway", gateways, {**chart.values(namespace, robin="agent"), **BY_HAND})
    load = CONNECT + LOAD % host_of(gateways)
    await aside(cluster.apply, chart.agent("agent", {"robin": "agent"}, command=("/usr/bin/python3", "-c", load)), namespace=namespace)
    await aside(cluster.wait_for, "pod", "agent", "Ready", namespace=namespace)

    async def counted() -> dict[str, int]:
        await aside(cluster.execute, "agent", "app", "/usr/bin/python3", "-c", "import os; os.kill(1, 10)", namespace=namespace)
        lines = told(await aside(cluster.logs, "agent", "app", namespace=namespace))
        return lines[-1] if lines else {}

    async def more() -> dict[str, int]:
        """Counts after fifty more CONNECTs were served."""
        before = (await counted()).get("200", 0)

        async def enough() -> dict[str, int]:
            found = await counted()
            return found if found.get("200", 0) >= before + 50 else {}

        return await eventually(enough, timeout_s=60.0, every_s=0.5, what="fifty more CONNECTs")

    before = await more()
    old = set(await aside(cluster.every, "pods", namespace=gateways))
    await aside(cluster.kubectl, "--namespace", gateways, "rollout", "restart", "deployment/robin-gateway")
    await aside(cluster.rolled_out, "deployment/robin-gateway", namespace=gateways)
    gone = {name for name in old if name.startswith("robin-gateway")}
    await aside(
        poll,
        lambda: not gone & cluster.every("pods", namespace=gateways).keys(),
        timeout_s=60.0,
        what="the old replicas to end",
        every_s=0.5,
    )
    after = await more()
    assert {name: count - before.get(name, 0) for name, count in after.items() if name != "200"} == dict.fromkeys(after.keys() - {"200"}, 0)


def routes_of(namespace: str) -> dict[str, Any]:
    """Values for a route to the broker, with the gateway's own token, for the pods `app: models`."""
    token = "/var/run/secrets/robin/tokens/broker"
    callers = [f"k8s:{namespace}/default"]
    route = {"name": "models", "upstream": "https://broker.example:8443", "allow": [{"callers": callers, "methods": ["GET"]}]}
    return {
        "reverse": {"callers": [{"namespace": namespace, "podLabels": {"app": "models"}}]},
        "tokens": {"broker": "broker.example"},
        "files": {"broker.yaml": PROFILE % chart.PRIVATE},
        "config": {
            "profiles": ["broker.yaml"],
            "providers": [{"profile": "broker", "callers": callers, "permit": False, "files": {"token": token}}],
            "routes": [{**route, "private": [chart.PRIVATE]}],
        },
    }


def caller(gateway: str) -> dict[str, Any]:
    """The shipped sidecar and its application, with the gateway as broker."""
    pod = shipped("sidecar.yaml")
    pod["metadata"]["labels"] = {"app": "models"}
    (robin,) = pod["spec"]["initContainers"]
    given = {"UPSTREAM_URL": f"https://{gateway}:8080", "UPSTREAM_CA_FILE": f"{TRUST}/ca.crt", "AUDIENCE": "robin-gateway-routes"}
    robin["env"] = [{"name": f"ROBIN_{name}", "value": value} for name, value in given.items()]
    robin["volumeMounts"].append({"name": "trust", "mountPath": TRUST, "readOnly": True})
    (source,) = pod["spec"]["volumes"][0]["projected"]["sources"]
    source["serviceAccountToken"]["audience"] = given["AUDIENCE"]
    pod["spec"]["volumes"].append({"name": "trust", "configMap": {"name": "robin-trust"}})
    return pod


async def test_an_upgrade_opens_routes_to_the_shipped_sidecar(cluster: NodeCluster, namespace: str, gateways: str, broker: ClusterUpstream):
    """At once after the install, so that the trust Job is still there, whose pod the upgrade changes."""
    await aside(chart.write_authorities, cluster, gateways, *chart.SLOTS)
    values = chart.values(namespace, robin="agent")
    await aside(chart.install, cluster, "robin-gateway", gateways, values)
    tolerations = {"tolerations": [{"key": "robin.example/new", "operator": "Exists"}]}
    upgraded = {**values, **routes_of(namespace), **tolerations}
    await aside(chart.install, cluster, "robin-gateway", gateways, upgraded, word="upgrade")

    gateway = host_of(gateways)
    pods = [caller(gateway), chart.agent("agent", {"robin": "agent"}), chart.agent("stranger", {"robin": "stranger"})]
    await aside(cluster.apply, pods, namespace=namespace)
    first = await broker.until(lambda one: True, what="a request of the application")
    assert (first.target, first.verdict.reason) == ("/v1/models", "")
    assert first.verdict.subject == f"system:serviceaccount:{gateways}:robin-gateway", "the gateway's token, not the sidecar's"
    for name in ("agent", "stranger"):
        await aside(cluster.wait_for, "pod", name, "Ready", namespace=namespace)
    places = {"routes": (gateway, 8080), "proxy": (gateway, 8081)}
    await until(cluster, namespace, "stranger", places, "routes", open_=False)
    assert await printed(cluster, namespace, "stranger", REACH % json.dumps(places)) == {"routes": False, "proxy": False}
    assert await printed(cluster, namespace, "app", REACH % json.dumps(places)) == {"routes": True, "proxy": False}
    assert await printed(cluster, namespace, "agent", ASK_ROUTES % gateway) == 401, "its token is for the proxy"
    assert not broker.refused
    lines = told(await aside(cluster.logs, "app", "app", namespace=namespace))
    assert not [line for line in lines if "failure" in line]


async def test_an_agent_cannot_connect_to_the_gateway_of_another(
    cluster: NodeCluster, namespace: str, gateways: str, broker: ClusterUpstream
):
    for name in ("one", "two"):
        await aside(chart.write_trust, cluster, gateways, namespace, suffix=f"-{name}")
        values = {**chart.values(namespace, agent=name), **BY_HAND, "topology": "per-agent"}
        await aside(chart.install, cluster, name, gateways, values)
        await aside(cluster.apply, chart.agent(name, {"agent": name}, suffix=f"-{name}"), namespace=namespace)
    for name in ("one", "two"):
        await aside(cluster.wait_for, "pod", name, "Ready", namespace=namespace)
    places = {name: (host_of(gateways, f"-{name}"), 8081) for name in ("one", "two")}
    for name, other in (("one", "two"), ("two", "one")):
        await until(cluster, namespace, name, places, other, open_=False)
        assert await printed(cluster, namespace, name, REACH % json.dumps(places)) == {name: True, other: False}
        through = CONNECT + THROUGH % (f"{TRUST}/ca.crt", json.dumps([("broker", "broker.example:8443", None)]), places[name][0])
        assert await printed(cluster, namespace, name, through) == {"broker": ["200", "401", "robin-bridge-ca-test-a"]}
