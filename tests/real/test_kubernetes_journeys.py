"""A sidecar that lives on projected service-account tokens: minted by the real TokenRequest, written by the kubelet's own writer.

At the upstream each request is judged by the real TokenReview, or offline by the keys of the server's OIDC discovery; and once the real
API server is itself the upstream, with kubectl as the caller.
"""

import asyncio
import contextlib
import itertools
import json
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.real.parts.calm import PROGRAMS, Stalls, timed
from tests.real.parts.kube import API_AUDIENCE, Cluster, KubeRefused
from tests.real.parts.kube_judges import DiscoveryJudge, ReviewJudge
from tests.real.parts.load import Answer, Load, ask, check_the_end
from tests.real.parts.sidecar import RealSidecar
from tests.real.parts.upstream import JudgingUpstream, fingerprint

from robin.testing.certificates import CertificateAuthority
from robin.testing.waiting import eventually

pytestmark = pytest.mark.real

AUDIENCE = "https://broker.test"
AT_ONCE_S = 0.05  # on a machine that lets us run; its stalls come on top
IN_USE_S = 1.0  # a file that changed is used by requests made this much later (sidecar spec M1)
MANIFESTS = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"

by_each_judge = pytest.mark.parametrize("judge", [ReviewJudge, DiscoveryJudge], ids=["by-TokenReview", "by-discovered-keys"])
JudgeOf = Callable[..., ReviewJudge | DiscoveryJudge]


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """A sidecar with a projected volume of its own, between callers and a guarded upstream."""

    kube: Cluster
    account: str
    volume: Path
    robin: RealSidecar
    upstream: JudgingUpstream
    stalls: Stalls

    async def get(self, target: str = "/") -> Answer:
        """One request through the sidecar."""
        return await ask(self.robin.url, target)

    async def mint(self, *audiences: str) -> str:
        """A token of the account from TokenRequest, for the upstream's audience unless others are named."""
        return (await asyncio.to_thread(self.kube.mint, self.account, audiences=audiences or (AUDIENCE,))).token

    async def project(self, token: str) -> float:
        """Have the kubelet's writer swing the volume over to the token; when that was done."""
        await asyncio.to_thread(self.kube.project, self.volume, token)
        return time.time()

    @property
    def slack_s(self) -> float:
        """What "at once" may take here."""
        return AT_ONCE_S + PROGRAMS * self.stalls.worst_s


@contextlib.asynccontextmanager
async def journey(
    kube: Cluster, certificates: CertificateAuthority, judge: JudgeOf = DiscoveryJudge, **changed: str
) -> AsyncIterator[Journey]:
    """A new account, an empty volume and a sidecar that listens; `changed` are settings, an empty one is unset."""
    account = f"journey-{secrets.token_hex(4)}"
    await asyncio.to_thread(kube.create_service_account, account)
    tls = certificates.issue("localhost").server_context()
    with tempfile.TemporaryDirectory(prefix="robin-volume-") as folder:
        settings = {
            "ROBIN_TOKEN_FILE": f"{folder}/token",
            "ROBIN_AUDIENCE": AUDIENCE,
            "ROBIN_UPSTREAM_CA_FILE": str(certificates.ca_file),
            **changed,
        }
        async with (
            JudgingUpstream(await asyncio.to_thread(judge, kube, audience=AUDIENCE), tls=tls) as upstream,
            RealSidecar(upstream_url=upstream.url_as("localhost"), settings=settings) as robin,
        ):
            with Stalls() as stalls:
                await robin.listening()
                yield Journey(kube=kube, account=account, volume=Path(folder), robin=robin, upstream=upstream, stalls=stalls)


@by_each_judge
@timed
async def test_a_projected_token_is_injected_and_the_upstream_finds_it_good(
    judge: JudgeOf, kube: Cluster, certificates: CertificateAuthority
):
    async with journey(kube, certificates, judge) as way:
        refused = await way.get()
        assert (refused.status, refused.code) == (503, "identity_unavailable")
        assert (await way.robin.admin_page("/startupz")).status == 503
        written_at = await way.project(await way.mint())
        await way.robin.note("started")
        assert time.time() - written_at < IN_USE_S + way.slack_s
        answer = await way.get("/first")
        subject = f"system:serviceaccount:default:{way.account}"
        assert (answer.status, answer.document["sub"]) == (200, subject)
        (seen,) = way.upstream.judgements
        assert (seen.verdict.reason, seen.verdict.claims["aud"], seen.verdict.claims["iss"]) == ("", [AUDIENCE], kube.issuer)
        record = (await way.robin.recorded(2))[1]
        assert (record["outcome"], record["identity"]["source"], record["identity"]["sub"]) == ("forwarded", "file", subject)
        assert len(way.robin.noted("token_file_open")) == 1, "the kubelet writes 0644 where a pod sets neither fsGroup nor runAsUser"


@timed
async def test_a_token_for_several_audiences_that_include_the_right_one_is_served(kube: Cluster, certificates: CertificateAuthority):
    async with journey(kube, certificates, ReviewJudge) as way:
        await way.project(await way.mint("https://elsewhere.test", AUDIENCE))
        await way.robin.note("started")
        assert (await way.get()).status == 200


@by_each_judge
@timed
async def test_tokens_rotate_under_load_and_each_is_in_use_within_a_second(
    judge: JudgeOf, kube: Cluster, certificates: CertificateAuthority
):
    async with journey(kube, certificates, judge) as way:
        token = await way.mint()
        written = {fingerprint(token): await way.project(token)}
        await way.robin.note("started")
        async with Load(way.robin.url, every_s=0.08) as load:
            await way.upstream.first(fingerprint(token))
            for _ in range(8):
                token = await way.mint()
                new = fingerprint(token)
                waiter = asyncio.create_task(way.upstream.first(new))
                written[new] = await way.project(token)
                await waiter
        assert not load.failed, load.failed[:3]
        assert not way.upstream.refused, way.upstream.refused[:3]
        assert way.upstream.tokens == list(written), "each of them, in order"
        for old, new in itertools.pairwise(written):
            last_at = max(one.at for one in way.upstream.judgements if one.token == old)
            assert last_at - written[new] < IN_USE_S + way.slack_s
        assert max(one["identity_wait_s"] for one in way.robin.records) < way.slack_s


@timed
async def test_an_expiring_token_is_served_to_its_end_and_not_beyond_though_tokenreview_would_still_take_it(
    kube: Cluster, certificates: CertificateAuthority
):
    async with journey(kube, certificates, ReviewJudge) as way:
        minted = await way.mint()
        expires_at = int(time.time()) + 6
        short = kube.resign(minted, exp=expires_at)
        written_at = await way.project(short)
        await way.robin.note("started")
        lives_s = (expires_at - time.time(), expires_at - written_at + way.slack_s)
        async with Load(way.robin.url, every_s=0.08) as load:
            await eventually(lambda: load.failed, what="the end")
            refused = load.failed[0]
            assert (refused.status, refused.code) == (503, "identity_expired")
            assert 1 <= int(refused.fields["retry-after"]) <= 30
            readiness = await way.robin.admin_page("/readyz")
            assert (readiness.status, readiness.document["reasons"]) == (503, ["identity_expired"])
            await eventually(lambda: time.time() > expires_at + 0.5, what="the token's end")
            assert (await asyncio.to_thread(kube.review, short, audiences=[AUDIENCE])).authenticated
            ended_at = time.time()
            await way.project(minted)
            recovered = await way.upstream.until(lambda one: one.verdict.expires_at > expires_at, what="the next token")
            assert recovered.at - ended_at < IN_USE_S + way.slack_s
        assert not way.upstream.refused, "the upstream never met a dead token"
        check_the_end(load, slack_s=way.slack_s, lives_s=lives_s, expires_at=expires_at, ended_at=ended_at, recovered_at=recovered.at)


@timed
async def test_a_token_for_another_audience_gets_503_and_the_upstream_is_not_contacted(kube: Cluster, certificates: CertificateAuthority):
    async with journey(kube, certificates) as way:
        await way.project(await way.mint("https://elsewhere.test"))
        told = await way.robin.note("identity_misconfigured", fault="audience_mismatch")
        assert "ROBIN_AUDIENCE" in told["detail"]
        for _ in range(20):
            refused = await way.get()
            assert (refused.status, refused.code) == (503, "audience_mismatch")
            assert "retry-after" not in refused.fields
        assert (await way.robin.admin_page("/readyz")).document["reasons"] == ["starting", "audience_mismatch"]
        assert way.upstream.connections_accepted == 0
        assert len(way.robin.noted("identity_misconfigured")) == 1, "once per token"
        await way.project(await way.mint())
        await way.robin.note("started")
        assert (await way.get()).status == 200


@timed
async def test_without_an_audience_of_our_own_the_judgement_is_the_upstreams(kube: Cluster, certificates: CertificateAuthority):
    async with journey(kube, certificates, ReviewJudge, ROBIN_AUDIENCE="") as way:
        await way.project(await way.mint("https://elsewhere.test"))
        await way.robin.note("started")
        answer = await way.get()
        assert (answer.status, answer.code) == (401, "")
        assert "audience" in answer.document["reason"], "TokenReview's own words came through"


@timed
async def test_a_deleted_account_is_refused_by_the_upstream_and_a_new_one_is_served_without_a_restart(
    kube: Cluster, certificates: CertificateAuthority
):
    async with journey(kube, certificates, ReviewJudge) as way:
        await way.project(await way.mint())
        await way.robin.note("started")
        assert (await way.get()).status == 200
        await asyncio.to_thread(kube.delete_service_account, way.account)

        answer = await got(way, 401, timeout_s=90)
        assert (answer.status, answer.code) == (401, "")
        assert answer.fields["www-authenticate"] == 'Bearer error="invalid_token"'
        assert "proxy-status" not in answer.fields, "the answer is the upstream's"
        record = (await way.robin.recorded(len(way.upstream.judgements)))[-1]
        assert (record["outcome"], record["upstream_status"]) == ("forwarded", 401)
        assert (await way.robin.admin_page("/readyz")).status == 200, (
            "the token is whole; that it is not welcome, only the upstream can know"
        )
        await asyncio.to_thread(kube.create_service_account, way.account)
        written_at = await way.project(await way.mint())
        await got(way, 200, timeout_s=60)
        assert time.time() - written_at < IN_USE_S + way.slack_s


async def got(way: Journey, status: int, *, timeout_s: float) -> Answer:
    """Ask until an answer has this status."""
    found: list[Answer] = []

    async def right() -> bool:
        found.append(await way.get())
        return found[-1].status == status

    await eventually(right, timeout_s=timeout_s, every_s=0.1, what=f"an answer with {status}")
    return found[-1]


@timed
async def test_kubectl_speaks_to_the_real_api_server_through_the_sidecar_as_its_service_account(
    kube: Cluster, certificates: CertificateAuthority
):
    """The upstream is the API server itself, over its own TLS. kubectl sends the administrator's token; what arrives is the account's."""
    account = f"caller-{secrets.token_hex(4)}"
    namespace = f"rooms-{secrets.token_hex(4)}"
    await asyncio.to_thread(kube.create_namespace, namespace)
    await asyncio.to_thread(kube.create_service_account, account, namespace=namespace)
    identity = f"system:serviceaccount:{namespace}:{account}"
    await asyncio.to_thread(allow, kube, namespace, account)
    with tempfile.TemporaryDirectory(prefix="robin-volume-") as folder:
        minted = await asyncio.to_thread(kube.mint, account, audiences=[API_AUDIENCE], namespace=namespace)
        await asyncio.to_thread(kube.project, Path(folder), minted.token)
        settings = {"ROBIN_TOKEN_FILE": f"{folder}/token", "ROBIN_AUDIENCE": API_AUDIENCE, "ROBIN_UPSTREAM_CA_FILE": str(kube.ca_file)}
        async with RealSidecar(upstream_url=kube.url, settings=settings) as robin:
            await robin.started()

            def kubectl(*arguments: str, stdin: str = "") -> tuple[int, str]:
                asked = kube.kubectl("--server", robin.url, "--namespace", namespace, *arguments, stdin=stdin)
                return asked.returncode, asked.stdout + asked.stderr

            code, text = await asyncio.to_thread(kubectl, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
            assert (code, text) == (0, identity)
            room = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "room"}, "data": {"filling": "x" * 200_000}}
            code, text = await asyncio.to_thread(kubectl, "apply", "--server-side", "-f", "-", stdin=json.dumps(room))
            assert (code, text) == (0, "configmap/room serverside-applied\n")
            code, text = await asyncio.to_thread(kubectl, "get", "configmap", "room", "-o", "jsonpath={.data.filling}")
            assert (code, text) == (0, "x" * 200_000)
            code, text = await asyncio.to_thread(kubectl, "get", "secrets")
            assert (code, f'User "{identity}" cannot list resource "secrets"' in text) == (1, True), text
            watch = Watch(kube, robin.url, namespace)
            async with watch:
                assert await watch.line() == "configmap/room"
                await asyncio.to_thread(
                    kube.request, "POST", f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": {"name": "annexe"}}
                )
                assert await watch.line() == "configmap/annexe", "an event came through a running response"
            assert {one["outcome"] for one in robin.records} <= {"forwarded", "client_closed"}


def allow(kube: Cluster, namespace: str, account: str) -> None:
    """The account may do anything with config maps of the namespace, and nothing else."""
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]
    api = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    kube.request("POST", f"{api}/roles", {"metadata": {"name": "caretaker"}, "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "caretaker"}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    kube.request("POST", f"{api}/rolebindings", {"metadata": {"name": "caretaker"}, "roleRef": role, "subjects": [subject]})


class Watch:
    """`kubectl get --watch` through the sidecar, line by line."""

    def __init__(self, kube: Cluster, url: str, namespace: str) -> None:
        self._command = kube.kubectl_command("--server", url, "--namespace", namespace, "get", "configmaps", "--watch", "-o", "name")
        self._child: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> None:
        self._child = await asyncio.create_subprocess_exec(*self._command, stdout=asyncio.subprocess.PIPE, env={"HOME": "/nonexistent"})

    async def __aexit__(self, *_: object) -> None:
        assert self._child is not None
        self._child.kill()
        await self._child.wait()

    async def line(self) -> str:
        """The next line it prints."""
        assert self._child is not None
        assert self._child.stdout is not None
        async with asyncio.timeout(60.0):
            return (await self._child.stdout.readline()).decode().rstrip("\n")


@pytest.mark.parametrize("manifest", sorted(MANIFESTS.rglob("*.yaml")), ids=lambda path: path.relative_to(MANIFESTS).as_posix())
def test_a_shipped_manifest_passes_a_server_side_dry_run(manifest: Path, kube: Cluster):
    objects = [one for one in yaml.safe_load_all(manifest.read_text()) if one]
    prepare(kube, objects)
    told = kube.dry_run(manifest)
    assert len(told) == len(objects) > 0
    assert all(line.endswith("serverside-applied (server dry run)") for line in told)


def prepare(kube: Cluster, objects: list[dict[str, Any]]) -> None:
    """Make what a dry run cannot make for the objects after it, and what a cluster's controllers would: namespaces and accounts."""
    named = {one["metadata"].get("namespace", "default") for one in objects if one["kind"] != "Namespace"}
    accounts = {
        (one["metadata"].get("namespace", "default"), one["metadata"]["name"]) for one in objects if one["kind"] == "ServiceAccount"
    }
    with contextlib.suppress(KubeRefused):  # there already
        kube.create_service_account("default")
    for namespace in named - {"default"}:
        with contextlib.suppress(KubeRefused):
            kube.create_namespace(namespace)
    for namespace, account in accounts:
        with contextlib.suppress(KubeRefused):
            kube.create_service_account(account, namespace=namespace)


def test_the_sidecars_own_container_meets_the_restricted_pod_security_standard(kube: Cluster):
    """Judged by the server's own admission; the application beside it gets what it needs for that, which is the user's business."""
    pod = yaml.safe_load((MANIFESTS / "sidecar.yaml").read_text())
    restricted = {"name": "restricted", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    kube.request("POST", "/api/v1/namespaces", {"metadata": restricted})
    kube.create_service_account("default", namespace="restricted")
    pod["metadata"]["namespace"] = "restricted"
    for container in pod["spec"]["containers"]:
        container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert kube.dry_run(yaml.safe_dump(pod)) == ["pod/app serverside-applied (server dry run)"]
    del pod["spec"]["initContainers"][0]["securityContext"]
    with pytest.raises(KubeRefused, match='container "robin" must set'):
        kube.dry_run(yaml.safe_dump(pod))


def test_manifests_are_shipped():
    assert list(MANIFESTS.rglob("*.yaml")), f"{MANIFESTS} holds no manifest"
