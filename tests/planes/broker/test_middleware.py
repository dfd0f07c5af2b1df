"""The middleware of Python services (P42, P43, P45): what it lets through, what the application gets, and what it refuses."""

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.planes.broker.conftest import Life
from tests.planes.broker.rig import SUBJECT, Rig, route
from tests.planes.broker.servers import call_asgi, call_wsgi, environ_of, raw_request, scope_of

from robin.cli.main import main
from robin.model.passport import HTTPSIG, PROFILES, TRANSCRIPT
from robin.passport import PassportASGI, PassportWSGI, SettingsError, Verifier
from robin.planes.broker.keys import load_keys
from robin.testing.manual_clock import ManualClock
from robin.testing.recording_upstream import RecordingUpstream
from robin.testing.waiting import eventually
from robin.transport.clock import SystemClock

Headers = list[tuple[str, str]]
BODY = b'{"order_id":"ord_123"}'
JSON = ("Content-Type", "application/json")


class Service:
    """Applications of both kinds behind the middleware. `seen` is what the last call of one got: fields, body, passport."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self.asgi = PassportASGI(self._asgi, verifier)
        self.wsgi = PassportWSGI(self._wsgi, verifier)
        self.seen: list[tuple[dict[str, str], bytes, Any]] = []

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        message = await receive()
        fields = {name.decode(): value.decode() for name, value in scope["headers"]}
        assert (message["more_body"], scope["state"]["of"], (await receive())["type"]) == (False, "lifespan", "http.disconnect")
        self.seen.append((fields, message["body"], scope["state"]["robin.passport"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def _wsgi(self, environ: Any, start_response: Any) -> list[bytes]:
        fields = {key[5:].lower().replace("_", "-"): value for key, value in environ.items() if key.startswith("HTTP_")}
        body = environ["wsgi.input"].read()
        assert environ["CONTENT_LENGTH"] == str(len(body))
        self.seen.append((fields, body, environ["robin.passport"]))
        start_response("200 OK", [])
        return []

    async def both(self, raw: bytes) -> list[tuple[int, str]]:
        """Status and reason of both kinds."""
        status, problem, _ = await call_asgi(self.asgi, *scope_of(raw))
        other, second, _ = call_wsgi(self.wsgi, environ_of(raw))
        return [(status, problem.get("reason", "")), (other, second.get("reason", ""))]


class Stand:
    """Settings, bundle and issuer key of a service that has no Robin beside it."""

    def __init__(self, folder: Path, **verify: object) -> None:
        self.folder = folder
        self.rig = Rig(
            route("read", path_template="/orders", scheme="http"),
            route("one", path_template="/orders/{id}", scheme="http"),
            route("create", method="POST", path_template="/orders", scheme="http"),
            route("asserted", method="POST", path_template="/asserted", scheme="http", body="asserted"),
        )
        self.clock = ManualClock()
        self.rig.document |= {"created_at": int(self.clock.wall()) - 10, "not_after": int(self.clock.wall()) + 86400}
        self.sign()
        given = {"bundle": "bundle.json", "bundle_keys": ["sign.jwk.pub"], "authorities": ["orders.example"], "scheme": "http"}
        given["bundle"], given["bundle_keys"] = str(folder / "bundle.json"), [str(folder / "sign.jwk.pub")]
        plain = {"trust_domain": "example.org", "issuer": "https://issuer.example", "state_dir": str(folder / "state")}
        self.config = folder / "robin.yaml"
        self.config.write_text(json.dumps({"version": 1, "broker": {**plain, "verify": {**given, "clock_skew": "0s", **verify}}}))

    def sign(self) -> None:
        key, draft = self.folder / "sign.jwk", self.folder / "draft.json"
        draft.write_text(json.dumps(self.rig.document))
        if not key.exists():
            assert main(["passport", "bundle", "keygen", "--out", str(key)]) == 0
        command = ["passport", "bundle", "sign", "--bundle", str(draft), "--key", str(key), "--out", str(self.folder / "bundle.json")]
        assert main(command) == 0

    def open(self) -> Verifier:
        """A verifier whose watermark has passed."""
        verifier = Verifier.from_config(self.config, clock=self.clock)
        assert verifier.reasons == ("replay_watermark",)
        self.clock.advance(2)
        assert verifier.reasons == ()
        return verifier

    def signed(self, profile: str = HTTPSIG, method: str = "GET", target: str = "/orders", **given: Any) -> bytes:
        """The bytes of a signed request, with more fields behind it."""
        more, body = given.pop("more", []), given.pop("body", b"")
        self.rig.now = self.clock.wall()
        asked = self.rig.ask(profile, method, target, body=body, scheme="http", **given)
        return raw_request([*self.rig.issue(asked), *more], method, target, host="orders.example", body=body)

    def records(self) -> list[tuple[str, str, str]]:
        """Surface, code and detail of each decision."""
        records = [json.loads(line) for line in (self.folder / "state" / "audit.jsonl").read_text().splitlines()]
        return [(one["surface"], one["reason_code"], one["detail_reason"] or "") for one in records if one["event"] == "passport.verify"]


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


@pytest.fixture
def served(stand: Stand) -> Iterator[Service]:
    service = Service(stand.open())
    yield service
    service.verifier.close()
    assert main(["audit", "verify", str(stand.folder / "state" / "audit.jsonl")]) == 0


# P42


def with_(fields: Headers, name: str, change: Callable[[str], str]) -> Headers:
    """The fields with the value of one changed."""
    assert name in [other.lower() for other, _ in fields]
    return [(other, change(value) if other.lower() == name else value) for other, value in fields]


def without(fields: Headers, name: str) -> Headers:
    return [pair for pair in fields if pair[0].lower() != name]


def flip(text: str) -> str:
    """Another character in the middle."""
    at = len(text) // 2
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


def resign(token: str) -> str:
    """The token with another signature."""
    signed, _, signature = token.rpartition(".")
    return f"{signed}.{flip(signature)}"


def unsigned(token: str) -> str:
    """The token with the algorithm `none`."""
    prefix, _, token = token.rpartition(" ")
    header, _, rest = token.partition(".")
    members = {**json.loads(base64.urlsafe_b64decode(header + "==")), "alg": "none"}
    header = base64.urlsafe_b64encode(json.dumps(members, separators=(",", ":")).encode()).rstrip(b"=").decode()
    return f"{prefix} {header}.{rest}".lstrip()


TOKEN = {TRANSCRIPT: "authorization", HTTPSIG: "workload-identity-token"}
SIGNATURE = {TRANSCRIPT: "x-trustplane-proof", HTTPSIG: "signature"}
NONCED = {TRANSCRIPT: "x-trustplane-nonce", HTTPSIG: "signature-input"}
POST = {"method": "POST", "body": BODY}
A = (403, 400)
Change = Callable[[Headers, str], Headers]


def same(fields: Headers, _: str) -> Headers:
    return fields


def typed(fields: Headers, _: str) -> Headers:
    return [JSON, *fields]


def renonced(fields: Headers, profile: str) -> Headers:
    """Another nonce of the same form."""
    return with_(fields, NONCED[profile], lambda value: value.replace('nonce="', 'nonce="A') if profile == HTTPSIG else flip(value))


def twice(fields: Headers, profile: str) -> Headers:
    return [*fields, *(pair for pair in fields if pair[0].lower() == TOKEN[profile])]


def upgraded(fields: Headers, _: str) -> Headers:
    return [("Connection", "upgrade"), ("Upgrade", "websocket"), *fields]


def overridden(fields: Headers, profile: str) -> Headers:
    """What Rails, Symfony and others take for the method or the path."""
    return [("X-HTTP-Method-Override" if profile == HTTPSIG else "X-Original-URL", "DELETE"), *fields]


OTHER_BODY = BODY[:-1] + b"]"
CASES: list[tuple[str, dict[str, Any], Change, tuple[int, str], tuple[int, str]]] = [
    ("as signed", {}, same, (200, ""), (200, "")),
    ("with its body", {"signed": POST, **POST}, typed, (200, ""), (200, "")),
    ("another body", {"signed": POST, **POST, "body": OTHER_BODY}, typed, (403, "body_digest_mismatch"), (400, "body_digest_mismatch")),
    ("a body", {"body": b"abc"}, same, (403, "body_digest_mismatch"), (400, "proof_coverage_insufficient")),
    ("a query", {"target": "/orders?a=1"}, same, (403, "request_binding_mismatch"), (400, "invalid_request_proof")),
    ("two slashes", {"target": "//orders"}, same, (403, "transcript_ambiguous"), (403, "bundle_route_missing")),
    ("an escape", {"target": "/%6frders"}, same, (403, "transcript_ambiguous"), (403, "bundle_route_missing")),
    ("dots", {"target": "/x/../orders"}, same, (403, "transcript_ambiguous"), (403, "bundle_route_missing")),
    ("another method", {"method": "PUT"}, same, (403, "bundle_route_missing"), (403, "bundle_route_missing")),
    ("another host", {"host": "other.example"}, same, (421, "authority_not_served"), (421, "authority_not_served")),
    ("of another route", {"signed": {"method": "POST"}}, same, (403, "route_mismatch"), (400, "route_mismatch")),
    ("no passport", {}, lambda *_: [], (401, "passport_missing"), (401, "passport_missing")),
    ("no proof", {}, lambda fields, profile: without(fields, SIGNATURE[profile]), (403, "proof_missing"), (400, "proof_missing")),
    (
        "another proof",
        {},
        lambda fields, profile: with_(fields, SIGNATURE[profile], flip),
        *[(code, "invalid_request_proof") for code in A],
    ),
    ("another nonce", {}, renonced, (403, "request_binding_mismatch"), (400, "invalid_request_proof")),
    ("re-signed", {}, lambda fields, profile: with_(fields, TOKEN[profile], resign), *[(code, "passport_signature_invalid") for code in A]),
    (
        "none",
        {},
        lambda fields, profile: with_(fields, TOKEN[profile], unsigned),
        *[(code, "passport_algorithm_not_allowed") for code in A],
    ),
    ("a token twice", {}, twice, (403, "transcript_ambiguous"), (400, "passport_malformed")),
    ("a type", {}, typed, (403, "request_binding_mismatch"), (400, "proof_coverage_insufficient")),
    ("an upgrade", {}, upgraded, (403, "transcript_ambiguous"), (403, "transcript_ambiguous")),
    ("another method in a field", {}, overridden, (403, "transcript_ambiguous"), (400, "transcript_ambiguous")),
]
"""Name; what is signed and what is sent; the change of the headers; status and reason for transcript-v1 and wimse-httpsig."""


def forwarded(fields: Headers, method: str, target: str, host: str) -> Headers:
    """What Traefik adds."""
    original = {"Method": method, "Proto": "http", "Host": host, "Uri": target}
    return [*fields, *((f"X-Forwarded-{name}", value) for name, value in original.items())]


def fresh(rig: Rig, authority: str, profile: str, change: Change, signed: dict[str, Any]) -> Headers:
    """The headers of a new passport, changed."""
    rig.now = SystemClock().wall()
    kind = (("content-type", JSON[1]),) if signed.get("body") else ()
    return change(rig.issue(rig.ask(profile, scheme="http", authority=authority, fields=kind, **signed)), profile)


async def test_the_same_requests_have_one_status_and_reason_on_every_surface(
    folder: Path, service: RecordingUpstream, life: Life, capsys: pytest.CaptureFixture[str]
):
    own = folder / "service.yaml"
    section = {name: value for name, value in life.broker.items() if name != "issue"} | {"state_dir": str(folder / "service")}
    own.write_text(json.dumps({"version": 1, "broker": section}))
    (key,) = load_keys(folder / "state" / "keys", now=0, auto_create=False)
    routes = [{**one, "audiences": ["orders"], "authorities": [life.authority]} for one in life.broker["issue"]["routes"]]
    rig = Rig(*(route(**one) for one in routes), key=key)
    python = Service(Verifier.from_config(own))
    await eventually(lambda: not python.verifier.reasons, what="the watermark to pass")
    count = 0
    for profile in PROFILES:
        for name, given, change, transcript, httpsig in CASES:
            sent = {"method": "GET", "target": "/orders", "body": b"", "host": life.authority, **given}
            signed = {"target": "/orders", **sent.pop("signed", {})}
            wanted = transcript if profile == TRANSCRIPT else httpsig

            fields = partial(fresh, rig, life.authority, profile, change, signed)
            raw = raw_request(fields(), **sent)
            got = {"inbound": await life.send(fields(), **sent)}
            path = {"to": life.forward, **sent, "target": f"/v1/envoy{sent['target']}"}
            got["envoy"] = await life.send(fields(), **path)
            path |= {"target": "/v1/traefik", "host": life.forward}
            got["traefik"] = await life.send(forwarded(fields(), sent["method"], sent["target"], sent["host"]), **path)
            got["asgi"] = await call_asgi(python.asgi, *scope_of(raw))
            got["wsgi"] = call_wsgi(python.wsgi, environ_of(raw_request(fields(), **sent)))
            found = {surface: (status, problem.get("reason", "")) for surface, (status, problem, _) in got.items()}
            assert found == dict.fromkeys(found, wanted), (profile, name)
            (folder / "request").write_bytes(raw)
            command = ["passport", "verify", "--request", str(folder / "request"), "--bundle", str(folder / "bundle.json")]
            assert main([*command, "--bundle-key", str(folder / "sign.jwk.pub"), "--authority", life.authority]) in (0, 1)
            reason = json.loads(capsys.readouterr().out.splitlines()[-1])["reason"]
            assert reason == (wanted[1] or "passport_verified"), (profile, name)
            count += 1
    assert count == 42
    python.verifier.close()


# P43, P45


async def test_the_application_gets_what_was_verified_and_nothing_that_a_client_says_of_itself(stand: Stand, served: Service):
    forged = [("Robin-Passport-Subject", "forged"), ("X-TrustPlane-Subject", "forged"), ("X-TrustPlane-JTI", "forged"), ("X-Other", "1")]
    underscores = [("Robin_Passport_Subject", "forged"), ("robin_passport_identity", "forged")]
    for profile in PROFILES:
        kind = (("content-type", JSON[1]),)
        raw = stand.signed(profile, "POST", "/asserted", body=BODY, fields=kind, more=[JSON, *forged])
        (status, _, _), (other, _, _) = (
            await call_asgi(served.asgi, *scope_of(raw.replace(b"X-Other", b"Robin_Passport_Subject: forged\r\nX-Other"))),
            call_wsgi(
                served.wsgi,
                environ_of(stand.signed(profile, "POST", "/asserted", body=BODY, fields=kind, more=[JSON, *forged, *underscores])),
            ),
        )
        assert (status, other) == (200, 200)
        for fields, body, passport in served.seen[-2:]:
            assert body == BODY
            assert "forged" not in fields.values()
            assert {name.replace("-", "_") for name in fields} & {
                "signature",
                "signature_input",
                "workload_identity_token",
                "authorization",
            } == set()
            assert [name for name in fields if name.startswith("x-trustplane")] == []
            assert (fields["x-other"], fields["robin-passport-subject"], passport.subject) == ("1", SUBJECT, SUBJECT)
            shown = {f"robin-passport-{name.replace('_', '-')}": value for name, value in asdict(passport).items()}
            assert shown == {name: value for name, value in fields.items() if name.startswith("robin-passport-")}
            assert passport.content_digest.startswith("sha-256=:")
    assert [surface for surface, code, _ in stand.records() if code == "passport_verified"] == ["asgi", "wsgi"] * 2


async def test_a_bearer_that_a_proof_covers_is_passed_on(stand: Stand, served: Service):
    bearer = (("authorization", "Bearer opaque"),)
    for call in (
        lambda raw: call_asgi(served.asgi, *scope_of(raw)),
        lambda raw: asyncio.to_thread(call_wsgi, served.wsgi, environ_of(raw)),
    ):
        assert (await call(stand.signed(fields=bearer, more=[("Authorization", "Bearer opaque")])))[0] == 200
        assert served.seen[-1][0]["authorization"] == "Bearer opaque"


async def test_without_the_target_as_it_was_sent_nothing_is_verified(stand: Stand, served: Service):
    """P43. Each is the scope or the environ of a good request with one entry changed, as by a server or another middleware."""
    scopes = [
        {"raw_path": None},
        {"raw_path": b""},
        {"raw_path": b"/orders?"},
        {"path": "/admin"},
        {"root_path": "/x", "path": "/x/orders"},
    ]
    for changes in scopes:
        scope, body = scope_of(stand.signed())
        status, problem, _ = await call_asgi(served.asgi, {**scope, **changes}, body)
        assert (status, problem["reason"], problem["allowed"]) == (400, "raw_target_unavailable", False), changes
    for changes in ({"RAW_URI": ""}, {"PATH_INFO": "/admin"}, {"SCRIPT_NAME": "/x"}, {"QUERY_STRING": "a=1"}):
        status, problem, _ = call_wsgi(served.wsgi, {**environ_of(stand.signed()), **changes})
        assert (status, problem["reason"]) == (400, "raw_target_unavailable"), changes
    environ = environ_of(stand.signed(target="/orders?a=1"))
    environ["REQUEST_URI"] = environ.pop("RAW_URI")
    environ |= {"SCRIPT_NAME": "/orders", "PATH_INFO": ""}
    assert call_wsgi(served.wsgi, environ)[0] == 200
    raw = stand.signed(target="/orders/admin", more=[("SCRIPT_NAME", "/orders")])  # gunicorn calls the application for /admin by it
    environ = environ_of(raw) | {"SCRIPT_NAME": "/orders", "PATH_INFO": "/admin"}
    assert call_wsgi(served.wsgi, environ)[0] == 400
    assert [detail for _, code, detail in stand.records() if code == "raw_target_unavailable"] == [
        *("raw_path", "raw_path", "raw_path", "path", "path"),
        *("raw_uri", "path", "path", "query", "script_name"),
    ]


async def test_what_the_server_cannot_show_is_refused(stand: Stand, served: Service):
    """Only in one of the kinds: an absolute form (ASGI drops it), lines that were joined, a body without an end."""
    environ = environ_of(stand.signed())
    joined = stand.signed(TRANSCRIPT, fields=(("content-type", "a/b,c/d"),), more=[("Content-Type", "a/b"), ("Content-Type", "c/d")])
    chunked = {"HTTP_TRANSFER_ENCODING": "chunked"}
    cases = [
        ({**environ, "RAW_URI": "http://orders.example/orders"}, "transcript_ambiguous"),
        ({**environ, "HTTP_CONNECTION": "close, X-Other", "HTTP_X_OTHER": "1"}, "transcript_ambiguous"),
        (environ_of(joined), "transcript_ambiguous"),
        ({**environ_of(stand.signed()), **chunked, "wsgi.input_terminated": False}, "body_digest_mismatch"),
        ({**environ_of(stand.signed("wimse-httpsig", "POST", body=BODY)), "CONTENT_LENGTH": str(len(BODY) + 1)}, "body_digest_mismatch"),
    ]
    for changed, reason in cases:
        status, problem, _ = call_wsgi(served.wsgi, changed)
        assert (status in (400, 403), problem["reason"]) == (True, reason), changed
    body = {**environ_of(stand.signed("wimse-httpsig", "POST", body=BODY)), **chunked}
    del body["CONTENT_LENGTH"]
    assert call_wsgi(served.wsgi, body)[0] == 200
    assert served.seen[-1][1] == BODY
    sent: list[dict[str, Any]] = []
    scope = {"type": "websocket", "headers": [], "path": "/orders", "raw_path": b"/orders"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await served.asgi(scope, lambda: pytest.fail("nothing is received"), send)
    assert [(one["type"], one["code"]) for one in sent] == [("websocket.close", 1008)]
    assert stand.records()[-1] == ("asgi", "transcript_ambiguous", "upgrade")


async def test_a_body_has_a_limit_of_size_and_time(tmp_path: Path):
    stand = Stand(tmp_path, max_body_bytes=len(BODY))
    service = Service(stand.open())
    for extra, status in ((b"", 200), (b"x", 413)):
        for chunked in (False, True):
            raw = stand.signed(HTTPSIG, "POST", body=BODY + extra)
            if chunked:
                head, _, body = raw.partition(b"\r\n\r\n")
                raw = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
                raw += b"\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            reason = "body_too_large" if extra else ""
            assert call_wsgi(service.wsgi, environ_of(raw))[0] == status
            scope, body = scope_of(stand.signed(HTTPSIG, "POST", body=BODY + extra))
            found, problem, _ = await call_asgi(service.asgi, scope if not chunked else unannounced(scope), body)
            assert (found, problem.get("reason", "")) == (status, reason), chunked
    scope, _ = scope_of(stand.signed(HTTPSIG, "POST", body=BODY))
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    service.verifier.body_within_s = 0.01
    await service.asgi(scope, asyncio.Event().wait, send)
    assert (sent[0]["status"], json.loads(sent[1]["body"])["reason"]) == (400, "nonce_stale")
    assert stand.records()[-1] == ("asgi", "nonce_stale", "slow_body")
    calls = len(service.seen)
    service.verifier.body_within_s = 60.0
    scope, _ = scope_of(stand.signed(HTTPSIG, "POST", body=BODY))
    sent.clear()
    await service.asgi(scope, leave, send)
    assert (sent, len(service.seen)) == ([], calls), "the client left"
    service.verifier.close()


def unannounced(scope: dict[str, Any]) -> dict[str, Any]:
    """The scope of a request whose body is chunked."""
    kept = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
    return {**scope, "headers": [*kept, (b"transfer-encoding", b"chunked")]}


async def leave() -> dict[str, Any]:
    return {"type": "http.disconnect"}


# its life


async def test_a_replay_is_refused_whichever_kind_it_comes_to_and_once_closed_everything_is(stand: Stand, served: Service):
    raw = stand.signed()
    assert await served.both(raw) == [(200, ""), (400, "nonce_replay")]
    scope, _ = scope_of(stand.signed())
    await served.asgi({"type": "lifespan"}, leave, leave_unsent)
    raw = stand.signed()
    assert await served.both(raw) == [(503, "replay_store_unavailable")] * 2
    _, _, fields = await call_asgi(served.asgi, scope)
    assert ("retry-after", "1") in fields
    assert served.verifier.reasons == ("replay_store_unavailable",)


async def leave_unsent(_: object) -> None:
    """A server that is not interested in what the application says of its lifespan."""


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore")
from robin.passport import PassportWSGI, Verifier
verifier = Verifier.from_config(sys.argv[1])
def application(environ, start_response):
    sys.exit("it was called")
def tell(status, fields):
    os.write(1, f"{os.getpid() == parent} {status}\\n".encode())  # whole, beside the other process
parent = os.getpid()
child = os.fork()
environ = {"REQUEST_METHOD": "PUT", "RAW_URI": "/orders", "PATH_INFO": "/orders", "QUERY_STRING": "", "HTTP_HOST": "orders.example"}
b"".join(PassportWSGI(application, verifier)(environ, tell))
if child:
    os.waitpid(child, 0)
"""


async def test_a_forked_child_lets_nothing_through_and_a_second_process_does_not_start(stand: Stand):
    """The store is one process's: a copy of it would take each passport once more."""
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", FORK, str(stand.config)], capture_output=True, text=True, check=True, timeout=100
    )
    assert sorted(ran.stdout.splitlines()) == ["False 503 Service Unavailable", "True 403 Forbidden"]
    assert [code for _, code, _ in stand.records()] == ["bundle_route_missing"]
    assert main(["audit", "verify", str(stand.folder / "state" / "audit.jsonl")]) == 0, "sealed at exit, by the parent alone"
    verifier = Verifier.from_config(stand.config)
    with pytest.raises(SettingsError, match="another process uses this state_dir"):
        Verifier.from_config(stand.config)
    verifier.close()


async def test_an_audit_thread_that_ends_is_logged_and_lets_nothing_through(stand: Stand, caplog: pytest.LogCaptureFixture):
    verifier = stand.open()
    service = Service(verifier)

    def broken(_: object) -> int:
        raise RuntimeError("a bug")

    verifier._audit_log._file.append = broken
    assert await service.both(stand.signed()) == [(503, "audit_unavailable")] * 2
    await eventually(lambda: "audit_ended" in caplog.text, what="the end of the thread to be logged")
    assert (verifier.reasons, service.seen) == (("audit_unavailable",), [])
    verifier.close()


async def test_settings_that_cannot_be_used_are_refused_with_every_error(stand: Stand):
    document = json.loads(stand.config.read_text())
    cases = [
        (lambda broker: broker["verify"].update(scheme="ftp", max_age="1y"), ["scheme", "max_age"]),
        (lambda broker: broker.pop("verify"), ["verify"]),
        (lambda broker: broker["verify"].update(bundle_keys=["/nowhere"]), ["/nowhere"]),
        (lambda broker: broker.update(audit={"file": "/nowhere/audit.jsonl"}), ["broker.audit.file"]),
    ]
    for change, words in cases:
        changed = json.loads(json.dumps(document))
        change(changed["broker"])
        stand.config.write_text(json.dumps(changed))
        with pytest.raises(SettingsError) as refused:
            Verifier.from_config(stand.config)
        assert [word for word in words if word not in str(refused.value)] == []
    with pytest.raises(SettingsError, match="cannot read"):
        Verifier.from_config(stand.folder / "none.yaml")


async def test_a_new_bundle_is_used_within_a_second_and_a_renamed_audit_file_is_left(stand: Stand, served: Service):
    assert await served.both(stand.signed()) == [(200, ""), (400, "nonce_replay")]
    stand.rig.document |= {"serial": 2, "revocations": [{"kind": "sub", "value": SUBJECT, "until": int(stand.clock.wall()) + 600}]}
    stand.sign()
    stand.clock.advance(1)
    assert await served.both(stand.signed()) == [(400, "passport_revoked")] * 2
    audit = stand.folder / "state" / "audit.jsonl"
    assert not served.verifier.reopen_audit()
    audit.rename(audit.with_name("old.jsonl"))
    assert served.verifier.reopen_audit()
    assert await served.both(stand.signed()) == [(400, "passport_revoked")] * 2
    assert len(stand.records()) == 2
    served.verifier.close()
    assert main(["audit", "verify", str(audit.with_name("old.jsonl")), str(audit)]) == 0
