"""The shipped sidecar manifests, applied as they are, on a real node: Robin beside an application that does not know of it."""

import json
import re

import pytest
from tests.cluster.parts.cluster import NodeCluster
from tests.cluster.parts.journey import gone_without_a_failed_request, served, started
from tests.cluster.parts.pods import MANIFESTS, aside, idle_pod, shipped, states, told
from tests.cluster.parts.upstream import ClusterUpstream
from tests.real.parts.process import poll

TOKEN = re.compile(r"eyJ[\w-]{10,}\.eyJ")
LOOK = """
import json, os
fields = dict(line.split(":\\t", 1) for line in open("/proc/1/status").read().splitlines() if ":\\t" in line)
try:
    open("/written", "w")
except OSError as refused:
    written = refused.strerror
limit, peak = (int(open(f"/sys/fs/cgroup/memory/memory.{name}_in_bytes").read()) for name in ("limit", "max_usage"))
shells = [name for name in ("/bin/sh", "/bin/bash", "/usr/bin/apt", "/usr/bin/dpkg") if os.path.exists(name)]
print(json.dumps({"status": fields, "written": written, "limit": limit, "peak": peak, "shells": shells}))
"""
TOKENS_SEEN = "import os; print(os.path.exists('/var/run/secrets'))"
ROBIN = ("/usr/bin/python3", "-m", "robin.cli.main")
CALL = "import urllib.request as u; print(u.urlopen({url!r}, timeout=3).status)"


async def test_the_shipped_pod_starts_in_order_and_its_application_is_served(cluster: NodeCluster, namespace: str, broker: ClusterUpstream):
    await started(cluster, namespace)
    await served(broker)
    found = states(await aside(cluster.get, "pod", "app", namespace=namespace))
    assert (found["robin"]["started"], found["robin"]["restartCount"]) == (True, 0)
    assert found["robin"]["state"]["running"]["startedAt"] <= found["app"]["state"]["running"]["startedAt"]
    (first, *_) = broker.judgements
    assert first.verdict.subject == f"system:serviceaccount:{namespace}:default"
    assert first.verdict.claims["aud"] == ["broker.example"]
    assert first.verdict.claims["kubernetes.io"]["pod"]["name"] == "app"
    assert not broker.refused
    lines = told(await aside(cluster.logs, "app", "app", namespace=namespace))
    assert not [line for line in lines if "failure" in line], "the first call came when Robin had a token"
    asked = await aside(cluster.kubectl, "get", "--raw", f"/api/v1/namespaces/{namespace}/pods/app:4001/proxy/readyz")
    assert (asked.returncode, json.loads(asked.stdout)["status"]) == (0, "ready"), asked
    code, text = await aside(cluster.execute, "app", "robin", *ROBIN, "token", namespace=namespace)
    assert (code, f"system:serviceaccount:{namespace}:default" in text) == (0, True), text


async def test_without_a_token_the_application_does_not_start(cluster: NodeCluster, namespace: str):
    pod = shipped("sidecar.yaml")
    (source,) = pod["spec"]["volumes"][0]["projected"]["sources"]
    source["serviceAccountToken"]["audience"] = "elsewhere.example"
    await aside(cluster.apply, pod, namespace=namespace)

    def reasons() -> str:
        return cluster.execute("app", "robin", *ROBIN, "wait", "--timeout", "1s", namespace=namespace)[1]

    await aside(poll, lambda: "starting (starting, audience_mismatch)" in reasons(), timeout_s=60.0, what="the reason", every_s=0.5)
    code, text = await aside(cluster.execute, "app", "robin", *ROBIN, "doctor", namespace=namespace)
    assert (code, '"elsewhere.example"' in text) == (1, True), text
    found = states(await aside(cluster.get, "pod", "app", namespace=namespace))
    assert found["robin"]["started"] is False
    assert "waiting" in found["app"]["state"], "the kubelet starts it when the startup probe has passed"


async def test_robin_is_confined_on_the_node_as_its_manifest_asks(cluster: NodeCluster, namespace: str, broker: ClusterUpstream):
    await started(cluster, namespace)
    await served(broker)
    code, text = await aside(cluster.execute, "app", "robin", "/usr/bin/python3", "-c", LOOK, namespace=namespace)
    assert code == 0, text
    seen = json.loads(text)
    status = {name: value.strip() for name, value in seen["status"].items()}
    assert status["Uid"].split() == ["10001"] * 4
    assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), "2 is a filter: RuntimeDefault holds"
    assert seen["written"] == "Read-only file system"
    assert seen["shells"] == []
    assert seen["peak"] < seen["limit"] == 192 << 20
    code, text = await aside(cluster.execute, "app", "app", "/usr/bin/python3", "-c", TOKENS_SEEN, namespace=namespace)
    assert (code, text.strip()) == (0, "False"), "the application sees no token, neither Robin's nor the API server's"


async def test_no_log_holds_a_token(cluster: NodeCluster, namespace: str, broker: ClusterUpstream):
    await started(cluster, namespace)
    await served(broker)
    show = "print(open('/var/run/secrets/tokens/token').read())"
    code, token = await aside(cluster.execute, "app", "robin", "/usr/bin/python3", "-c", show, namespace=namespace)
    assert code == 0
    assert TOKEN.match(token)
    log = await aside(cluster.logs, "app", "robin", namespace=namespace)
    assert '"outcome":"forwarded"' in log
    assert not TOKEN.search(log)
    assert token.strip().rpartition(".")[2] not in log


async def test_the_shipped_job_ends_when_its_work_has_ended(cluster: NodeCluster, namespace: str, broker: ClusterUpstream):
    await aside(cluster.apply, MANIFESTS / "job.yaml", namespace=namespace)
    await aside(cluster.wait_for, "job", "work", "Complete", namespace=namespace)
    (pod,) = (await aside(cluster.every, "pods", namespace=namespace)).values()
    found = states(pod)
    assert {name: one["state"]["terminated"]["exitCode"] for name, one in found.items()} == {"robin": 0, "work": 0}
    assert len(broker.judgements) == 50
    assert not broker.refused


async def test_the_shipped_classic_job_ends_itself(cluster: NodeCluster, namespace: str, broker: ClusterUpstream):
    await aside(cluster.apply, MANIFESTS / "job-classic.yaml", namespace=namespace)
    await aside(cluster.wait_for, "job", "work-classic", "Complete", namespace=namespace)
    (pod,) = (await aside(cluster.every, "pods", namespace=namespace)).values()
    assert {name: one["state"]["terminated"]["exitCode"] for name, one in states(pod).items()} == {"robin": 0, "work": 0}
    assert [one.target for one in broker.judgements] == ["/v1/models"]
    assert not broker.refused


@pytest.mark.parametrize("how", ["deleted", "evicted"])
async def test_a_pod_under_load_ends_without_a_failed_request(how: str, cluster: NodeCluster, namespace: str, broker: ClusterUpstream):
    await started(cluster, namespace)

    def end() -> None:
        if how == "evicted":
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "app", "namespace": namespace}}
            cluster.request("POST", f"/api/v1/namespaces/{namespace}/pods/app/eviction", body)
        else:
            cluster.delete("pod", "app", namespace=namespace)

    await gone_without_a_failed_request(cluster, namespace, end)
    assert not broker.refused


async def test_a_rolling_update_fails_no_request(cluster: NodeCluster, namespace: str, broker: ClusterUpstream):
    labels = {"app": "app"}
    template = {"metadata": {"labels": labels}, "spec": shipped("sidecar.yaml")["spec"]}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "app"},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
    }
    await aside(cluster.apply, deployment, namespace=namespace)
    await aside(cluster.rolled_out, "deployment/app", namespace=namespace)
    before = sorted(await aside(cluster.every, "pods", namespace=namespace))
    with cluster.following(before[0], "app", namespace=namespace) as one, cluster.following(before[1], "app", namespace=namespace) as other:
        await aside(poll, lambda: '"ok"' in one.log_text() and '"ok"' in other.log_text(), timeout_s=60.0, what="calls")
        template["metadata"]["annotations"] = {"changed": "yes"}
        await aside(cluster.apply, deployment, namespace=namespace)
        await aside(cluster.rolled_out, "deployment/app", namespace=namespace)
        await aside(poll, lambda: not one.running and not other.running, timeout_s=90.0, what="the end of the old pods")
        for log in (one.log_text(), other.log_text()):
            last = told(log)[-1]
            assert last.get("end") is True, log
            assert "failed" not in last, log
    after = await aside(cluster.every, "pods", namespace=namespace)
    for name in after.keys() - set(before):
        assert not [line for line in told(await aside(cluster.logs, name, "app", namespace=namespace)) if "failure" in line]
    assert not broker.refused


async def test_a_network_policy_keeps_the_admin_port_for_the_kubelet_and_prometheus(
    cluster: NodeCluster, namespace: str, broker: ClusterUpstream
):
    await started(cluster, namespace)
    for name in ("other", "prometheus"):
        await aside(cluster.apply, idle_pod(name, {"app.kubernetes.io/name": name}), namespace=namespace)
        await aside(cluster.wait_for, "pod", name, "Ready", namespace=namespace)
    await aside(cluster.kubectl, "--namespace", namespace, "label", "pod", "app", "robin=sidecar")
    address = (await aside(cluster.get, "pod", "app", namespace=namespace))["status"]["podIP"]
    call = CALL.format(url=f"http://{address}:4001/metrics")

    def reached(name: str) -> bool:
        return cluster.execute(name, "app", "/usr/bin/python3", "-c", call, namespace=namespace) == (0, "200\n")

    assert await aside(reached, "other"), "without the policy everyone in the cluster can read the counters"
    await aside(cluster.apply, MANIFESTS / "policies" / "admin-port.yaml", namespace=namespace)
    await aside(poll, lambda: not reached("other"), timeout_s=60.0, what="the policy to be enforced")
    assert await aside(reached, "prometheus")
    first = len(broker.judgements)
    await broker.until(lambda one: len(broker.judgements) > first + 20, what="the application's own calls to go on")
    found = states(await aside(cluster.get, "pod", "app", namespace=namespace))
    assert (found["robin"]["restartCount"], found["robin"]["ready"]) == (0, True), "the kubelet's probes pass"
