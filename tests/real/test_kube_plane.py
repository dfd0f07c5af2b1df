"""`robin kube` in front of the real kube-apiserver, with the real kubectl as an agent that holds no cluster credential.

What the cluster saw is read in its own audit log; a stand-in for the kubelet is a small server of ours (`parts/kubelet.py`).
"""

import asyncio
import json
import re

import pytest
from tests.real.parts.kube import Cluster
from tests.real.parts.kube_plane import EVERYTHING, READ, Bed, kube_plane
from tests.real.parts.kubelet import PROTOCOL, kubelet

pytestmark = pytest.mark.real

WORK = {"apiGroups": [""], "resources": ["configmaps", "pods"], "verbs": ["create", "patch", "update", "delete", "get", "list", "watch"]}
# A WebSocket exec asks for `get` by its method, and since Kubernetes 1.35 for `create` too.
SHELL = {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]}


def config_map(name: str) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})


async def test_kubectl_works_without_a_cluster_credential_and_the_cluster_saw_the_minted_account(kube: Cluster):
    async with kube_plane(kube, rights=(READ, WORK)) as bed:
        assert (await bed.kubectl("apply", "-f", "-", stdin=config_map("one"))).stdout == b"configmap/one created\n"
        assert (await bed.kubectl("apply", "--server-side", "-f", "-", stdin=config_map("two"))).stdout.endswith(b"serverside-applied\n")
        assert (await bed.kubectl("get", "configmaps", "-o", "name")).stdout.split() == [b"configmap/one", b"configmap/two"]
        assert (await bed.kubectl("delete", "configmap", "one")).returncode == 0
        assert (await bed.kubectl("auth", "can-i", "list", "pods")).stdout == b"yes\n"
        assert (await bed.kubectl("auth", "can-i", "create", "deployments", codes=(1,))).stdout == b"no\n"
        whoami = await bed.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
        assert whoami.stdout.decode() == bed.account
        check_join(bed)


def check_join(bed: Bed) -> None:
    """Each record of a forwarded request is one event of the cluster's audit, of the minted account, with the token of that record."""
    forwarded = {one["id"]: one for one in bed.records("request.done")}
    minted = {one["id"]: one["jti"] for one in bed.records("token.minted")}
    events = [one for one in bed.seen() if one["user"]["username"] == bed.account and one["stage"] == "ResponseComplete"]
    own = [one for one in events if one.get("objectRef", {}).get("resource") != "selfsubjectaccessreviews" or one["auditID"] in forwarded]
    assert {one["auditID"] for one in own} == set(forwarded)
    assert len(own) == len(forwarded)
    for one in own:
        assert one["user"]["extra"]["authentication.kubernetes.io/credential-id"] == [f"JTI={minted[one['auditID']]}"]
    assert len(set(minted.values())) == len(minted)
    others = {one["user"]["username"] for one in bed.seen()} - {bed.account}
    assert others == {f"system:serviceaccount:{bed.system}:robin-minter"}
    minter = [one for one in bed.seen() if one["user"]["username"] in others]
    assert {(one.get("objectRef", {}).get("resource"), one.get("objectRef", {}).get("subresource")) for one in minter} <= {
        (None, None),  # /version
        ("selfsubjectaccessreviews", None),
        ("serviceaccounts", "token"),
    }


async def test_what_policy_denies_reaches_nothing_and_kubectl_shows_why(kube: Cluster):
    look = {**EVERYTHING, "name": "look", "tiers": {"0": "allow"}}
    async with kube_plane(kube, rules=(look,)) as bed:
        denied = await bed.kubectl("get", "secrets", codes=(1,))
        assert denied.stderr.startswith(
            'Error from server (Forbidden): secrets is forbidden: User "robin:a" cannot list resource "secrets"'
        )
        assert "tier 3 sensitive, no rule allows it" in denied.stderr
        impersonated = await bed.kubectl("--as=admin", "get", "pods", codes=(1,))
        assert "no agent may act as another user" in impersonated.stderr
        for path in ("/api/v1/nodes/n1/proxy/pods", f"/api/v1/namespaces/{bed.shop}/services/s/proxy/"):
            assert "Forbidden" in (await bed.kubectl("get", "--raw", path, codes=(1,))).stderr
        assert "tier 2 modify" in (await bed.kubectl("apply", "--server-side", "-f", "-", stdin=config_map("x"), codes=(1,))).stderr
        assert (await bed.kubectl("auth", "whoami", "-o", "name")).returncode == 0
        targets = {event["requestURI"].partition("?")[0] for event in bed.seen()}
        assert not [target for target in targets if re.search("secrets|proxy|configmaps", target)]


async def test_a_watch_a_followed_log_and_an_exec_go_through_and_end_with_their_rule(kube: Cluster):
    async with (
        kube_plane(kube, rights=(READ, WORK, SHELL)) as bed,
        kubelet(kube, node=f"n-{bed.shop}", namespace=bed.shop, pod="web") as node,
    ):
        command = bed.kubectl_command("get", "configmaps", "--watch", "-o", "name")
        watch = await asyncio.create_subprocess_exec(*map(str, command), stdout=asyncio.subprocess.PIPE, env={"HOME": str(bed.folder)})
        assert watch.stdout is not None
        async with asyncio.timeout(60):
            await bed.wait_record("request.decided", verb="watch")
            await bed.change("POST", f"/api/v1/namespaces/{bed.shop}/configmaps", {"metadata": {"name": "new"}})
            assert await watch.stdout.readline() == b"configmap/new\n"
        watch.kill()
        await watch.wait()
        assert (await bed.wait_record("request.done", end_reason="client"))["status"] == 200

        assert (await bed.kubectl("logs", "web")).stdout == b"first line\n"
        follow = await asyncio.create_subprocess_exec(
            *map(str, bed.kubectl_command("logs", "-f", "web")), stdout=asyncio.subprocess.PIPE, env={"HOME": str(bed.folder)}
        )
        assert follow.stdout is not None
        async with asyncio.timeout(60):
            assert await follow.stdout.readline() == b"first line\n"
            node.write_line("second line")
            assert await follow.stdout.readline() == b"second line\n"
        follow.kill()
        await follow.wait()

        assert (await bed.kubectl("exec", "web", "--", "echo", "ok")).stdout == b"ok\n"
        assert (await bed.kubectl("exec", "-i", "web", "--", "cat", stdin="typed\n")).stdout == b"typed\n"
        assert node.protocols == [PROTOCOL, PROTOCOL]
        decided = await bed.wait_record("request.decided", subresource="exec")
        assert (decided["command"], decided["tier"], decided["verb"]) == (["echo", "ok"], 4, "get")


RUNBOOKS = {
    "restart": {
        "operations": [
            {
                "verbs": ["patch"],
                "groups": ["apps"],
                "resources": ["deployments"],
                "only_paths": ["/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt"],
            }
        ]
    },
    "scale": {"operations": [{"verbs": ["patch", "update"], "resources": ["deployments/scale"], "only_paths": ["/spec/replicas"]}]},
}
DEPLOY = {"apiGroups": ["apps"], "resources": ["deployments", "deployments/scale"], "verbs": ["get", "list", "create", "patch", "update"]}


def deployment(**spec: object) -> str:
    labels = {"app": "web"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": "example.test/app:1"}], **spec}}
    body = {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod}
    return json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": body})


async def test_runbooks_let_kubectl_restart_and_scale_and_nothing_else_and_dry_runs_are_judged_by_their_body(kube: Cluster):
    look = {**EVERYTHING, "name": "look", "tiers": {"0": "allow"}}
    work = {"name": "work", "namespaces": ["shop-*"], "runbooks": ["restart", "scale"], "tiers": {"1": "allow"}}
    async with kube_plane(kube, rules=(look, work), rights=(READ, DEPLOY), runbooks=RUNBOOKS) as bed:
        apis = f"/apis/apps/v1/namespaces/{bed.shop}/deployments"
        await bed.change("POST", apis, json.loads(deployment()))
        assert (await bed.kubectl("rollout", "restart", "deployment/web")).stdout == b"deployment.apps/web restarted\n"
        assert (await bed.kubectl("scale", "--replicas=3", "deployment/web")).stdout == b"deployment.apps/web scaled\n"
        assert kube.request("GET", f"{apis}/web")["spec"]["replicas"] == 3
        denied = await bed.kubectl("set", "image", "deployment/web", "app=example.test/app:2", codes=(1,))
        assert "tier 2 modify, no rule allows it" in denied.stderr
        dry = ("apply", "--dry-run=server", "--validate=false", "-f", "-")
        assert b"(server dry run)" in (await bed.kubectl(*dry, stdin=deployment(terminationGracePeriodSeconds=5))).stdout
        grave = await bed.kubectl(*dry, stdin=deployment(volumes=[{"name": "v", "hostPath": {"path": "/"}}]), codes=(1,))
        assert "tier 4 break-glass" in grave.stderr
        secret = await bed.kubectl(*dry, stdin=deployment(volumes=[{"name": "v", "secret": {"secretName": "s"}}]), codes=(1,))
        assert "tier 3 sensitive" in secret.stderr
        assert kube.request("GET", f"{apis}/web")["spec"]["template"]["spec"].get("volumes") is None


async def test_what_is_cut_ends_kubectl_with_0_after_a_watch_and_with_1_after_a_log_or_an_exec(kube: Cluster):
    short = {**EVERYTHING, "max_session": "2s"}
    async with (
        kube_plane(kube, rules=(short,), rights=(READ, SHELL)) as bed,
        kubelet(kube, node=f"n-{bed.shop}", namespace=bed.shop, pod="web"),
    ):
        words = [("get", "pods", "--watch", "-o", "name"), ("logs", "-f", "web"), ("exec", "-i", "web", "--", "cat")]
        watch, follow, shell = [await _run(bed, *one) for one in words]
        assert watch == (0, b"pod/web\n")  # as when kube-apiserver ends a watch by itself: informers watch again
        assert follow == (1, b"first line\n")
        assert shell == (1, b"")
        assert (await bed.wait_record("request.done", status=101))["end_reason"] == "max_session"
        assert {one["end_reason"] for one in bed.records("request.done")} == {"complete", "max_session"}


async def _run(bed: Bed, *words: str) -> tuple[int | None, bytes]:
    """Run kubectl with an input that stays open, until it ends."""
    child = await asyncio.create_subprocess_exec(
        *map(str, bed.kubectl_command(*words)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"HOME": str(bed.folder)},
    )
    assert child.stdout is not None
    async with asyncio.timeout(60):
        octets = await child.stdout.read()
        return await child.wait(), octets
