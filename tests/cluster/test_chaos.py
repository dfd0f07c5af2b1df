"""The node's own parts fail under a sidecar at work: what is promised is that no request of the application notices."""

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest
from tests.cluster.parts import services
from tests.cluster.parts.cluster import NodeCluster
from tests.cluster.parts.journey import served, started
from tests.cluster.parts.pods import aside, states, told
from tests.cluster.parts.upstream import ClusterUpstream
from tests.real.parts.process import Server, poll

OUTAGE_S = 60.0


@pytest.fixture
async def at_work(cluster: NodeCluster, namespace: str, broker: ClusterUpstream) -> AsyncIterator[str]:
    """The namespace of the shipped pod under load; after the test nothing has failed or restarted, and it still works."""
    await started(cluster, namespace)
    await served(broker)
    yield namespace
    count = len(broker.judgements)
    await broker.until(lambda one: len(broker.judgements) >= count + 20, what="more requests")
    assert not broker.refused
    await aside(cluster.wait_for, "pod", "app", "Ready", namespace=namespace)
    found = states(await aside(cluster.get, "pod", "app", namespace=namespace))
    assert {name: one["restartCount"] for name, one in found.items()} == {"robin": 0, "app": 0}
    assert not [line for line in told(await aside(cluster.logs, "app", "app", namespace=namespace)) if "failure" in line]


async def restarted(cluster: NodeCluster, part: Server, broker: ClusterUpstream) -> None:
    """Kill a part of the node, see requests go on without it, and start it again until the node is ready."""
    await aside(part.kill)
    count = len(broker.judgements)
    await broker.until(lambda one: len(broker.judgements) >= count + 20, what=f"requests without {part.name}")
    await aside(part.start, lambda: True)
    await aside(poll, lambda: cluster.kubectl("get", "--raw", "/readyz").returncode == 0, timeout_s=60.0, what="the API server")
    await aside(cluster.wait_for, "node", services.NODE, "Ready")


async def test_a_restarted_kubelet(cluster: NodeCluster, at_work: str, broker: ClusterUpstream):
    await restarted(cluster, cluster.kubelet, broker)


async def test_a_restarted_containerd(cluster: NodeCluster, at_work: str, broker: ClusterUpstream):
    await restarted(cluster, cluster.containerd, broker)


@pytest.mark.slow
async def test_an_api_server_that_is_down_for_a_minute(cluster: NodeCluster, at_work: str, broker: ClusterUpstream):
    await aside(cluster.apiserver.kill)
    count = len(broker.judgements)
    await asyncio.sleep(OUTAGE_S)  # the outage itself
    assert len(broker.judgements) > count + 100
    await aside(cluster.apiserver.start, cluster.ready, timeout_s=120.0)
    await aside(cluster.wait_for, "node", services.NODE, "Ready")


@pytest.mark.timeout(400)  # a kubelet that starts anew on a busy machine takes its time, twice
async def test_a_pod_evicted_for_memory_pressure_fails_no_request(cluster: NodeCluster, namespace: str, broker: ClusterUpstream):
    """By a soft threshold, which has a grace period. A hard one has a second, and then the kubelet no longer waits with Robin's SIGTERM."""
    await started(cluster, namespace)
    path = cluster.folder / "kubelet.json"
    calm = path.read_text()
    pressed = {"evictionSoft": {"memory.available": "99.9%"}, "evictionSoftGracePeriod": {"memory.available": "1s"}}
    pressure = json.loads(calm) | pressed | {"evictionMaxPodGracePeriod": 30, "evictionPressureTransitionPeriod": "1s"}

    def restart(configuration: str) -> None:
        cluster.kubelet.kill()
        path.write_text(configuration)
        cluster.kubelet.start(lambda: True)

    whole = {"app": "", "robin": ""}
    wrote = dict(whole)  # kept while it is there: the kubelet removes the containers of an evicted pod within a minute

    def ended() -> bool:
        found = cluster.get("pod", "app", namespace=namespace)
        for name, before in wrote.items():
            asked = cluster.kubectl("--namespace", namespace, "logs", "app", "-c", name)
            whole[name] = asked.stdout or whole[name]
            lines = [line for line in asked.stdout.splitlines() if not re.search(r'"outcome":"forwarded"|^{"ok"', line) or '"end"' in line]
            wrote[name] = "\n".join(lines[-40:]) or before
        return all("terminated" in one["state"] for one in states(found).values())

    await served(broker)
    try:
        await aside(restart, json.dumps(pressure))
        await aside(poll, ended, timeout_s=240.0, what="the eviction", every_s=0.5)
        pod = await aside(cluster.get, "pod", "app", namespace=namespace)
        events = await aside(cluster.every, "events", namespace=namespace)
        assert "Evicted" in {event["reason"] for event in events.values()}
        ends = {name: one["state"]["terminated"] for name, one in states(pod).items()}
        story = f"{[(event['lastTimestamp'], event['reason'], event['message']) for event in events.values()]} {ends} {wrote}"
        assert [one["restartCount"] for one in states(pod).values()] == [0, 0], story
        assert ends["robin"]["finishedAt"] >= ends["app"]["finishedAt"], f"a grace period keeps the order: Robin last; {story}"
        assert ends["robin"]["exitCode"] == 0, story
        # What failed before the first answer is the cluster's name service, which the tests before may have left to recover.
        counts = [line for line in told(whole["app"]) if "failed" in line]
        before = next(line["failed"] for line in counts if line.get("ok"))
        assert (counts[-1].get("end"), counts[-1]["failed"] - before) == (True, 0), story
    finally:
        await aside(restart, calm)
        await aside(cluster.wait_for, "node", services.NODE, "MemoryPressure=false")
    assert not broker.refused
