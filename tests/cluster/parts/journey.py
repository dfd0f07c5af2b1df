"""Steps that journeys of a sidecar in a pod share."""

from collections.abc import Callable

from tests.cluster.parts.cluster import NodeCluster
from tests.cluster.parts.pods import MANIFESTS, aside, told
from tests.cluster.parts.upstream import ClusterUpstream
from tests.real.parts.process import poll


async def started(cluster: NodeCluster, namespace: str) -> None:
    """Apply sidecar.yaml as it is shipped, and wait until the pod is ready."""
    await aside(cluster.apply, MANIFESTS / "sidecar.yaml", namespace=namespace)
    await aside(cluster.wait_for, "pod", "app", "Ready", namespace=namespace)


async def served(broker: ClusterUpstream) -> None:
    """Wait until a request has come with a good token."""
    if not broker.judgements:
        await broker.until(lambda one: not one.verdict.reason, what="a request of the application")


async def gone_without_a_failed_request(cluster: NodeCluster, namespace: str, end: Callable[[], None]) -> None:
    """`end` removes the pod, whose application must report that all its calls were served, those after its SIGTERM too."""
    with (
        cluster.following("app", "app", namespace=namespace) as app,
        cluster.following("app", "robin", namespace=namespace) as robin,
    ):
        await aside(poll, lambda: '"ok"' in app.log_text(), timeout_s=60.0, what="calls")
        await aside(end)
        await aside(poll, lambda: not app.running and not robin.running, timeout_s=60.0, what="the end of both logs")
        last = told(app.log_text())[-1]
        assert last.get("end") is True, app.log_text()
        assert "failed" not in last, app.log_text()
        events = [line["event"] for line in told(robin.log_text()) if line["event"] != "exchange"]
        assert events[-1] == "drained", events
