"""The shipped DaemonSet, applied as it is: one Robin on the node, behind a Unix socket for listed users."""

from collections.abc import Iterator

import pytest
from tests.cluster.parts.cluster import NodeCluster
from tests.cluster.parts.pods import MANIFESTS, aside, idle_pod, told
from tests.cluster.parts.upstream import ClusterUpstream

CALL = """
import httpx, openai
client = openai.OpenAI(
    base_url="http://localhost/v1", api_key="unused", max_retries=0,
    http_client=httpx.Client(transport=httpx.HTTPTransport(uds="/run/robin/robin.sock")),
)
try:
    print(client.get("/models", cast_to=object)["sub"])
except openai.OpenAIError as refused:
    print(repr(refused))
"""


@pytest.fixture
def on_the_node(cluster: NodeCluster) -> Iterator[None]:
    """The DaemonSet, rolled out."""
    cluster.apply(MANIFESTS / "daemonset.yaml")
    cluster.rolled_out("daemonset/robin", namespace="robin")
    yield
    cluster.delete("namespace", "robin", namespace="robin")


async def test_listed_users_of_the_node_are_served_and_others_are_not(
    cluster: NodeCluster, broker: ClusterUpstream, on_the_node: None, namespace: str
):
    answers = {}
    for uid in (20001, 20009):
        volume = {"name": "run", "hostPath": {"path": "/run/robin", "type": "Directory"}}
        await aside(cluster.apply, idle_pod(f"user-{uid}", {}, uid=uid, volumes=[volume]), namespace=namespace)
        await aside(cluster.wait_for, "pod", f"user-{uid}", "Ready", namespace=namespace)
        _, answers[uid] = await aside(cluster.execute, f"user-{uid}", "app", "/usr/bin/python3", "-c", CALL, namespace=namespace)
    assert answers[20001].strip() == "system:serviceaccount:robin:robin"
    assert answers[20009].strip() == "PermissionDeniedError('Error code: 403')"
    assert len(broker.judgements) == 1, "nothing of the refused call was sent"
    (pod,) = await aside(cluster.every, "pods", namespace="robin")
    log = told(await aside(cluster.logs, pod, "robin", namespace="robin"))
    assert [line["outcome"] for line in log if line["event"] == "exchange"] == ["forwarded", "peer_denied"]
