"""How `robin kube` mints, what it does when that fails, and what it checks of the cluster before it serves (sections 9 and 15)."""

import asyncio
import base64
import json
import ssl

import pytest
from tests.planes.kube.conftest import ACCOUNT, MINTS, PODS, READS

from robin.planes.kube.minting import MintSettings
from robin.testing.api_server import Allow, ApiServer
from robin.testing.certificates import CertificateAuthority
from robin.testing.process import RobinProcess

pytestmark = pytest.mark.asyncio

JIT = {"service_account": "robin-agent", "namespace": "robin-system", "timeout": "30s"}  # the machine may be busy


def specs(api: ApiServer) -> list[dict[str, object]]:
    """What was asked in each TokenRequest."""
    return [json.loads(event.body)["spec"] for event in api.events if event.target.endswith("/token")]


async def test_ttl_is_soft_and_600_seconds_are_asked_for(bed):
    async with bed(flags=("--jit-ttl", "60s")) as parts:
        assert (await parts.ask(f"GET {PODS}")).status == 200
        minted = parts.records("token.minted")[0]
        assert (minted["asked_s"], minted["granted_s"], minted["effective_s"], minted["account"]) == (600, 600, 60, "robin-agent")
        assert specs(parts.api)[-1] == {"expirationSeconds": 600}  # no key `audiences`, no boundObjectRef


async def test_what_is_asked_for_is_never_below_600_nor_the_number_with_a_meaning():
    asked = [MintSettings(namespace="n", service_account="a", ttl_s=float(ttl_s)).asked_s for ttl_s in range(60, 86401)]
    assert asked == [3608 if ttl_s == 3607 else max(600, ttl_s) for ttl_s in range(60, 86401)]


async def test_a_token_for_a_wrong_audience_is_a_gateway_error_and_never_a_401(bed):
    async with bed(credentials={"jit": {**JIT, "audiences": ["wrong"], "bind_secret": "{agent}-handle"}}) as parts:
        answer = await parts.ask(f"GET {PODS}")
        assert (answer.status, answer.code) == (502, "kube.upstream_unauthorized")
        wanted = {"apiVersion": "v1", "kind": "Secret", "name": "a-handle"}
        assert specs(parts.api)[-1] == {"expirationSeconds": 600, "audiences": ["wrong"], "boundObjectRef": wanted}


PATH = "/api/v1/namespaces/robin-system/serviceaccounts/robin-agent/token"


def reply(status: int, body: dict[str, object], *fields: str) -> bytes:
    octets = json.dumps(body).encode()
    head = "\r\n".join(
        [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(octets)}", "Connection: close", *fields]
    )
    return head.encode() + b"\r\n\r\n" + octets


def minted(
    sub: str = ACCOUNT, token: str | None = None, created: str = "2026-01-01T00:00:00Z", ends: str = "2026-01-01T00:10:00Z"
) -> dict[str, object]:
    claims = base64.urlsafe_b64encode(json.dumps({"sub": sub, "jti": "j"}).encode()).rstrip(b"=").decode()
    return {"metadata": {"creationTimestamp": created}, "status": {"token": token or f"e30.{claims}.c2ln", "expirationTimestamp": ends}}


FAILURES = [
    (reply(403, {}), "kube.mint_forbidden", 500, 1),
    (reply(404, {"details": {"kind": "serviceaccounts"}}), "kube.mint_no_account", 500, 1),
    (reply(404, {"details": {"kind": "secrets"}}), "kube.revoked", 403, 1),
    (reply(409, {}), "kube.revoked", 403, 1),
    (reply(422, {"message": "spec: too short"}), "kube.mint_invalid", 500, 1),
    (reply(400, {}), "kube.mint_invalid", 500, 1),
    (reply(401, {}), "kube.bootstrap_rejected", 500, 2),
    (reply(429, {}, "Retry-After: 99"), "kube.rate_limited", 429, 1),
    (reply(500, {}), "kube.mint_unavailable", 503, 2),
    (b"", "kube.mint_unavailable", 503, 2),
    (reply(201, {}), "kube.mint_invalid", 500, 1),
    (reply(201, minted(sub="system:serviceaccount:robin-system:other")), "kube.mint_invalid", 500, 1),
    (reply(201, minted(token="opaque")), "kube.mint_invalid", 500, 1),
    (reply(201, minted(ends="2026-01-01T00:00:10Z")), "kube.mint_invalid", 500, 1),
]


async def test_every_failure_of_a_mint_is_a_refusal_of_its_own_and_nothing_is_forwarded(bed):
    async with bed() as parts:
        for octets, code, status, calls in FAILURES:
            parts.api.events.clear()
            parts.api.replies[PATH] = octets
            answer = await parts.ask(f"GET {PODS}")
            assert (answer.code, answer.status) == (code, status), octets
            assert [event.target for event in parts.api.events] == [PATH] * calls, octets
            if status in (429, 503):
                assert answer.fields["retry-after"] == str(answer.json["details"]["retryAfterSeconds"]) == ("30" if status == 429 else "1")
            if code == "kube.mint_forbidden":
                assert "resourceNames [robin-agent]" in answer.json["message"]
            if b"too short" in octets:
                assert "spec: too short" in answer.json["message"]
        del parts.api.replies[PATH]
        assert (await parts.ask(f"GET {PODS}")).status == 200


async def test_an_api_server_that_is_gone_is_503_in_a_moment(bed):
    async with bed() as parts:
        await parts.api.close()
        async with asyncio.timeout(6):
            answer = await parts.ask(f"GET {PODS}")
        assert (answer.status, answer.code, answer.fields["retry-after"]) == (503, "kube.mint_unavailable", "1")


async def test_a_bootstrap_token_that_rotates_is_used_without_a_restart(bed):
    async with bed() as parts:
        del parts.api.tokens["bootstrap-1"]
        assert (await parts.ask(f"GET {PODS}")).code == "kube.bootstrap_rejected"
        parts.api.tokens["bootstrap-2"] = ("minter", "", float("inf"))
        parts.bootstrap.write_text("bootstrap-2\n")
        assert (await parts.ask(f"GET {PODS}")).status == 200  # the 401 made it look at the file


@pytest.mark.parametrize(
    ("name", "extra", "flag"),
    [
        ("S3", Allow(user="minter", verbs=("create",), resources=("serviceaccounts/token",)), "--unsafe-broad-minter"),
        (
            "S4",
            Allow(user=ACCOUNT, verbs=("create",), resources=("serviceaccounts/token",), namespace="robin-system"),
            "--unsafe-self-minting",
        ),
    ],
)
async def test_a_credential_that_could_mint_its_successors_ends_the_start(bed, name: str, extra: Allow, flag: str):
    async with bed(rules=(MINTS, READS, extra), wait="") as parts:
        assert await parts.robin.returned() == 1
        assert parts.robin.stderr[-1].startswith(f"robin: {name}: ")
        assert flag in parts.robin.stderr[-1]
        async with RobinProcess("kube", "--config", str(parts.config), flag) as unsafe:
            await unsafe.event("started")


async def test_a_client_certificate_that_mints_does_not_carry_requests(bed, tmp_path):
    authority = CertificateAuthority(tmp_path / "masters")
    leaf = authority.issue("masters")
    bootstrap = {"cert_file": str(leaf.certificate_file), "key_file": str(leaf.key_file)}
    cluster_authority = CertificateAuthority(tmp_path / "other")
    context = cluster_authority.issue("localhost").server_context()
    context.load_verify_locations(str(authority.ca_file))
    context.verify_mode = ssl.CERT_OPTIONAL
    rules = (Allow(user="masters", verbs=("create",), resources=("serviceaccounts/token",)), READS)
    async with ApiServer(tls=context, bootstrap="unused", rules=rules) as api:
        api.certificate_user = "masters"
        cluster = {"url": api.url, "ca_file": str(cluster_authority.ca_file), "bootstrap": bootstrap}
        async with bed(cluster=cluster, flags=("--unsafe-broad-minter",)) as parts:
            assert (await parts.ask(f"GET {PODS}")).status == 200
            users = {event.target.rpartition("/")[2]: event.user for event in api.events}
            assert (users["token"], users["pods"]) == ("masters", ACCOUNT)


@pytest.mark.parametrize(
    ("token_file", "code", "shown"),
    [
        ("/nonexistent", "S2:no_token", "cluster.bootstrap.token_file (/nonexistent) holds no token of Robin's own; name one"),
        ("{bootstrap}", "S1:connect_refused", "the API server does not answer"),
    ],
)
async def test_a_cluster_that_is_not_there_yet_is_waited_for_and_nothing_is_minted_before_the_checks(
    bed, tmp_path, token_file: str, code: str, shown: str
):
    own = {"token_file": token_file.format(bootstrap=tmp_path / "bootstrap")}
    async with bed(cluster={"url": "https://localhost:1", "bootstrap": own}, wait="startup_checks") as parts:
        detail = (await parts.robin.event("startup_checks"))["detail"]
        assert detail.startswith(f"{code}: ")
        assert shown in detail
        ready = await parts.page("/readyz")
        assert (ready.status, ready.json["reasons"][-1]) == (503, code)
        assert (await parts.ask(f"GET {PODS}")).code == "kube.mint_unavailable"


@pytest.mark.parametrize(
    ("name", "octets", "shown"),
    [
        ("nope", None, "robin: kube.cluster.ca_file: {path}: No such file or directory; name a PEM file that can be read"),
        ("bad", b"x", "robin: kube.cluster.ca_file ({path}): not a usable PEM bundle; give PEM files that fit"),
    ],
)
async def test_a_tls_file_that_cannot_be_used_is_named_with_its_key(bed, tmp_path, name: str, octets: bytes | None, shown: str):
    path = tmp_path / name
    if octets is not None:
        path.write_bytes(octets)
    async with bed(cluster={"url": "https://localhost:1", "ca_file": str(path)}, wait="") as parts:
        assert await parts.robin.returned() == 2
        assert parts.robin.stderr[-1] == shown.format(path=path)
