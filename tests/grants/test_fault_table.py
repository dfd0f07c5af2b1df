"""Each fault of token grants, once: its status, fields, members and both records, and that the origin met no connection (G52)."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.grants.proxied import Response, World, reply, token_reply, world
from tests.grants.test_exchange import EXCHANGE, caller, written
from tests.grants.test_proxied import TWO
from tests.grants.test_proxied_clouds import AWS, S3

from robin.model.grant_faults import GRANT_FAULTS
from robin.testing.certificates import CertificateAuthority
from robin.testing.manual_clock import ManualClock
from robin.testing.tokens import make_token
from robin.testing.waiting import eventually

OF_CALLER = f"{EXCHANGE}, subject_token: {{source: caller}}"
JSON = b"Content-Type: application/json"
ENDPOINT = "[{host: a.localhost, port: %%(port)d, tls: none, %s}]"
SIGNED = {"chain": AWS, "endpoints": ENDPOINT % S3, "grants": {"signing_max_body_bytes": 10}}
HELD = {**SIGNED, "endpoints": ENDPOINT % f"credential_signing: sigv4:body, {S3}"}
ANY_PLACE = {"policy": {"rules": [{"name": "any", "hosts": ["b.localhost"], "schemes": ["http"], "ports": ["PORT"]}]}}
PUT: dict[str, Any] = {"method": "PUT"}
CHUNKED = {"body": b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n", "fields": "Transfer-Encoding: chunked\r\n"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`after` are the least and the most seconds of Retry-After, `calls` the calls to the issuer, `error` the issuer's code if it is shown.

    `stage` are arguments of `world`, `ask` those of the request; `act` makes that request in another way. `rule`: the rule that the body
    names; None: it names the provider and the credential, as the binding in the record of the decision does.
    """

    case: str
    code: str
    status: int
    type: str = "proxy_internal_error"
    source: str = "issuer"
    failure: str = ""
    after: tuple[int, int] | None = None
    calls: int = 1
    error: str = ""
    rule: str | None = None
    credential: str = "token"
    answer: bytes | None = None
    stage: dict[str, Any] = field(default_factory=dict)
    ask: dict[str, Any] = field(default_factory=dict)
    files: Callable[[Path], dict[str, Any]] = lambda _: {}
    act: Callable[[World], Awaitable[Response]] | None = None


async def without_identity(at: World) -> Response:
    at.identities.missing = True
    return await at.ask()


async def with_two_audiences(at: World) -> Response:
    at.identities.claims = {"aud": ["https://issuer.example", "https://another.example"]}
    return await at.ask()


async def withdrawn(at: World) -> Response:
    at.issuer.gate.clear()
    waiting = asyncio.ensure_future(at.ask())
    await eventually(lambda: at.issuer.seen, what="the call to the issuer")
    at.reload(attached=False)
    at.issuer.gate.set()
    return await waiting


async def with_an_expired_subject(at: World) -> Response:
    return await at.ask(fields=caller(make_token(expires_at=at.clock.wall() + 4).decode()))


def untrusted(folder: Path) -> dict[str, Any]:
    return {"issuer_tls": CertificateAuthority(folder / "pki").issue("127.0.0.1").server_context()}


def an_empty_file(folder: Path) -> dict[str, Any]:
    return {"plain": "name: token", "provider": {"files": {"token": written(folder, "token", "")}}}


def a_file_about_to_expire(folder: Path) -> dict[str, Any]:
    text = make_token(expires_at=ManualClock().wall() + 4).decode()
    return {"grant": f"{EXCHANGE}, subject_token: {{source: file}}", "provider": {"files": {"token": written(folder, "token", text)}}}


def refusal(code: str) -> bytes:
    return reply(400, json.dumps({"error": code, "error_description": "prose"}).encode())


SOON, HALF_A_MINUTE, A_MINUTE = (1, 1), (27, 33), (54, 66)
RETRY, FIX, LOOK, AGAIN = "retry", "fix_configuration", "investigate", "reauthorize"
RULE = "provider:demo"
DENIED: dict[str, Any] = {"type": "http_request_denied", "source": "policy", "calls": 0, "rule": RULE}
BAD: dict[str, Any] = {"type": "http_request_error", "source": "downstream", "calls": 0, "rule": RULE}
SLOW: dict[str, object] = {"issuer_rate": {"per_second": 1, "burst": 1}, "token_timeout": "900ms"}

ROWS = (
    Row(case="no identity", code="identity_unavailable", status=503, source="identity", after=SOON, calls=0, act=without_identity),
    Row(case="503", code="issuer_unavailable", status=503, failure=RETRY, after=SOON, answer=reply(503)),
    Row(case="a close", code="issuer_unavailable", status=503, failure=RETRY, after=SOON, calls=2, answer=b""),
    Row(case="429", code="issuer_rate_limited", status=503, failure=RETRY, after=(9, 9), answer=reply(429, b"", b"Retry-After: 9")),
    Row(
        case="a file",
        code="static_credential_unavailable",
        status=503,
        source="identity",
        after=SOON,
        calls=0,
        files=an_empty_file,
    ),
    Row(
        case="a second call at once",
        code="issuer_overloaded",
        status=503,
        type="connection_limit_reached",
        failure=RETRY,
        after=SOON,
        stage={"grants": SLOW, "credentials": TWO},
        credential="key",
    ),
    Row(
        case="400",
        code="grant_refused",
        status=502,
        failure=FIX,
        after=HALF_A_MINUTE,
        error="invalid_scope",
        answer=refusal("invalid_scope"),
    ),
    Row(case="an unknown code", code="grant_refused", status=502, failure=FIX, after=HALF_A_MINUTE, answer=refusal("prose")),
    Row(case="302", code="issuer_redirected", status=502, failure=FIX, after=HALF_A_MINUTE, answer=reply(302, b"", b"Location: /")),
    Row(case="tls", code="issuer_tls_failed", status=502, failure=FIX, after=HALF_A_MINUTE, calls=0, files=untrusted),
    Row(case="{}", code="issuer_answer_invalid", status=502, failure=LOOK, after=HALF_A_MINUTE, answer=reply(200, b"{}", JSON)),
    Row(
        case="two audiences",
        code="assertion_unsuitable",
        status=502,
        type="proxy_configuration_error",
        source="identity",
        failure=FIX,
        calls=0,
        act=with_two_audiences,
    ),
    Row(
        case="of the identity",
        code="subject_refused",
        status=502,
        failure=AGAIN,
        after=A_MINUTE,
        calls=2,
        error="invalid_grant",
        answer=refusal("invalid_grant"),
    ),
    Row(
        case="of the caller",
        code="subject_refused",
        status=401,
        failure=AGAIN,
        after=A_MINUTE,
        calls=2,
        error="invalid_grant",
        answer=refusal("invalid_grant"),
        stage={"grant": OF_CALLER},
        ask={"fields": caller("subject")},
    ),
    Row(case="of the caller", code="subject_token_missing", status=401, source="downstream", calls=0, stage={"grant": OF_CALLER}),
    Row(
        case="of the caller",
        code="subject_token_expired",
        status=401,
        source="identity",
        calls=0,
        stage={"grant": OF_CALLER},
        act=with_an_expired_subject,
    ),
    Row(case="of a file", code="subject_token_expired", status=502, source="identity", calls=0, files=a_file_about_to_expire),
    Row(case="a reload", code="binding_withdrawn", status=403, **{**DENIED, "calls": 1, "rule": None}, act=withdrawn),
    Row(case="read-only", code="endpoint_closed", status=403, **DENIED, stage={"endpoints": ENDPOINT % "access: read-only"}, ask=PUT),
    Row(
        case="a deny rule",
        code="endpoint_closed",
        status=403,
        **DENIED,
        stage={"endpoints": ENDPOINT % "deny_rules: [{method: GET, path: /no/*}]"},
        ask={"path": "/no/a/b"},
    ),
    Row(
        case="a rule that cannot be judged",
        code="endpoint_closed",
        status=403,
        **DENIED,
        stage={"endpoints": ENDPOINT % "deny_rules: [{operation_type: mutation}]"},
    ),
    Row(
        case="a signed URL",
        code="caller_credential_refused",
        status=403,
        **DENIED,
        stage=SIGNED,
        ask={"path": "/k?X-Amz-Signature=0"},
    ),
    Row(
        case="%2F",
        code="path_not_canonical",
        status=400,
        **{**BAD, "rule": ""},
        stage={"endpoints": ENDPOINT % "path: /v1/**"},
        ask={"path": "/v1%2Fx"},
    ),
    Row(
        case="signed chunks",
        code="signing_mode_unsupported",
        status=400,
        **BAD,
        stage=SIGNED,
        ask={"fields": "x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\n", "body": b"x", **PUT},
    ),
    Row(case="a length", code="signing_body_too_large", status=413, **BAD, stage=SIGNED, ask={"body": b"x" * 11, **PUT}),
    Row(case="a body", code="signing_body_too_large", status=413, **{**BAD, "rule": ""}, stage=HELD, ask={**CHUNKED, **PUT}),
    Row(
        case="another host",
        code="placeholder_misused",
        status=403,
        **{**DENIED, "rule": ""},
        stage={"style": "placeholder: robin-placeholder", "section": ANY_PLACE},
        ask={"host": "b.localhost", "fields": "Authorization: Bearer robin-placeholder\r\n"},
    ),
)

DENIED_BY_GRANT = {"subject_token_missing", "binding_withdrawn"}
"""What the gateway itself denies for want of a binding or of the caller's token; all other faults of a grant are failures."""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.code}-{row.case}")
async def test_g52_a_fault_has_its_status_fields_members_and_records_and_nothing_is_sent(tmp_path: Path, row: Row) -> None:
    async with world(tmp_path, manual=True, **row.stage, **row.files(tmp_path)) as at:
        answer = token_reply("t") if row.answer is None else row.answer
        at.issuer.reply = lambda _: answer
        refused = await (at.ask(**row.ask) if row.act is None else row.act(at))
        assert refused.status == row.status
        assert refused.value("cache-control") == "no-store"
        assert refused.value("content-type") == "application/problem+json"
        assert refused.value("proxy-status") == f'robin-gateway; error={row.type}; details="{row.code}"'
        after = refused.value("retry-after")
        assert after is None if row.after is None else row.after[0] <= int(after or 0) <= row.after[1]
        members = {"class": row.failure, "issuer_error": row.error, "rule": row.rule}
        if row.rule is None:
            members |= {"provider": "demo", "credential": row.credential}
        expected = {"type": f"urn:robin:fault:{row.code}", "status": row.status, "code": row.code, "source": row.source}
        expected |= {name: value for name, value in members.items() if value}
        expected["retry"] = "never" if row.after is None else "after"
        shown = dict(refused.problem)
        assert all(shown.pop(name) for name in ("title", "detail"))
        request_id = shown.pop("request_id")
        assert shown == expected
        for hidden in (b"prose", b"token\x22: ", str(at.issuer.port).encode()):
            assert hidden not in refused.body
        assert (at.origin.connections, len(at.issuer.seen)) == (0, row.calls)
        (decision,), (close,) = await at.lines("gateway.decision", 1), await at.lines("gateway.close", 1)
        verdict = "deny" if row.rule is not None or row.code in DENIED_BY_GRANT else "failed"
        assert (decision["id"], decision["verdict"], decision["code"]) == (request_id, verdict, row.code)
        assert (close["id"], close["fault"], close["status"], close["upstream"]) == (request_id, row.code, row.status, None)
        if row.rule is None:
            grants = decision["grant"] if isinstance(decision["grant"], list) else [decision["grant"]]
            assert {(one["binding"].partition("/")[0], one["fault"]) for one in grants} == {("demo", row.code)}


def test_each_code_of_grants_has_its_row() -> None:
    assert {row.code for row in ROWS} >= set(GRANT_FAULTS)
