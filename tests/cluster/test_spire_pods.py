"""JWT-SVIDs in a pod: SPIRE's server and agent as pods, the kubelet as the witness of what the caller is."""

from collections.abc import AsyncIterator

import pytest
from tests.cluster.parts import images, spire
from tests.cluster.parts.cluster import NodeCluster
from tests.cluster.parts.journey import served
from tests.cluster.parts.pods import MANIFESTS, aside, shipped, states, told
from tests.cluster.parts.upstream import ClusterUpstream
from tests.cluster.test_broker_pods import BROKER, USER, application, broker_pod, start_broker
from tests.real.parts.bundle_judge import BundleJudge
from tests.real.parts.process import poll

from robin.testing.certificates import CertificateAuthority

ASK = """
import urllib.error, urllib.request
try:
    print(urllib.request.urlopen("http://127.0.0.1:4000/", timeout=20).status)
except urllib.error.HTTPError as refused:
    print(refused.code, refused.headers["proxy-status"])
"""


@pytest.fixture(scope="module")
def domain(cluster: NodeCluster) -> spire.Spire:
    """SPIRE in the cluster, for all tests here."""
    return spire.install(cluster, images.robin())


@pytest.fixture
async def svid_broker(
    cluster: NodeCluster, domain: spire.Spire, authority: CertificateAuthority, namespace: str
) -> AsyncIterator[ClusterUpstream]:
    """https://broker.example:8443, with go-spiffe as the judge of tokens."""
    tls = authority.issue("broker.example", ends_in_s=86400.0).server_context()
    async with BundleJudge(domain, audience="broker.example") as judge, ClusterUpstream(cluster, judge, tls=tls, port=8443) as upstream:
        yield upstream
        await aside(cluster.delete, "all", "--all", namespace=namespace)  # its callers, before it goes


def entry(domain: spire.Spire, namespace: str) -> str:
    """An identity for the container named robin of pods in the namespace; its SPIFFE ID."""
    return domain.entry(namespace, f"k8s:ns:{namespace}", "k8s:sa:default", "k8s:container-name:robin", lifetime_s=60)


async def test_the_shipped_pod_gets_its_own_spiffe_id(
    cluster: NodeCluster, domain: spire.Spire, namespace: str, svid_broker: ClusterUpstream
):
    spiffe_id = await aside(entry, domain, namespace)
    await aside(cluster.apply, MANIFESTS / "sidecar-spiffe.yaml", namespace=namespace)
    await aside(cluster.wait_for, "pod", "app", "Ready", namespace=namespace)
    await served(svid_broker)
    assert {one.verdict.subject for one in svid_broker.judgements} == {spiffe_id}
    assert not svid_broker.refused


async def test_an_agent_that_restarts_under_load_fails_no_request(
    cluster: NodeCluster, domain: spire.Spire, namespace: str, svid_broker: ClusterUpstream
):
    await aside(entry, domain, namespace)
    await aside(cluster.apply, MANIFESTS / "sidecar-spiffe.yaml", namespace=namespace)
    await aside(cluster.wait_for, "pod", "app", "Ready", namespace=namespace)
    await served(svid_broker)
    before = set(svid_broker.tokens)
    await aside(domain.restart_agent)
    await svid_broker.until(
        lambda one: one.token not in before and not one.verdict.reason, what="a token of the new agent", timeout_s=120.0
    )
    lines = told(await aside(cluster.logs, "app", "app", namespace=namespace))
    assert not [line for line in lines if "failure" in line]
    assert not svid_broker.refused
    found = states(await aside(cluster.get, "pod", "app", namespace=namespace))
    assert found["robin"]["restartCount"] == 0


async def test_a_pod_that_is_not_registered_gets_503_until_it_is(
    cluster: NodeCluster, domain: spire.Spire, namespace: str, svid_broker: ClusterUpstream
):
    pod = shipped("sidecar-spiffe.yaml")
    del pod["spec"]["initContainers"][0]["startupProbe"]  # or the application would never start
    await aside(cluster.apply, pod, namespace=namespace)
    await aside(cluster.wait_for, "pod", "app", "Initialized", namespace=namespace)

    def asked() -> str:
        return cluster.execute("app", "app", "/usr/bin/python3", "-c", ASK, namespace=namespace)[1].strip()

    await aside(poll, lambda: asked().startswith("503"), timeout_s=60.0, what="Robin's refusal", every_s=0.5)
    assert 'details="identity_unavailable"' in await aside(asked)
    assert svid_broker.judgements == []
    await aside(entry, domain, namespace)
    await svid_broker.until(lambda one: not one.verdict.reason, what="requests, once it is registered", timeout_s=120.0)


SPIFFE = "trustplane-spiffe-spire-k8s-v1"
SOCKET_VOLUME = {"name": "spire", "hostPath": {"path": spire.SOCKETS, "type": "Directory"}}
SOCKET_MOUNT = {"name": "spire", "mountPath": spire.SOCKETS, "readOnly": True}
POD_UID = {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
# What evidence the node gives: the socket's emptyDir on a disk, or the peer's cgroup where the pod's processes are shared.
EVIDENCE = {
    "volume": {},
    "cgroup": {"medium": "Memory", "shareProcessNamespace": True},
    "": {"medium": "Memory"},
}


async def test_a_broker_attests_what_shares_its_pod_by_evidence_of_the_node(cluster: NodeCluster, domain: spire.Spire, namespace: str):
    """P33: `volume` and `cgroup` evidence, and a refusal where there is neither."""
    spiffe_id = await aside(entry, domain, namespace)
    identity = {
        "profile": SPIFFE,
        "mode": "pod-binding",
        "endpoint": f"unix://{spire.SOCKETS}/agent.sock",
        "allowed_ids": [spiffe_id],
    }
    peers = [{"name": "app", "match": {"uid": USER, "spiffe_id": spiffe_id}, "routes": ["read"]}]
    routes = [{**BROKER["issue"]["routes"][0], "required_key_binding": "attested_workload"}]
    section = {
        **BROKER,
        "trust_domain": domain.trust_domain,
        "issue": {**BROKER["issue"], "identity": identity, "peers": peers, "routes": routes},
    }
    for evidence, changes in EVIDENCE.items():
        spec = {"volumes": [SOCKET_VOLUME], "mounts": [SOCKET_MOUNT], "env": [POD_UID], **changes}
        journey = await start_broker(cluster, namespace, broker_pod("broker", application("app", USER), **spec), section)
        assert await journey.ask("app") == ("broker_passport_issued" if evidence else "pod_binding_unverified")
        (record,) = await journey.records("broker")
        issued = {
            "subject": spiffe_id,
            "identity": "pod_svid",
            "key_binding": "attested_workload",
            "mode": "pod-binding",
            "evidence": evidence,
        }
        assert {name: record[name] for name in issued} == (issued if evidence else dict.fromkeys(issued))
        await aside(cluster.delete, "pod", "broker", "--grace-period=1", namespace=namespace)
