"""Broker and verifier as one process: abuse with its records, the protocol, the start (P2, P3, P8 to P13, P24 to P26, P36, P49)."""

import asyncio
import base64
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.planes.broker.conftest import CREATE, ROUTE, Life, ask_as, tcp_listeners
from tests.planes.broker.rig import Rig, route

from robin.cli.main import main
from robin.planes.broker.keys import KeyFileRefused, load_keys, make_key, save_key
from robin.testing.process import RobinProcess, free_port
from robin.wire.broker_ipc import render_issue

OF_OTHERS = 65000
FORGED = ("Robin-Passport-Subject", "Robin_Passport_Subject", "Robin-Passport-Content-Digest", "X-TrustPlane-Subject", "x_trustplane_jti")


async def test_what_was_issued_is_accepted_and_the_service_sees_who_it_was(life: Life):
    for profile in ("wimse-httpsig", "transcript-v1"):
        status, _, _ = await life.send([*await life.headers(profile=profile), *((name, "forged") for name in FORGED)])
        assert status == 200
        seen = life.service.requests[-1]
        assert [value for _, value in seen.fields if value == b"forged"] == []
        assert seen.values(b"robin-passport-subject") == [b"spiffe://example.org/agent"]
        assert seen.values(b"robin-passport-profile") == [profile.encode()]
        gone = (b"authorization", b"workload-identity-token", b"signature", b"x-trustplane-nonce", b"x-trustplane-subject")
        assert [name for name in gone if seen.values(name)] == []


# the four abuse regressions: P9 to P12


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process of another user")
async def test_abuse_wrong_peer(life: Life):
    request = life.request("transcript-v1")
    reply = json.loads(await asyncio.to_thread(ask_as, OF_OTHERS, life.socket, render_issue(request)))
    assert (reply["status"], reply["reason"]) == ("deny", "peer_not_allowed")
    (record,) = life.records("passport.issue")
    assert (record["reason_code"], record["accepted"], record["component"]) == ("peer_not_allowed", False, "broker")
    assert record["peer"]["uid"] == OF_OTHERS
    check_audit(life)


async def test_abuse_wrong_route(life: Life):
    reply = await life.ask(life.request(target="/admin", route_id="admin"))
    assert reply["reason"] == "peer_route_not_allowed"
    reply = await life.ask(life.request(target="/other", route_id="read"))
    assert reply["reason"] == "route_mismatch"
    for profile, status in (("transcript-v1", 403), ("wimse-httpsig", 400)):
        headers = await life.headers(profile=profile)
        assert (await life.send(headers, target="/admin"))[:1] == (status,)
    codes = [(one["component"], one["reason_code"]) for one in life.records() if one.get("accepted") is False]
    assert codes == [("broker", "peer_route_not_allowed"), ("broker", "route_mismatch"), *[("verifier", "route_mismatch")] * 2]
    assert all(one["jti"] for one in life.records("passport.verify"))
    assert life.service.requests == []
    check_audit(life)


async def test_abuse_stale_nonce(life: Life):
    """The clock of a real process cannot be set, so the broker's own key signs as it would have 66 s ago."""
    (key,) = load_keys(life.folder / "state" / "keys", now=0, auto_create=False)
    rig = Rig(route("read", audiences=["orders"], path_template="/orders", scheme="http", authorities=[life.authority]), key=key)
    rig.now = time.time() - 66
    for profile, status in (("transcript-v1", 403), ("wimse-httpsig", 400)):
        asked = rig.ask(profile, target="/orders", scheme="http", authority=life.authority)
        found, body, _ = await life.send(rig.issue(asked))
        assert (found, body["reason"], body["allowed"]) == (status, "nonce_stale", False)
    records = life.records("passport.verify")
    assert [(one["reason_code"], one["detail_reason"]) for one in records] == [("nonce_stale", None)] * 2
    assert all(one["jti"] and one["component"] == "verifier" and one["accepted"] is False for one in records)
    assert life.service.connections == []
    check_audit(life)


async def test_abuse_replay(life: Life):
    for profile, status, reason in (("transcript-v1", 403, "jti_replay"), ("wimse-httpsig", 400, "nonce_replay")):
        headers = await life.headers(profile=profile)
        answers = await asyncio.gather(*(life.send(headers) for _ in range(50)))
        assert sorted(found for found, _, _ in answers) == sorted([200] + [status] * 49)
        assert {body["reason"] for found, body, _ in answers if found != 200} == {reason}
        (record, *rest) = [one for one in life.records("passport.verify") if one["reason_code"] == reason]
        assert (record["accepted"], record["component"], len(rest)) == (False, "verifier", 48)
        issued = next(one for one in life.records("passport.issue") if one["jti"] == record["jti"])
        name = "transcript_sha256" if profile == "transcript-v1" else "base_sha256"
        assert issued[name] == record[name] is not None
    assert len(life.service.requests) == 2
    assert (await life.ask(life.request(nonce="nonce-of-ours-1")))["status"] == "allow"
    assert (await life.ask(life.request(nonce="nonce-of-ours-1")))["reason"] == "nonce_replay"
    check_audit(life)


def check_audit(life: Life) -> None:
    assert main(["audit", "verify", str(life.folder / "state" / "audit.jsonl")]) == 0


# the protocol: P24 and P25


def public(life: Life, **changes: object) -> dict[str, object]:
    """A request of the public envelope."""
    from robin.wire.transcript import EMPTY_SHA256, hash_value  # noqa: PLC0415

    nonce = "nonce-public-001"
    query = {"raw": "", "normalization": "rfc3986-sort-keys-values", "normalized": "", "sha256": EMPTY_SHA256}
    headers = {"allow_list": ["x-trustplane-nonce"], "selected": [{"name": "x-trustplane-nonce", "value_sha256": hash_value(nonce)}]}
    http = {"method": "GET", "scheme": "http", "authority": life.authority, "path": "/orders", "content_encoding": "identity"}
    http |= {"audience": "orders", "route_id": "read", "body_sha256": EMPTY_SHA256, "nonce": nonce, "query": query, "headers": headers}
    binding = {"intent": "route_policy_minimum", "requested_key_binding": "software", "acceptable_key_bindings": ["software"]}
    request = {"request_id": "p-1", "protocol": "local-json-ipc", "operation": "issue_request_bound_passport", "http": http}
    request |= {"ctx": {"selected_fields": [], "values": {}}, "key_binding": {**binding, "allow_software_fallback": False}}
    return {**request, **changes}


async def ask_public(life: Life, request: dict[str, object]) -> dict[str, object]:
    return await life.ask(request, kind="broker_ipc_exchange", version="trustplane-broker-ipc-v1")


async def test_the_public_envelope_is_answered_in_its_own_form(life: Life):
    reply = await ask_public(life, public(life))
    assert (reply["accepted"], reply["reason_code"], reply["error"], reply["request_id"]) == (True, "broker_passport_issued", None, "p-1")
    passport, stamp = reply["artifacts"]["passport"], reply["artifacts"]["stamp"]
    headers = [("Authorization", f"Bearer {passport['value']}"), ("X-TrustPlane-Proof", stamp["value"])]
    headers += [("X-TrustPlane-Transcript-SHA256", stamp["transcript_sha256"]), ("X-TrustPlane-Nonce", "nonce-public-001")]
    headers += [("X-TrustPlane-Body-SHA256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")]
    assert (await life.send(headers))[0] == 200

    binding = {"intent": "route_policy_minimum", "requested_key_binding": "attested_workload", "acceptable_key_bindings": []}
    reply = await ask_public(life, public(life, key_binding={**binding, "allow_software_fallback": False}))
    assert (reply["accepted"], reply["issued_at"], reply["artifacts"], reply["reason_code"]) == (False, 0, None, "insufficient_key_binding")
    assert reply["error"]["details"] == {"requested_key_binding": "attested_workload", "available_key_binding": "software"}

    held = [await asyncio.open_unix_connection(life.socket) for _ in range(32)]
    assert await life.ask_line(b"") == b""  # the 33rd of a user is closed at once
    for reader, writer in held:
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()

    for member in ("normalized", "sha256"):
        request = public(life)
        request["http"]["query"][member] = "a=1" if member == "normalized" else "0" * 64
        assert (await ask_public(life, request))["reason_code"] == "ipc_inconsistent"
    request = public(life)
    request["http"]["path"] = "/orders?a=1"  # the query has its own member
    assert (await ask_public(life, request))["reason_code"] == "ipc_inconsistent"
    request = public(life)
    request["http"]["headers"]["selected"][0]["value_sha256"] = "0" * 64
    assert (await ask_public(life, request))["reason_code"] == "ipc_inconsistent"
    assert (await ask_public(life, {**public(life), "more": 1}))["reason_code"] == "ipc_malformed"


DAMAGE = {
    "[" * 100: {"problem": "not_json"},
    "{}": {"problem": "members", "of": "envelope", "missing": ["version", "kind", "request"], "unknown": 0},
    '"ctx": {"x": 1.5}': {"problem": "fraction"},
    '"ctx": {"s3cret": "x"}': "request.ctx",
    '"ctx": {"purpose": "\\ud800"}': {"problem": "half_surrogate"},
    '"ctx": [[[[[[[[]]]]]]]]': {"problem": "depth"},
    '"ctx": 1, "ctx": 2': {"problem": "duplicate_member"},
    '"s3cret": 1': {"problem": "members", "of": "request", "missing": [], "unknown": 1},
    '"http": {"method": "GET", "s3cret": 1, "x": 2}': {
        "problem": "members",
        "of": "request.http",
        "missing": ["scheme", "authority", "target", "fields", "body_sha256"],
        "unknown": 2,
    },
    '"http": "s3cret"': "request.http",
    '"request_id": "s3 cret"': "request.request_id",
    '"profile": "s3cret"': "request.profile",
    '"nonce": "s3cret"': "request.nonce",
    '"audience": 1': "request.audience",
    '"signer": {"identity": "none", "key_protection": "s3cret"}': "request.signer.key_protection",
}
"""What is wrong: the whole line, or the last member of `request`, in place of the right one. The details: a text is the member of a wrong
value."""


def damaged(good: dict[str, object], text: str) -> bytes:
    if not text.startswith('"'):
        return text.encode() + b"\n"
    kept = {name: value for name, value in good.items() if name != text.split('"')[1]}
    request = json.dumps(kept)[:-1] + ", " + text + "}"
    return b'{"version":"robin-broker-ipc-v1","kind":"issue","request":%b}\n' % request.encode()


async def test_what_is_not_a_request_is_refused_and_the_reply_names_why_in_words_of_the_protocol(life: Life):
    good = life.request()
    slow = asyncio.create_task(life.ask_line(b'{"version":'))  # never a line end; meanwhile the others are answered
    lines = {damaged(good, text): ("ipc_malformed", details) for text, details in DAMAGE.items()} | {
        b"x" * 65537 + b"\n": ("ipc_too_large", {}),
        b"\xef\xbb\xbf{}\n": ("ipc_malformed", {"problem": "not_json"}),
        b'{"a":' + b"9" * 5000 + b"}\n": ("ipc_malformed", {"problem": "not_json"}),
        render_issue(good) + b"{}": ("ipc_malformed", {"problem": "bytes_behind"}),
        render_issue(good)[:-1]: ("ipc_malformed", {"problem": "no_line_end"}),  # and then the end of the connection
        render_issue({**good, "http": {**good["http"], "fields": [["s3 cret", "x"]]}}): ("ipc_malformed", "request.http.fields"),
        render_issue({"request_id": "t-1"}, "challenge"): ("ipc_operation_unsupported", {}),
        render_issue(good).replace(b"robin-broker-ipc-v1", b"x"): (
            "ipc_version_unsupported",
            {"supported": ["trustplane-broker-ipc-v1", "robin-broker-ipc-v1"]},
        ),
    }
    for line, (wanted, details) in lines.items():
        text = await life.ask_line(line, finish=not line.endswith(b"\n"))
        reply = json.loads(text)
        assert reply["reason"] == wanted, line[:80]
        assert b"cret" not in text
        found = reply["error"]["details"]
        if isinstance(details, str):
            assert (found["problem"], found["member"], bool(found["expected"])) == ("value", details, True)
        else:
            assert found == details, line[:80]
    reply = json.loads(await slow)
    assert (reply["reason"], reply["error"]["retryable"]) == ("ipc_timeout", True)
    assert [one["reason_code"] for one in life.records("passport.issue")] == [*(code for code, _ in lines.values()), "ipc_timeout"]


async def test_the_page_about_the_protocol_shows_what_is_sent_and_lists_every_member(life: Life):
    page = (Path(__file__).parents[3] / "docs" / "reference" / "passports.md").read_text()
    section = page.partition("### The socket's protocol")[2].partition("\n## ")[0]
    asked, answered = (json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    asked["request"]["http"]["authority"] = life.authority
    reply = json.loads(await life.ask_line(json.dumps(asked).encode() + b"\n"))
    assert {name: type(value) for name, value in reply.items()} == {name: type(value) for name, value in answered.items()}
    assert [name for name, _ in reply["headers"]] == [name for name, _ in answered["headers"]]
    assert reply["expires_at"] - reply["issued_at"] == answered["expires_at"] - answered["issued_at"]
    same = ("request_id", "status", "reason", "signer")
    assert [reply[name] for name in same] == [answered[name] for name in same]
    assert (await life.send([tuple(pair) for pair in reply["headers"]]))[0] == 200

    own, other = re.findall(r"^\| member of `request` .*?\n\n", section, re.MULTILINE | re.DOTALL)
    for table, request in ((own, asked["request"]), (other, public(life))):
        listed = set(re.findall(r"[`.]([a-z_0-9]+)`", "".join(line.split("|")[1] for line in table.strip().splitlines()[2:])))
        assert set(members_of(request)) == listed


def members_of(request: dict[str, object]) -> Iterator[str]:
    """The name of each member that is no object with members of its own."""
    for name, value in request.items():
        if isinstance(value, dict) and value:
            yield from members_of(value)
        else:
            yield name


# the verifier as a process


JSON = [("Content-Type", "application/json")]
CHANGES = {
    "method": {"method": "PUT"},
    "target": {"target": "/orders?a=1"},
    "path": {"target": "/orders/"},
    "host": {"host": "other.example"},
    "covered header": {"content-type": "text/plain"},
    "body": {"body": b'{"a":2}'},
    "body length": {"body": b'{"a":1}\n'},
}


@pytest.mark.parametrize("profile", ["wimse-httpsig", "transcript-v1"])
async def test_one_byte_changed_never_reaches_the_service(life: Life, profile):
    """Item P8, and bodies over the limit, announced or not: every refusal has its record, and its request_id is that of the response."""
    ask = {"profile": profile, "method": "POST", "body": b'{"a":1}', "fields": [["content-type", "application/json"]]}
    credentials = [name.lower() for name, _ in await life.headers(**ask)]
    answers = []
    for change in [*CHANGES, *credentials]:
        headers = dict([*JSON, *await life.headers(**ask)])
        changes = {"method": "POST", "target": "/orders", "body": b'{"a":1}', **CHANGES.get(change, {})}
        headers = {name: changes.pop(name.lower(), value) for name, value in headers.items()}
        for name in headers:
            if name.lower() == change:
                at = len(headers[name]) - 12  # in the last segment, digest or signature
                headers[name] = headers[name][:at] + ("A" if headers[name][at] != "A" else "B") + headers[name][at + 1 :]
        status, answer, _ = await life.send(list(headers.items()), **changes)
        assert status in (400, 403, 421), change
        answers.append(answer)
    for more in ({"body": b"x" * 1048577}, {"body": b"x" * 1048577, "chunked": True}):
        status, answer, _ = await life.send([*JSON, *await life.headers(**ask)], "POST", **more)
        assert (status, answer["reason"]) == (413, "body_too_large")
        answers.append(answer)
    for name in ("Content-Type", "x-any"):
        named = [*JSON, *await life.headers(**ask), ("Connection", name), ("X-Any", "1")]
        status, answer, _ = await life.send(named, "POST", body=b'{"a":1}')
        assert (answer["reason"], answer["allowed"]) == ("transcript_ambiguous", False)
        answers.append(answer)
    assert life.service.connections == []
    records = life.records("passport.verify")
    assert [(one["reason_code"], one["request_id"]) for one in records] == [(one["reason"], one["request_id"]) for one in answers]

    status, _, _ = await life.send([*JSON, *await life.headers(**ask)], "POST", body=b'{"a":1}')
    assert status == 200
    assert life.service.requests[-1].body == b'{"a":1}'
    exchange = await life.process.event("exchange", after=len(answers))
    assert exchange["request_id"] == life.records("passport.verify")[-1]["request_id"]


SHAPE = {"Method": "GET", "Proto": "http", "URI": "/orders", "Protocol": "HTTP/1.1"}


def original(life: Life, prefix: str, **changes: str) -> list[tuple[str, str]]:
    values = {**SHAPE, "Host": life.authority, **changes}
    return [(f"{prefix}-{name}", value) for name, value in values.items() if value]


async def test_forward_auth_answers_each_shape_of_a_proxy(life: Life):
    nginx, traefik = original(life, "X-Original"), original(life, "X-Forwarded")
    for target, more in (("/v1/nginx", nginx), ("/v1/traefik", traefik), ("/v1/envoy/orders", [])):
        headers = await life.headers() + more
        status, _, head = await life.send(headers, target=target, to=life.forward)
        assert status == 200, target
        assert b"Robin-Passport-Subject: spiffe://example.org/agent" in head
        removed = b"x-envoy-auth-headers-to-remove: workload-identity-token,signature,signature-input,robin-passport-content-digest,"
        assert (removed in head) == target.startswith("/v1/envoy")
        status, answer, _ = await life.send(headers, target=target, to=life.forward)
        assert answer["reason"] == "nonce_replay"
        assert status == (403 if target == "/v1/nginx" else 400)  # nginx knows no other
    assert (await life.send(nginx, target="/v1/nginx", to=life.forward))[0] == 401
    unknown = original(life, "X-Original", Protocol="HTTP/2.0")
    empty = [*await life.headers(), *unknown, ("X-Original-Content-Length", "0")]
    assert (await life.send(empty, target="/v1/nginx", to=life.forward))[0] == 200
    bad = {
        "no method": ("/v1/nginx", nginx[1:], "forward_auth_incomplete"),
        "two hosts": ("/v1/nginx", [*nginx, nginx[-1]], "forward_auth_incomplete"),
        "of another proxy": ("/v1/traefik", nginx, "forward_auth_incomplete"),
        "a forged subject, for CGI": ("/v1/traefik", [*traefik, ("Robin_Passport-Subject", "x")], "passport_malformed"),
        "no shape": ("/orders", [], "forward_auth_incomplete"),
        "another method": ("/v1/nginx", original(life, "X-Original", Method="POST"), "route_mismatch"),
        "another target": ("/v1/nginx", original(life, "X-Original", URI="/orders?a=1"), "invalid_request_proof"),
        "a path that nginx would normalise": ("/v1/nginx", original(life, "X-Original", URI="//orders"), "bundle_route_missing"),
        "the same in Envoy's shape": ("/v1/envoy//orders", [], "bundle_route_missing"),
        "another scheme": ("/v1/nginx", original(life, "X-Original", Proto="https"), "authority_not_served"),
        "another host": ("/v1/nginx", original(life, "X-Original", Host="other.example"), "authority_not_served"),
        "a host that is not ASCII": ("/v1/nginx", original(life, "X-Original", Host="\xe9\x80.example"), "authority_not_served"),
        "an absolute target": ("/v1/nginx", original(life, "X-Original", URI=f"http://{life.authority}/orders"), "transcript_ambiguous"),
        "a body": ("/v1/nginx", [*nginx, ("X-Original-Content-Length", "5")], "proof_coverage_insufficient"),
        "no protocol": ("/v1/nginx", original(life, "X-Original", Protocol=""), "forward_auth_incomplete"),
        "a body of no announced length, as HTTP/2 has it": ("/v1/nginx", unknown, "body_digest_mismatch"),
        "a chunked body": ("/v1/nginx", [*nginx, ("X-Original-Transfer-Encoding", "chunked")], "proof_coverage_insufficient"),
        "a length that is none": ("/v1/nginx", [*nginx, ("X-Original-Content-Length", "-1")], "forward_auth_incomplete"),
        "a digit of another script": ("/v1/nginx", [*nginx, ("X-Original-Content-Length", "\xb2")], "forward_auth_incomplete"),
    }
    for name, (target, more, wanted) in bad.items():
        status, answer, _ = await life.send([*await life.headers(), *more], target=target, to=life.forward)
        assert (answer["reason"], answer["allowed"]) == (wanted, False), name
        assert status in ({401, 403} if target == "/v1/nginx" else {400, 403})
    denied = [one for one in life.records("passport.verify") if not one["accepted"]]
    assert [one["reason_code"] for one in denied[4:]] == [wanted for _, _, wanted in bad.values()]
    for kind, target, accepted in (
        ("a/b, c/d", "/v1/envoy/orders", True),
        ("a/b,c/d", "/v1/envoy/orders", False),  # Envoy joins two lines so, and forwards two
        ("a/b,", "/v1/envoy/orders", False),
        ("a/b,c/d", "/v1/traefik", True),
    ):
        for profile in ("wimse-httpsig", "transcript-v1"):
            signed = [("Content-Type", kind), *await life.headers(profile=profile, fields=[["content-type", kind]])]
            status, answer, _ = await life.send([*signed, *traefik], target=target, to=life.forward)
            assert (status == 200, answer.get("reason")) == (accepted, None if accepted else "transcript_ambiguous"), (kind, profile)
    for more, reason in (
        (("Transfer-Encoding", "chunked\r\n\r\nno chunk"), "forward_auth_incomplete"),
        (("Connection", "upgrade\r\nUpgrade: websocket"), "transcript_ambiguous"),
    ):
        asked = [*await life.headers(method="POST", body=b"x"), more]
        status, answer, _ = await life.send(asked, "POST", "/v1/envoy/orders", to=life.forward)
        assert (answer["reason"], life.records("passport.verify")[-1]["reason_code"]) == (reason, reason)
    chunked = [*await life.headers(profile="transcript-v1"), *original(life, "X-Original"), ("X-Original-Transfer-Encoding", "chunked")]
    status, answer, _ = await life.send(chunked, target="/v1/nginx", to=life.forward)
    assert (status, answer["reason"]) == (403, "body_digest_mismatch")
    status, answer, _ = await life.send([("Bad Name", "x")], target="/v1/nginx", to=life.forward)
    assert (status, answer["code"]) == (400, "bad_request")


async def test_nginx_may_ask_about_a_body_only_where_the_route_leaves_it_to_the_service(life: Life):
    empty = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
    for profile in ("wimse-httpsig", "transcript-v1"):
        for path, body, status in (("/asserted", b"abc", 200), ("/asserted", b"", 200), ("/orders", b"abc", 403)):
            headers = await life.headers(profile=profile, method="POST", target=path, body=body)
            shape = original(life, "X-Original", Method="POST", URI=path)
            found, answer, head = await life.send([*headers, *shape], target="/v1/nginx", to=life.forward)
            assert found == status, answer
            wanted = empty if not body else "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:"
            assert (f"Robin-Passport-Content-Digest: {wanted}".encode() in head) == (status == 200)


async def test_a_verifier_is_ready_with_a_bundle_and_takes_nothing_twice_after_a_restart(folder: Path, service):
    life = Life(folder, service)
    life.broker["admin"]["listen"] = admin = f"127.0.0.1:{free_port()}"
    life.write()
    life.make_bundle()
    bundle, audit = folder / "bundle.json", folder / "state" / "audit.jsonl"
    bundle.rename(folder / "later.json")
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        await process.event("listening")
        headers = await life.headers()
        status, answer, head = await life.send(headers)
        assert (status, answer["reason"], answer["retryable"]) == (503, "bundle_policy_missing", True)
        assert b"Retry-After: 1" in head
        status, answer, _ = await life.send([], target="/readyz", to=admin)
        assert status == 503
        assert "bundle_policy_missing" in json.dumps(answer)
        (folder / "later.json").rename(bundle)
        await process.event("started")
        assert (await life.send([], target="/readyz", to=admin))[0] == 200
        taken = [await life.headers(profile=profile) for profile in ("wimse-httpsig", "transcript-v1")]
        assert [(await life.send(headers))[0] for headers in taken] == [200, 200]
        assert (await life.send([]))[0] == 401
        metrics = await life.text("/metrics", to=admin)
        for series in (
            'robin_passport_issued_total{profile="wimse-httpsig",class="software",plane="broker"} 2',
            'robin_passport_denied_total{component="verifier",reason="passport_missing",plane="broker"} 1',
            'robin_passport_verified_total{profile="transcript-v1",surface="inbound",outcome="allow",plane="broker"} 1',
            'robin_passport_verify_seconds_count{profile="wimse-httpsig",plane="broker"} 2',
            'robin_replay_entries{plane="broker"} 2',
            'robin_bundle_reload_errors_total{plane="broker"} 1',
            'robin_broker_connections{plane="broker"} 0',
        ):
            assert f"\n{series}\n" in metrics
        life.make_bundle(lambda draft: draft.update(not_after=draft["created_at"] - 1))
        await process.event("bundle_loaded", after=1)
        status, answer, _ = await life.send([], target="/readyz", to=admin)
        assert status == 503
        assert "stale_bundle_fail_closed" in json.dumps(answer)
        assert (await life.send(await life.headers()))[1]["reason"] == "stale_bundle_fail_closed"
        life.make_bundle()
        audit.rename(folder / "old.jsonl")
        process.send_signal(signal.SIGHUP)
        await process.event("audit_reopened")
        assert (await life.ask(life.request(target="/other")))["reason"] == "route_mismatch"
        assert life.records("passport.issue")[-1]["reason_code"] == "route_mismatch"
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        await process.event("started")
        for headers, status in zip(taken, (400, 403), strict=True):
            found, answer, _ = await life.send(headers)
            assert (found, answer["reason"]) == (status, "nonce_stale")
    ahead = time.time() + 4  # the last use that is recorded, by a clock that has been set back since
    os.utime(audit, (ahead, ahead))
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        await process.event("listening")
        status, answer, _ = await life.send([], target="/readyz", to=admin)
        assert (status, "replay_watermark" in json.dumps(answer)) == (503, True)
        assert (await life.send(await life.headers()))[1]["reason"] == "nonce_stale"
        await process.event("started")
        assert time.time() > ahead
    assert [one["detail_reason"] for one in life.records("passport.verify")] == ["before_start"] * 3
    assert len(service.requests) == 2
    assert main(["audit", "verify", str(folder / "old.jsonl"), str(audit)]) == 0


async def test_neither_a_stranger_nor_a_body_that_does_not_come_holds_a_connection(folder: Path, service):
    life = Life(folder, service)
    life.broker["verify"]["max_age"] = "1s"
    life.broker["verify"]["forward_auth"]["trusted_proxies"] = ["10.0.0.0/8"]
    life.write()
    life.make_bundle()
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        await process.event("started")
        status, answer, _ = await life.send(await life.headers(), target="/v1/envoy/orders", to=life.forward)
        assert (status, answer["reason"]) == (403, "proxy_not_trusted")
        held = [await asyncio.open_connection(*life.forward.split(":")) for _ in range(65)]
        async with asyncio.timeout(5):  # earlier than the first of them is too slow
            assert await held[-1][0].read() == b""
        for _, writer in held:
            writer.close()
        withheld = [*await life.headers(method="POST", body=b"abc"), ("Content-Length", "3")]
        status, answer, _ = await life.send(withheld, "POST")  # for no longer than its proof could be accepted
        assert (status, answer["reason"]) == (400, "nonce_stale")
    assert [one["reason_code"] for one in life.records("passport.verify")] == ["proxy_not_trusted", "nonce_stale"]


async def test_no_secret_is_in_a_record_a_log_a_metric_or_an_answer(life: Life):
    canary, nonce, body = "canary-bearer-0123456789", "canary-nonce-0123456789", b"canary-body-0123456789"
    fields = [["authorization", f"Bearer {canary}"]]
    reply = await life.ask(life.request(fields=fields, nonce=nonce, method="POST", body=body))
    headers = [tuple(pair) for pair in reply["headers"]]
    secrets = [value for _, value in headers]
    answers = [await life.send([*headers, ("Authorization", f"Bearer {canary}")], "POST", target="/orders?secret=canary-query", body=body)]
    answers.append(await life.send([*headers, ("Authorization", f"Bearer {canary}")], "POST", body=body))
    assert answers[-1][0] == 200
    said = [json.dumps(await life.ask(life.request(fields=[*fields, ["x-other", "canary-field"]])))]
    said.append((await life.ask_line(f'["{canary}"]\n'.encode())).decode())
    headers = await life.headers(profile="transcript-v1")
    secrets += [value.removeprefix("Bearer ") for name, value in headers if not name.endswith("SHA256")]
    answers += [await life.send([*headers, ("X-TrustPlane-Nonce", "another-0123")], target="/orders") for _ in range(2)]
    said += [f"{answer}{head}" for _, answer, head in answers]
    assert canary not in json.dumps(reply)
    (started,) = [one for one in life.process.events if one["event"] == "started"]
    for path in ("/metrics", "/status", "/readyz"):
        said.append(str(await life.send([], target=path, to=started["admin"][0])))
    key = json.loads(next((life.folder / "state" / "keys").glob("*.jwk")).read_text())["d"]
    written = (life.folder / "state" / "audit.jsonl").read_text() + "".join(text for _, text in life.process.lines) + "".join(said)
    hidden = [canary, nonce, body.decode(), "canary-field", "canary-query", key, *secrets]
    hidden += [base64.b64encode(secret.encode()).decode().rstrip("=") for secret in hidden]
    assert [secret for secret in hidden if secret in written] == []


# the start: P26 and P36


async def test_the_socket_is_private_and_the_broker_alone_listens_on_probes_only(folder: Path, service):
    life = Life(folder, service)
    del life.broker["verify"]
    life.write()
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        listening = await process.event("started")
        assert os.stat(life.socket).st_mode & 0o777 == 0o600
        assert tcp_listeners(process.pid) == [int(listening["admin"][0].rpartition(":")[2])]
        ends = [("the same state", {"state_dir": str(folder / "state")}, 3, "another process uses this state_dir")]
        ends += [("the same socket", {}, 3, "another process is listening there")]
        await check_ends(life, ends)
    assert not os.path.exists(life.socket)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(life.socket)
    stale.close()
    group = max([*os.getgroups(), os.getgid()])
    life.broker["issue"] |= {"socket_mode": "0660", "socket_group": str(group)}
    life.write()
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        await process.event("started")
        found = os.stat(life.socket)
        assert (found.st_mode & 0o777, found.st_gid) == (0o660, group)
    Path(life.socket).write_text("a file")
    link = folder / "link.sock"
    link.symlink_to(life.socket)
    (folder / "open").mkdir()
    (folder / "open").chmod(0o1777)
    (folder / "shared").mkdir()
    (folder / "shared").chmod(0o770)
    ends = [("a file", {}, 3, "something that is not a socket is there")]
    ends += [("a link", {"issue": {**life.broker["issue"], "socket": str(link)}}, 3, "something that is not a socket is there")]
    ends += [("an open folder", {"issue": {**life.broker["issue"], "socket": f"{folder}/open/s"}}, 2, "others can write to it")]
    ends += [("a shared state", {"state_dir": str(folder / "shared")}, 2, "others can write to it")]
    await check_ends(life, ends)
    assert Path(life.socket).read_text() == "a file"
    assert link.is_symlink()


async def check_ends(life: Life, ends: list[tuple[str, dict[str, object], int, str]]) -> None:
    """Each change of the settings ends the start with its code and words."""

    async def check(number: int, name: str, changes: dict[str, object], code: int, part: str) -> None:
        config = life.folder / f"changed{number}.yaml"
        broker = {**life.broker, "state_dir": str(life.folder / f"state{number}"), **changes}  # they start at the same time
        config.write_text(json.dumps({"version": 1, "broker": broker}))
        async with RobinProcess("broker", "--config", str(config)) as process:
            assert (await process.returned(), name) == (code, name)
            assert part in process.stderr[0]

    await asyncio.gather(*(check(number, *end) for number, end in enumerate(ends)))


def rewrite(old: str, new: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(path.read_text().replace(old, new))


KEY_FILES: dict[str, Callable[[Path], object]] = {
    "its mode is 0640": lambda path: path.chmod(0o640),
    "its mode is 0750": lambda path: path.parent.chmod(0o750),
    "a symbolic link": lambda path: (path.rename(path.parent.parent / "elsewhere"), path.symlink_to(path.parent.parent / "elsewhere")),
    "not a regular file": lambda path: (path.unlink(), os.mkfifo(path, 0o600)),
    "its kid is not its RFC 7638 thumbprint": rewrite('"kid": "', '"kid": "x'),
    "not its name": lambda path: path.rename(path.with_stem("other")),
    "are not one key": rewrite('"x": "', '"x": "A'),
    "not a private Ed25519 JWK": rewrite('"created"', '"kid": "twice", "created"'),
    "its status is not one of": rewrite('"active"', '"retired"'),
    "not exactly one key is active": lambda path: save_key(path.parent, make_key(status="active", created=1)),
    "belongs to another user": lambda path: os.chown(path, OF_OTHERS, 0),
}


@pytest.mark.parametrize("part", KEY_FILES)
def test_a_key_file_that_breaks_a_rule_is_refused_by_name(tmp_path, part):
    if part == "belongs to another user" and os.getuid() != 0:
        pytest.skip("only root can give a file away")
    folder = tmp_path / "keys"
    load_keys(folder, now=1, auto_create=True)
    (path,) = folder.glob("*.jwk")
    KEY_FILES[part](path)
    with pytest.raises(KeyFileRefused, match=re.escape(part)) as refused:
        load_keys(folder, now=1, auto_create=True)
    assert str(refused.value).startswith(str(folder))


async def test_keys_are_made_once_and_a_bad_key_file_ends_the_start(folder: Path, service):
    life = Life(folder, service)
    del life.broker["verify"]
    life.write()
    keys = folder / "state" / "keys"
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        await process.event("started")
    (path,) = keys.glob("*.jwk")
    assert (os.stat(keys).st_mode & 0o777, os.stat(path).st_mode & 0o777) == (0o700, 0o600)
    path.chmod(0o640)
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        assert await process.returned() == 2
        assert process.stderr == [f"robin: {path}: its mode is 0640, so others can reach it; chmod 0600 it"]


PEER = {"name": "me", "match": {"uid": 1}, "subject": "s", "routes": []}
ISSUE = {"socket": "/run/x/s", "peers": [PEER], "routes": []}
VERIFY = {"bundle": "/b", "bundle_keys": ["/k"], "authorities": ["a"]}
SVIDS = "trustplane-spiffe-spire-k8s-v1"
ATTESTED = {"profile": SVIDS, "mode": "pod-binding", "allowed_ids": ["spiffe://a/b"]}
WRONG: dict[str, dict[str, object]] = {
    "unknown_key": {"unknown": 1},
    "broker.issuer is not an absolute URI": {"issuer": "no-uri"},
    "neither `issue` nor `verify`": {"issue": None, "verify": None},
    "an identity with SVIDs needs a mode": {
        "issue": {**ISSUE, "peers": [], "identity": {"profile": SVIDS, "allowed_ids": ["spiffe://a/b"]}}
    },
    "no SPIFFE ID may have a passport": {"issue": {**ISSUE, "peers": [], "identity": {"profile": SVIDS, "mode": "pod-binding"}}},
    "is not a SPIFFE ID": {"issue": {**ISSUE, "peers": [], "identity": {**ATTESTED, "allowed_ids": ["spiffe://a/../b"]}}},
    "is not a prefix of SPIFFE IDs": {"issue": {**ISSUE, "peers": [], "identity": {**ATTESTED, "allowed_prefixes": ["spiffe://A"]}}},
    "so it has to be a Unix socket": {"issue": {**ISSUE, "peers": [], "identity": {**ATTESTED, "endpoint": "tcp://127.0.0.1:1"}}},
    "the SPIFFE ID is the subject": {"issue": {**ISSUE, "peers": [PEER], "identity": ATTESTED}},
    "mode has no effect with local/software": {"issue": {**ISSUE, "identity": {"mode": "pod-binding"}}},
    "there is no SPIFFE ID with local/software": {"issue": {**ISSUE, "peers": [{**PEER, "match": {"spiffe_id": "spiffe://a/b"}}]}},
    "a peer rule without a match": {"issue": {**ISSUE, "peers": [{**PEER, "match": {}}]}},
    "a peer rule needs a subject": {"issue": {**ISSUE, "peers": [{"name": "me", "match": {"uid": 1}}]}},
    "is not a route_id of issue.routes": {"issue": {**ISSUE, "peers": [{**PEER, "routes": ["other"]}]}},
    "0660 has a group": {"issue": {**ISSUE, "socket_mode": "0660"}},
    "a socket_group has socket_mode 0660": {"issue": {**ISSUE, "socket_group": "root"}},
    "there is no group": {"issue": {**ISSUE, "socket_mode": "0660", "socket_group": "no-such-group"}},
    "fit one path": {"issue": {**ISSUE, "routes": [{**ROUTE, "authorities": ["a"]}, {**ROUTE, "authorities": ["a"], "route_id": "again"}]}},
    "covered_if_present cannot be an empty list": {
        "issue": {**ISSUE, "routes": [{**ROUTE, "authorities": ["a"], "covered_if_present": []}]}
    },
    "trusted_proxies cannot be an empty list": {"verify": {**VERIFY, "forward_auth": {"listen": "127.0.0.1:1", "trusted_proxies": []}}},
    "this replay store is not built yet": {
        "verify": {"bundle": "/b", "bundle_keys": ["/k"], "authorities": ["a"], "replay": {"backend": "redis"}}
    },
    "the memory store is for one instance": {
        "verify": {"bundle": "/b", "bundle_keys": ["/k"], "authorities": ["a"], "replay": {"instances": 2}}
    },
}


@pytest.mark.parametrize("part", WRONG)
def test_a_setting_that_is_wrong_or_not_built_is_named_with_its_place(folder, part, capsys):
    class NoService:
        port = 1

    life = Life(folder, NoService(), **WRONG[part])
    with pytest.raises(SystemExit) as left:
        main(["check", "broker", "--config", str(life.config)])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert part in said
    assert said.startswith(f"{life.config}:1:")
    assert "Fix: " in said


def route_with(**changes: object) -> dict[str, object]:
    return {"issue": {**ISSUE, "routes": [{**ROUTE, "authorities": ["a"]}, {**CREATE, "authorities": ["a"], **changes}]}}


PLACES: dict[str, tuple[str, dict[str, object]]] = {
    "write it in upper case": ('"get"', route_with(method="get")),
    "write them in lower case": ('["A.example"]', route_with(authorities=["A.example"])),
    "a name in braces is one whole segment": ('"/orders/{id"', route_with(path_template="/orders/{id")),
    "write such as /orders/{id}": ('"orders"', route_with(path_template="orders")),
    "name one at least": ("[], ", route_with(audiences=[])),
    "remove one of them": ('{"route_id": "read", "audiences": ["orders"], "method": "POST"', route_with(route_id="read")),
    "use at most 107": ('"/run/sss', {"issue": {**ISSUE, "socket": "/run/" + 103 * "s"}}),
    "make it for the broker's user": ('"/nonexistent', {"audit": {"file": "/nonexistent/audit.jsonl"}}),
}
"""The fix, where the value begins that is wrong, and the settings."""


def test_what_is_wrong_in_a_route_or_with_a_path_has_the_place_of_its_value(folder, capsys):
    class NoService:
        port = 1

    for fix, (value, changes) in PLACES.items():
        life = Life(folder, NoService(), **changes)
        column = life.config.read_text().rindex(value) + 1
        for command in (["check", "broker"], ["broker", "--check"]):
            with pytest.raises(SystemExit) as left:
                main([*command, "--config", str(life.config)])
            (said,) = capsys.readouterr().err.splitlines()
            assert (left.value.code, said.partition(": ")[0]) == (2, f"{life.config}:1:{column}"), said
            assert fix in said


def test_a_rule_for_a_program_of_any_user_is_reported(folder, capsys):
    class NoService:
        port = 1

    life = Life(folder, NoService(), issue={**ISSUE, "peers": [{**PEER, "match": {"exe": "/usr/bin/agent"}}]})
    assert main(["check", "broker", "--config", str(life.config)]) == 0
    assert "warning: exe_alone" in capsys.readouterr().err
