"""The node's own parts fail under a sidecar at work: what is promised is that no request of the application notices."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import pytest
from tests.cluster.parts import services
from tests.cluster.parts.cluster import NodeCluster
from tests.cluster.parts.journey import served, started
from tests.cluster.parts.pods import aside, shipped, states, told
from tests.cluster.parts.upstream import ClusterUpstream
from tests.real.parts.process import Server, poll

OUTAGE_S = 60.0


@pytest.fixture
async def at_work(cluster: NodeCluster, namespace: str, broker: ClusterUpstream) -> AsyncIterator[str]:
    """The namespace of the shipped pod under load; after the test nothing has failed or restarted, and it still works."""

    def log() -> str:
        """Of the application; empty while a kubelet that was started anew does not know the pod yet."""
        return cluster.kubectl("--namespace", namespace, "logs", "app", "-c", "app").stdout

    await started(cluster, namespace)
    await served(broker)
    before = failures(await aside(poll, log, timeout_s=60.0, what="the application's log", every_s=0.2))
    yield namespace
    count = len(broker.judgements)
    await broker.until(lambda one: len(broker.judgements) >= count + 20, what="more requests")
    assert not broker.refused
    await aside(cluster.wait_for, "pod", "app", "Ready", namespace=namespace)
    found = states(await aside(cluster.get, "pod", "app", namespace=namespace))
    assert {name: one["restartCount"] for name, one in found.items()} == {"robin": 0, "app": 0}
    assert failures(await aside(poll, log, timeout_s=60.0, what="the application's log", every_s=0.2)) == before


def failures(log: str) -> list[dict[str, Any]]:
    return [line for line in told(log) if "failure" in line]


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


SOFT = {
    "evictionSoft": {"memory.available": "99.9%"},
    "evictionSoftGracePeriod": {"memory.available": "1s"},
    "evictionMaxPodGracePeriod": 30,
}
HARD = {"evictionHard": {"memory.available": "99%"}}  # what it holds back leaves room for the pod's request


@pytest.mark.timeout(400)  # a kubelet that starts anew on a busy machine takes its time, twice
async def test_a_pod_evicted_for_memory_pressure_fails_no_request(cluster: NodeCluster, namespace: str, broker: ClusterUpstream):
    """By a soft threshold, which has a grace period."""
    await started(cluster, namespace)
    last_of_app, last_of_robin, pod = await evicted(cluster, namespace, broker, SOFT)
    assert last_of_robin >= last_of_app, "a grace period keeps the order: Robin last"
    assert [one["restartCount"] for one in states(pod).values()] == [0, 0]


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_hard_eviction_fails_no_request_where_robin_serves_for_two_seconds_more(
    cluster: NodeCluster, namespace: str, broker: ClusterUpstream
):
    """The kubelet sends both their SIGTERM within a second, and the application, which has two seconds, calls on for 1.7 of them.

    The status of a pod that ended so may count a restart of which no log knows; it is not looked at.
    """
    pod = shipped("sidecar.yaml")
    pod["spec"]["initContainers"][0]["env"].append({"name": "ROBIN_DRAIN_MIN", "value": "2s"})
    pod["spec"]["containers"][0]["env"].append({"name": "SHUTDOWN_S", "value": "1.7"})
    await aside(cluster.apply, pod, namespace=namespace)
    await aside(cluster.wait_for, "pod", "app", "Ready", namespace=namespace)
    await evicted(cluster, namespace, broker, HARD)


async def evicted(cluster: NodeCluster, namespace: str, broker: ClusterUpstream, thresholds: Mapping[str, Any]) -> tuple[str, str, Any]:
    """Have the pod evicted under load: no call of its application fails. When it and Robin wrote their last lines, and the pod."""
    path = cluster.folder / "kubelet.json"
    calm = path.read_text()
    pressure = json.loads(calm) | thresholds | {"evictionPressureTransitionPeriod": "1s"}

    def restart(configuration: str) -> None:
        cluster.kubelet.kill()
        path.write_text(configuration)
        cluster.kubelet.start(lambda: True)

    await served(broker)
    with contextlib.ExitStack() as held:
        logs = {name: held.enter_context(log_file(cluster, namespace, name).open()) for name in ("app", "robin")}
        try:
            await aside(restart, json.dumps(pressure))
            await aside(poll, lambda: ended(logs), timeout_s=240.0, what="the eviction", every_s=0.5)
            events = await aside(cluster.every, "events", namespace=namespace)
            pod = await aside(cluster.get, "pod", "app", namespace=namespace)
        finally:
            await aside(restart, calm)
            await aside(cluster.wait_for, "node", services.NODE, "MemoryPressure=false")
        wrote = {name: written(log) for name, log in logs.items()}
    told_at, lines = zip(*wrote["app"], strict=True)
    happened = [(event["lastTimestamp"], event["reason"], event["message"]) for event in events.values()]
    story = f"{happened} {lines[-5:]} {wrote['robin'][-5:]}"
    assert "Evicted" in {event["reason"] for event in events.values()}, story
    # What failed before the first answer is the cluster's name service, which the tests before may have left to recover.
    before = next(line.get("failed", 0) for line in lines if line.get("ok"))
    assert (lines[-1].get("end"), lines[-1].get("failed", 0) - before) == (True, 0), story
    last_at, last = wrote["robin"][-1]
    assert last["event"] == "drained", story
    assert not broker.refused
    return told_at[-1], last_at, pod


def log_file(cluster: NodeCluster, namespace: str, container: str) -> Path:
    """Where containerd writes what a container of the pod `app` writes. The kubelet may remove it soon after an eviction."""
    (found,) = Path(f"/proc/{cluster.node.pid}/root/var/log/pods").glob(f"{namespace}_app_*/{container}/0.log")
    return found


def written(log: TextIO) -> list[tuple[str, dict[str, Any]]]:
    """The JSON lines so far, with the times containerd gave them. The shape of a line: `TIME stdout F TEXT` (CRI)."""
    log.seek(0)
    lines = (line.rstrip("\n").split(" ", 3) for line in log)
    return [(line[0], json.loads(line[3])) for line in lines if len(line) == 4 and line[2] == "F" and line[3].startswith("{")]


def ended(logs: Mapping[str, TextIO]) -> bool:
    """Whether both have written their last line."""
    app, robin = written(logs["app"]), written(logs["robin"])
    return bool(app and robin) and "end" in app[-1][1] and robin[-1][1].get("event") == "drained"
