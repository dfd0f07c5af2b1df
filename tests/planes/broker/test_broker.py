"""The broker and its verifier as one real process: the four abuse regressions with their audit records, the protocol, the start."""

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest
from tests.planes.broker.conftest import Life, ask_as, tcp_listeners

from robin.cli.main import main
from robin.planes.broker.keys import make_key, save_key
from robin.testing.process import RobinProcess
from robin.wire.broker_ipc import render_issue

OF_OTHERS = 65000


async def test_what_was_issued_is_accepted_and_the_service_sees_who_it_was(life: Life):
    for profile in ("wimse-httpsig", "transcript-v1"):
        status, _, _ = await life.send(
            [*await life.headers(profile=profile), ("Robin-Passport-Subject", "forged"), ("X-TrustPlane-Subject", "x")]
        )
        assert status == 200
        seen = life.service.requests[-1]
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


async def test_abuse_stale_nonce(folder: Path, service):
    life = Life(folder, service)
    life.broker["verify"] |= {"max_age": "1s"}
    life.write()
    life.make_bundle()
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        await process.event("started")
        for profile, status in (("transcript-v1", 403), ("wimse-httpsig", 400)):
            headers = await life.headers(profile=profile)
            await asyncio.sleep(3.1)  # the clock of a real process cannot be set: past max_age and skew
            found, body, _ = await life.send(headers)
            assert (found, body["reason"], body["allowed"]) == (status, "nonce_stale", False)
    assert [one["reason_code"] for one in life.records("passport.verify")] == ["nonce_stale", "nonce_stale"]
    assert service.requests == []
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


async def test_a_class_that_the_broker_cannot_prove_is_denied_with_both_details(life: Life):
    binding = {"intent": "route_policy_minimum", "requested_key_binding": "attested_workload", "acceptable_key_bindings": []}
    reply = await ask_public(life, public(life, key_binding={**binding, "allow_software_fallback": False}))
    assert (reply["accepted"], reply["issued_at"], reply["artifacts"], reply["reason_code"]) == (False, 0, None, "insufficient_key_binding")
    assert reply["error"]["details"] == {"requested_key_binding": "attested_workload", "available_key_binding": "software"}


@pytest.mark.parametrize("what", ["normalized", "sha256", "nonce"])
async def test_members_that_contradict_each_other(life: Life, what):
    request = public(life)
    if what == "nonce":
        request["http"]["headers"]["selected"][0]["value_sha256"] = "0" * 64
    else:
        request["http"]["query"][what] = "a=1" if what == "normalized" else "0" * 64
    assert (await ask_public(life, request))["reason_code"] == "ipc_inconsistent"


async def test_what_is_not_a_request_is_refused_with_its_code(life: Life):
    good = life.request()
    lines = {
        b"x" * 65537 + b"\n": "ipc_too_large",
        b"{}\n": "ipc_malformed",
        b"\xef\xbb\xbf{}\n": "ipc_malformed",
        render_issue({**good, "more": 1}): "ipc_malformed",
        render_issue({**good, "nonce": "short"}): "ipc_malformed",
        render_issue({**good, "ctx": {"x": 1.5}}): "ipc_malformed",
        render_issue({**good, "ctx": {"unknown": "x"}}): "ipc_malformed",
        render_issue(good) + b"{}": "ipc_malformed",
        render_issue(good).replace(b'"ctx"', b'"nonce":null,"ctx"'): "ipc_malformed",
        b"[" * 100 + b"\n": "ipc_malformed",
        render_issue(good, "challenge"): "ipc_operation_unsupported",
        render_issue(good).replace(b"robin-broker-ipc-v1", b"x"): "ipc_version_unsupported",
    }
    for line, wanted in lines.items():
        reply = json.loads(await life.ask_line(line))
        assert reply["reason"] == wanted, line[:80]
        if wanted == "ipc_version_unsupported":
            assert reply["error"]["details"] == {"supported": ["trustplane-broker-ipc-v1", "robin-broker-ipc-v1"]}
    assert [one["reason_code"] for one in life.records("passport.issue")] == list(lines.values())


async def test_a_line_that_does_not_end_is_answered_in_time(life: Life):
    began = asyncio.get_running_loop().time()
    reply = json.loads(await life.ask_line(b'{"version":'))
    assert reply["reason"] == "ipc_timeout"
    assert reply["error"]["retryable"] is True
    assert 4 < asyncio.get_running_loop().time() - began < 10


# the verifier as a process


@pytest.mark.parametrize("profile", ["wimse-httpsig", "transcript-v1"])
async def test_a_changed_or_oversized_body_never_reaches_the_service(life: Life, profile):
    fields = [["content-type", "application/json"]]
    ask = {"profile": profile, "method": "POST", "body": b'{"a":1}', "fields": fields}
    for body, reason in ((b'{"a":2}', "body_digest_mismatch"), (b"x" * 1048577, "body_too_large")):
        headers = [("Content-Type", "application/json"), *await life.headers(**ask)]
        status, answer, _ = await life.send(headers, "POST", body=body)
        assert answer["reason"] == reason
        assert status == (413 if reason == "body_too_large" else 400 if profile == "wimse-httpsig" else 403)
    assert life.service.requests == []
    assert (await life.send([("Content-Type", "application/json"), *await life.headers(**ask)], "POST", body=b'{"a":1}'))[0] == 200
    assert [one["reason_code"] for one in life.records("passport.verify")] == [
        "body_digest_mismatch",
        "body_too_large",
        "passport_verified",
    ]


async def test_forward_auth_answers_each_shape_of_a_proxy(life: Life):
    original = [("Method", "GET"), ("Proto", "http"), ("Host", life.authority)]
    nginx = [(f"X-Original-{name}", value) for name, value in original] + [("X-Original-URI", "/orders")]
    traefik = [(f"X-Forwarded-{name}", value) for name, value in original] + [("X-Forwarded-Uri", "/orders")]
    for target, more in (("/v1/nginx", nginx), ("/v1/traefik", traefik), ("/v1/envoy/orders", [])):
        headers = await life.headers() + more
        status, _, head = await life.send(headers, target=target, to=life.forward)
        assert status == 200, target
        assert b"Robin-Passport-Subject: spiffe://example.org/agent" in head
        status, answer, _ = await life.send(headers, target=target, to=life.forward)
        assert answer["reason"] == "nonce_replay"
        assert status == (403 if target == "/v1/nginx" else 400)  # nginx knows no other
    status, answer, _ = await life.send(await life.headers() + nginx[1:], target="/v1/nginx", to=life.forward)
    assert (status, answer["reason"]) == (403, "forward_auth_incomplete")
    assert (await life.send(nginx, target="/v1/nginx", to=life.forward))[0] == 401


async def test_nginx_may_ask_about_a_body_only_where_the_route_leaves_it_to_the_service(life: Life):
    shape = [("X-Original-Method", "POST"), ("X-Original-Proto", "http"), ("X-Original-Host", life.authority)]
    for path, status in (("/asserted", 200), ("/orders", 403)):
        headers = await life.headers(method="POST", target=path, body=b"abc")
        found, answer, head = await life.send([*headers, *shape, ("X-Original-URI", path)], target="/v1/nginx", to=life.forward)
        assert found == status, answer
    assert b"Robin-Passport-Content-Digest" not in head


async def test_a_proxy_that_is_not_trusted_gets_no_answer_but_that(folder: Path, service):
    life = Life(folder, service)
    life.broker["verify"]["forward_auth"]["trusted_proxies"] = ["10.0.0.0/8"]
    life.write()
    life.make_bundle()
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        await process.event("started")
        status, answer, _ = await life.send(await life.headers(), target="/v1/envoy/orders", to=life.forward)
    assert (status, answer["reason"]) == (403, "proxy_not_trusted")


async def test_no_secret_is_in_a_record_a_log_or_an_answer(life: Life):
    canary = "canary-bearer-0123456789"
    fields = [["authorization", f"Bearer {canary}"]]
    reply = await life.ask(life.request(fields=fields))
    headers = [tuple(pair) for pair in reply["headers"]]
    await life.send([*headers, ("Authorization", f"Bearer {canary}")], target="/orders?secret=canary-query")
    await life.ask(life.request(fields=[*fields, ["x-other", "canary-field"]]))
    audit = (life.folder / "state" / "audit.jsonl").read_text()
    key = json.loads(next((life.folder / "state" / "keys").glob("*.jwk")).read_text())["d"]
    written = audit + "".join(text for _, text in life.process.lines)
    hidden = [canary, "canary-field", "canary-query", key, *(value for name, value in headers)]
    assert [secret for secret in hidden if secret in written] == []
    assert canary not in json.dumps(reply)


# the start: P26 and P36


async def test_the_socket_is_private_and_the_broker_alone_listens_on_probes_only(folder: Path, service):
    life = Life(folder, service)
    del life.broker["verify"]
    life.write()
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        listening = await process.event("started")
        assert os.stat(life.socket).st_mode & 0o777 == 0o600
        assert tcp_listeners(process.pid) == [int(listening["admin"][0].rpartition(":")[2])]
        async with RobinProcess("broker", "--config", str(life.config)) as second:
            assert await second.returned() == 3
    assert not os.path.exists(life.socket)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(life.socket)
    stale.close()
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        await process.event("started")
    Path(life.socket).write_text("a file")
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        assert await process.returned() == 3
    assert Path(life.socket).read_text() == "a file"


async def test_keys_are_made_once_and_every_bad_key_file_ends_the_start(folder: Path, service):
    life = Life(folder, service)
    del life.broker["verify"]
    life.write()
    keys = folder / "state" / "keys"
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        await process.event("started")
    (path,) = keys.glob("*.jwk")
    assert (os.stat(keys).st_mode & 0o777, os.stat(path).st_mode & 0o777) == (0o700, 0o600)
    good = path.read_text()

    async def ends(part: str) -> None:
        async with RobinProcess("broker", "--config", str(life.config)) as process:
            assert await process.returned() == 2
            assert part in process.stderr[0]
            assert str(keys) in process.stderr[0]

    path.chmod(0o640)
    await ends("its mode is 0640")
    path.chmod(0o600)
    path.write_text(good.replace('"kid": "', '"kid": "x'))
    await ends("kid")
    path.rename(folder / "elsewhere.jwk")
    path.symlink_to(folder / "elsewhere.jwk")
    await ends("symbolic link")
    path.unlink()
    path.write_text(good)
    path.chmod(0o600)
    save_key(keys, make_key(status="active", created=1))
    await ends("not exactly one key is active")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"unknown": 1}, "unknown_key"),
        ({"issuer": "no-uri"}, "broker.issuer is not an absolute URI"),
        ({"issue": None, "verify": None}, "neither"),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_its_place(folder, change, part, capsys):
    class NoService:
        port = 1

    life = Life(folder, NoService(), **change)
    with pytest.raises(SystemExit) as left:
        main(["check", "broker", "--config", str(life.config)])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert part in said
    assert said.startswith(f"{life.config}:1:")
    assert "Fix: " in said
