"""The grants of the clouds through the real gateway: what the cloud and the origin see, and what is refused (G26, G28-G30, G52)."""

import hashlib
import hmac
import json
import re
from contextlib import AbstractAsyncContextManager
from email.utils import formatdate
from pathlib import Path
from typing import Any

from tests.grants.proxied import World, reply, token_reply, world
from tests.wire.test_sts import document, error

from robin.testing.message import ReceivedRequest

SECRET = "secret/canary0EXAMPLE"
AWS = 'grant_type: aws_web_identity, token_endpoint: "%(url)s/", role_arn: "arn:aws:iam::123456789012:role/r", region: eu-west-1'
PROVIDER = "projects/1/locations/global/workloadIdentityPools/pool/providers/spiffe"
GCP = f'preset: google, token_endpoint: "%(url)s/v1/token", workload_provider: {PROVIDER}'
AZURE = 'preset: entra, token_endpoint: "%(url)s/t", tenant: t.example, client_id: c, scopes: [api://x/.default]'
S3 = "signing_service: s3, signing_region: eu-west-1"

_AUTHORIZATION = re.compile(
    rb"AWS4-HMAC-SHA256 Credential=(\w+)/(\d+)/([\w-]+)/(\w+)/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=(\w+)"
)
TOKEN_HASH = "sha256:" + hashlib.sha256(b"token+/canary==").hexdigest()[:16]


def aws(folder: Path, signing: str = S3, **more: Any) -> AbstractAsyncContextManager[World]:
    return world(folder, chain=AWS, endpoints=f"[{{host: a.localhost, port: %(port)d, tls: none, {signing}}}]", **more)


def keys(_: ReceivedRequest) -> bytes:
    return reply(200, document(), b"Content-Type: text/xml", b"Date: " + formatdate(1_893_452_400, usegmt=True).encode())


def is_signed(request: ReceivedRequest) -> bool:
    """Whether the signature is that of what arrived, with the keys that STS gave."""
    (text,) = request.values(b"authorization")
    found = _AUTHORIZATION.fullmatch(text)
    assert found is not None
    _, day, region, service, names, signature = found.groups()
    (date,) = request.values(b"x-amz-date")
    path, _, query = request.target.partition(b"?")
    fields = b"".join(b"%b:%b\n" % (name, b",".join(request.values(name))) for name in names.split(b";"))
    (payload,) = request.values(b"x-amz-content-sha256") or [hashlib.sha256(request.body).hexdigest().encode()]
    canonical = b"\n".join((request.method, path, b"&".join(sorted(query.split(b"&"))), fields, names, payload))
    scope = b"/".join((day, region, service, b"aws4_request"))
    key = b"AWS4" + SECRET.encode()
    for part in scope.split(b"/"):
        key = hmac.new(key, part, hashlib.sha256).digest()
    to_sign = b"\n".join((b"AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical).hexdigest().encode()))
    return hmac.new(key, to_sign, hashlib.sha256).hexdigest().encode() == signature


async def test_g26_g28_a_request_is_signed_with_the_keys_of_the_role_and_the_callers_own_signature_never_leaves(
    tmp_path: Path,
) -> None:
    async with aws(tmp_path) as at:
        at.issuer.reply = keys
        dummy = "Authorization: AWS4-HMAC-SHA256 Credential=DUMMY\r\nX-Amz-Date: 20000101T000000Z\r\nX-Amz-Security-Token: dummy\r\n"
        digest = hashlib.sha256(b"hello").hexdigest()
        bodies = [
            {"method": "PUT", "fields": dummy + f"x-amz-content-sha256: {digest}\r\nx-amz-meta-a: b\r\n", "body": b"hello"},
            {"method": "PUT", "fields": "x-amz-date: x\r\nX_Amz_Security_Token: y\r\n", "body": b"hello"},
            {"method": "GET", "path": "/a%20b?prefix=x%2Fy&list-type=2"},
            {"method": "DELETE", "path": "/k"},
        ]
        for one in bodies:
            assert (await at.ask(**one)).status == 200  # type: ignore[arg-type]
        for request in at.origin.seen:
            assert is_signed(request)
            assert request.values(b"x-amz-security-token") == [b"token+/canary=="]
            assert len(request.values(b"x-amz-date")) == len(request.values(b"x-amz-content-sha256")) == 1
            assert b"dummy" not in request.raw.lower()
        assert [request.body for request in at.origin.seen[:2]] == [b"hello", b"hello"]
        (call,) = at.issuer.seen
        assert (call.values(b"authorization"), call.target, call.values(b"content-type")) == (
            [],
            b"/",
            [b"application/x-www-form-urlencoded; charset=utf-8"],
        )
        assert call.body.startswith(
            b"Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fr&"
        )
        (first, *_, last) = await at.lines("gateway.decision", 4)
        assert (first["grant"]["kind"], first["grant"]["issuer_request_id"]) == ("aws_web_identity", "c6104cbe-af31")
        assert {first["grant"]["token_hash"], last["grant"]["token_hash"]} == {TOKEN_HASH}
        assert "canary" not in json.dumps(at.gateway.lines)
        assert re.search(rb'robin_grant_injections_total\{[^}]*style="sigv4"[^}]*\} 4', await at.scrape())


STREAM = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"


CHUNKED = "Transfer-Encoding: chunked\r\n"
REFUSED: tuple[tuple[dict[str, Any], int, str], ...] = (
    ({"fields": f"x-amz-content-sha256: {STREAM}\r\n", "body": b"x"}, 400, "signing_mode_unsupported"),
    ({"fields": "x-amz-content-sha256: UNSIGNED-PAYLOAD\r\n", "body": b"x"}, 400, "signing_mode_unsupported"),
    ({"fields": f"x-amz-content-sha256: {'0' * 64}\r\nConnection: x-amz-content-sha256\r\n"}, 400, "signing_mode_unsupported"),
    ({"path": "/k?X-Amz-Signature=0&X-Amz-Expires=9"}, 403, "caller_credential_refused"),
    ({"body": b"x" * 11}, 413, "signing_body_too_large"),
    ({"body": b"1\r\nx\r\n0\r\n\r\n", "fields": CHUNKED}, 413, "signing_body_too_large"),
    ({"host": "b.localhost", "body": b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n", "fields": CHUNKED}, 413, "signing_body_too_large"),
)


async def test_g28_g52_what_cannot_be_signed_is_refused_and_nothing_is_asked_or_sent(tmp_path: Path) -> None:
    held = f"{{host: b.localhost, port: %(port)d, tls: none, credential_signing: sigv4:body, {S3}}}"
    places = f"[{{host: a.localhost, port: %(port)d, tls: none, {S3}}}, {held}]"
    async with world(tmp_path, chain=AWS, endpoints=places, grants={"signing_max_body_bytes": 10}) as at:
        at.issuer.reply = keys
        for ask, status, code in REFUSED:
            refused = await at.ask(method="PUT", **ask)
            assert (refused.status, refused.problem["code"], refused.value("retry-after")) == (status, code, None)
            assert f'details="{code}"' in (refused.value("proxy-status") or "")
        assert (at.origin.seen, at.issuer.seen) == ([], [])
        lines = await at.lines("gateway.decision", len(REFUSED))
        assert [(line["verdict"], line["code"]) for line in lines[:-1]] == [("deny", code) for _, _, code in REFUSED[:-1]]


async def test_a_body_of_unknown_length_is_held_where_the_endpoint_has_every_body_digested(tmp_path: Path) -> None:
    async with aws(tmp_path, "credential_signing: sigv4:body, signing_service: dynamodb, signing_region: eu-west-1") as at:
        at.issuer.reply = keys
        await at.ask(method="POST", fields="Transfer-Encoding: chunked\r\nX-Amz-Target: T\r\n", body=b"1\r\nx\r\n0\r\n\r\n")
        (seen,) = at.origin.seen
        assert (is_signed(seen), seen.body, seen.values(b"x-amz-content-sha256")) == (True, b"x", [])


STS_FAULTS = (
    (reply(200, b"<!DOCTYPE a>" + document(), b"Content-Type: text/xml"), 502, "issuer_answer_invalid", None),
    (reply(400, error("ExpiredTokenException").reveal(), b"Content-Type: text/xml"), 502, "subject_refused", "ExpiredTokenException"),
    (reply(403, error("AccessDenied").reveal(), b"Content-Type: text/xml"), 502, "grant_refused", "AccessDenied"),
    (reply(400, error("Throttling").reveal(), b"Content-Type: text/xml", b"Retry-After: 7"), 503, "issuer_rate_limited", "Throttling"),
)


async def test_g26_g52_what_sts_refuses_is_a_fault_without_its_prose(tmp_path: Path) -> None:
    async with aws(tmp_path) as at:
        for octets, status, code, shown in STS_FAULTS:
            at.issuer.reply = lambda _, octets=octets: octets  # type: ignore[misc]
            refused = await at.ask()
            assert (refused.status, refused.problem["code"], refused.problem.get("issuer_error")) == (status, code, shown)
            assert int(refused.value("retry-after") or 0) >= 1
            assert b"canary" not in refused.head + refused.body
            at.drop_tokens()
        assert at.origin.seen == []
        calls = await at.lines("grant_call", 5)  # one of them twice, with a fresh identity token
        found = [(one["grant"]["fault"], one["grant"]["issuer_request_id"]) for one in calls]
        assert list(dict.fromkeys(found)) == [(code, shown and "id-1") for _, _, code, shown in STS_FAULTS]
        assert "canary" not in json.dumps(at.gateway.lines)


async def test_g29_google_is_asked_twice_and_the_quota_project_is_ours_alone(tmp_path: Path) -> None:
    whole = f"{GCP}, impersonate: sa@p.iam.gserviceaccount.com, quota_project: billing-1, scopes: [s]"
    async with world(tmp_path, chain=whole) as at:
        second = json.dumps({"accessToken": "sa-token", "expireTime": "2099-01-01T00:00:00Z"}).encode()
        at.issuer.reply = lambda request: (
            token_reply("federated") if request.target == b"/v1/token" else reply(200, second, b"Content-Type: application/json")
        )
        assert (await at.ask(fields="X-Goog-User-Project: mine\r\n")).status == 200
        (seen,) = at.origin.seen
        assert (seen.values(b"authorization"), seen.values(b"x-goog-user-project")) == ([b"Bearer sa-token"], [b"billing-1"])
        assert [one.target for one in at.issuer.seen] == [
            b"/v1/token",
            b"/v1/projects/-/serviceAccounts/sa@p.iam.gserviceaccount.com:generateAccessToken",
        ]
        assert at.issuer.seen[1].values(b"authorization") == [b"Bearer federated"]
        at.drop_tokens()
        at.issuer.reply = lambda request: token_reply("federated") if request.target == b"/v1/token" else reply(403, b"{}")
        refused = await at.ask()
        assert (refused.status, refused.problem["code"], len(at.origin.seen)) == (502, "grant_refused", 1)


async def test_g30_entra_is_not_asked_with_an_identity_token_that_it_refuses(tmp_path: Path) -> None:
    async with world(tmp_path, chain=AZURE) as at:
        refused = await at.ask()
        assert (refused.status, refused.problem["code"], refused.value("retry-after")) == (502, "assertion_unsuitable", None)
        assert str(refused.problem["detail"]).startswith("alg ES256; entra accepts RS256..PS512")
        assert (at.issuer.seen, at.origin.seen) == ([], [])
