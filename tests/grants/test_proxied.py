"""Token grants end to end: engine, selection, cache, issuer calls and the 401 rule, as grants.md section 13 numbers them."""

import asyncio
import base64
import json
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests.grants.proxied import NAMES, World, reply, token_reply, world

from robin.testing.authority import IdentityAuthority
from robin.testing.manual_clock import ManualClock
from robin.testing.waiting import eventually

TWO = "{name: key, auth_style: header, header_name: X-Api-Key, header_prefix: 'Key ', token_grant: {token_endpoint: 'http://127.0.0.1:%(issuer)d/two', issuer: 'https://issuer.example'}}"  # noqa: E501


async def test_a_request_gets_the_token_of_its_endpoint_and_another_host_gets_403(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        assert (await at.ask()).status == 200
        assert at.authorizations == [[b"Bearer token-0"]]
        refused = await at.ask(host="b.localhost")
        assert (refused.status, len(at.origin.seen)) == (403, 1)


async def test_g6_an_unlisted_caller_gets_no_token_and_403(tmp_path: Path) -> None:
    async with world(tmp_path, callers=["demo-app"]) as at:
        assert (await at.ask()).status == 403
        assert at.issuer.seen == []


@pytest.mark.parametrize("path", ["/v1/../admin", "/v1/%2e%2e/admin", "/v1%2Fadmin", "//v1", "/v1;x"])
async def test_g17_a_path_without_canonical_form_is_refused_before_anything_is_sent(tmp_path: Path, path: str) -> None:
    async with world(tmp_path, endpoints="[{host: a.localhost, port: %(port)d, tls: none, path: /v1/**}]") as at:
        refused = await at.ask(path)
        assert (refused.status, refused.problem["code"]) == (400, "path_not_canonical")
        assert (at.origin.connections, at.issuer.connections) == (0, 0)


async def test_g18_after_a_reload_the_next_request_of_a_kept_connection_carries_no_credential(tmp_path: Path) -> None:
    rule = {"name": "any", "hosts": ["a.localhost"], "schemes": ["http"], "ports": ["PORT"]}
    async with world(tmp_path, section={"policy": {"rules": [rule]}}) as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.gateway.port)
        place = f"a.localhost:{at.origin.port}"
        for attached, entries in ((True, 1), (False, 0), (True, 1)):
            at.reload(attached=attached)
            writer.write(f"GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
            assert b"200" in await reader.readuntil(b"\r\n\r\nin")
            assert b'\nrobin_grant_cache_entries{plane="gateway"} %d\n' % entries in await at.scrape()
        writer.close()
        assert at.authorizations == [[b"Bearer token-0"], [], [b"Bearer token-1"]], "what was fetched before is not kept"


@pytest.mark.parametrize("change", [{"callers": ["demo-app"]}, {"attached": False}])
async def test_g18_g42_a_reload_that_withdraws_a_binding_refuses_a_request_that_waits(tmp_path: Path, change: dict[str, Any]) -> None:
    async with world(tmp_path) as at:
        at.issuer.gate.clear()
        waiting = asyncio.ensure_future(at.ask())
        await eventually(lambda: at.issuer.seen or None, what="the token request")
        at.reload(**change)
        at.issuer.gate.set()
        refused = await waiting
        assert (refused.status, refused.problem["code"], at.origin.seen) == (403, "binding_withdrawn", [])
        at.reload()
        assert (await at.ask()).status == 200
        kept = "callers" in change  # the token of a key that no grant has any more is not stored
        assert at.authorizations == [[b"Bearer token-0" if kept else b"Bearer token-1"]]


async def test_a_field_that_names_another_method_does_not_get_round_an_endpoint_that_is_read_only(tmp_path: Path) -> None:
    async with world(tmp_path, endpoints="[{host: a.localhost, port: %(port)d, tls: none, access: read-only}]") as at:
        assert (await at.ask(fields="X-HTTP-Method-Override: DELETE\r\nX-Other: x\r\n")).status == 200
        (seen,) = at.origin.seen
        assert (seen.values(b"x-http-method-override"), seen.values(b"x-other")) == ([], [b"x"])


async def test_what_waits_during_a_reload_is_recorded_with_the_generation_that_decided_it(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        at.issuer.gate.clear()
        waiting = asyncio.ensure_future(at.ask())
        await eventually(lambda: at.issuer.seen)
        at.reload()
        at.issuer.gate.set()
        assert (await waiting).status == 200
        await at.ask()
        assert [one["generation"] for one in await at.lines("gateway.decision", 2)] == [1, 2]
        assert [one["generation"] for one in await at.lines("gateway.close", 2)] == [1, 2]


async def test_g8_while_a_reload_is_refused_requests_get_the_credential_of_the_binding_before_it(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        await at.ask()
        at.reload(grant="audiense: x")
        assert {(await at.ask()).status for _ in range(100)} == {200}
        assert (at.authorizations, len(at.issuer.seen)) == ([[b"Bearer token-0"]] * 101, 1)
        assert {one["generation"] for one in await at.lines("gateway.decision", 101)} == {1}


async def test_g19_two_credentials_are_both_written_and_if_one_fails_nothing_is_sent(tmp_path: Path) -> None:
    async with world(tmp_path, credentials=TWO) as at:
        assert (await at.ask()).status == 200
        (seen,) = at.origin.seen
        assert (seen.values(b"authorization"), seen.values(b"x-api-key")) == ([b"Bearer token-0"], [b"Key token-1"])
        at.drop_tokens()
        at.issuer.reply = lambda request: token_reply("x") if request.target == b"/token" else reply(400, b'{"error":"invalid_client"}')
        refused = await at.ask()
        assert (refused.status, refused.problem["code"], len(at.origin.seen)) == (502, "grant_refused", 1)


@pytest.mark.parametrize("status", [302, 307, 308])
async def test_g34_neither_a_redirect_of_the_issuer_nor_a_proxy_variable_leads_elsewhere(
    tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as at:
        elsewhere = f"http://127.0.0.1:{at.origin.port}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, elsewhere)
        at.issuer.reply = lambda _: reply(status, b"", b"Location: %b/" % elsewhere.encode())
        refused = await at.ask()
        assert (refused.status, refused.problem["code"]) == (502, "issuer_redirected")
        assert (at.origin.connections, len(at.issuer.seen)) == (0, 1)


async def test_g38_a_thousand_cold_requests_make_one_token_request_and_those_that_leave_fail_no_other(tmp_path: Path) -> None:
    count = 1000
    limits = dict.fromkeys(("connections_per_caller", "inflight_per_caller"), 0)  # one caller makes all of them
    async with world(tmp_path, section={"limits": limits}) as at:
        at.issuer.gate.clear()
        calls = [asyncio.ensure_future(at.ask()) for _ in range(count)]
        await eventually(lambda: at.issuer.seen or None, what="the token request")
        for call in calls[:10]:
            call.cancel()
        at.issuer.gate.set()
        statuses = [one.status for one in await asyncio.gather(*calls[10:])]
        assert (len(statuses), set(statuses), len(at.issuer.seen)) == (count - 10, {200}, 1)


async def test_g39_paths_and_hosts_with_one_audience_share_a_token_and_scopes_do_not(tmp_path: Path) -> None:
    places = ", ".join(f"{{host: {name}.localhost, port: %(port)d, tls: none}}" for name in "abc")
    override = "scopes: [b, a], audience_overrides: [{host: c.localhost, path: /o, audience: '', scopes: [x]}]".replace(
        "audience: ''", "audience: z"
    )
    async with world(tmp_path, endpoints=f"[{places}]", grant=override) as at:
        for host in ("a.localhost", "b.localhost", "c.localhost"):
            for path in range(10):
                await at.ask(f"/{path}", host=host)
        assert len(at.issuer.seen) == 1
        await at.ask("/o", host="c.localhost")
        assert len(at.issuer.seen) == 2
        at.reload(grant=override.replace("[b, a]", "[a, b]"))
        await at.ask()
        assert len(at.issuer.seen) == 2, "the order of scopes is no part of the key"


@pytest.mark.parametrize(("value", "wait_s"), [("7", 7), ("86400", 300), (formatdate(ManualClock().wall() + 7, usegmt=True), 7)])
async def test_g43_during_the_pause_that_an_issuer_asks_for_it_is_not_called(tmp_path: Path, value: str, wait_s: int) -> None:
    async with world(tmp_path, manual=True) as at:
        clock = at.clock
        assert isinstance(clock, ManualClock)
        at.issuer.reply = lambda _: reply(429, b"", b"Retry-After: " + value.encode())
        for passed_s, left_s, calls in ((0, wait_s, 1), (wait_s - 1.5, 2, 1), (1.4, 1, 1), (0.2, None, 2)):
            clock.advance(passed_s)
            refused = await at.ask()
            assert (refused.status, refused.problem["code"], len(at.issuer.seen)) == (503, "issuer_rate_limited", calls)
            assert left_s is None or refused.value("retry-after") == str(left_s)


async def test_g44_an_invalid_client_is_asked_for_seldom_and_a_reload_asks_at_once(tmp_path: Path) -> None:
    async with world(tmp_path, manual=True) as at:
        clock = at.clock
        assert isinstance(clock, ManualClock)
        at.issuer.reply = lambda _: reply(401, b'{"error":"invalid_client"}')
        for _ in range(60):
            refused = await at.ask()
            assert (refused.status, refused.problem["issuer_error"], refused.problem["class"]) == (
                502,
                "invalid_client",
                "fix_configuration",
            )
            clock.advance(10)
        assert len(at.issuer.seen) <= 6
        at.issuer.reply = lambda _: token_reply("good")
        at.reload()
        assert (await at.ask()).status == 200


async def test_g44_a_success_with_a_bad_body_is_tried_again_after_half_a_minute(tmp_path: Path) -> None:
    async with world(tmp_path, manual=True) as at:
        clock = at.clock
        assert isinstance(clock, ManualClock)
        at.issuer.reply = lambda _: reply(200, b"[]", b"Content-Type: application/json")
        assert (await at.ask()).status == 502
        clock.advance(26.9)
        await at.ask()
        assert len(at.issuer.seen) == 1
        clock.advance(6.2)
        await at.ask()
        assert len(at.issuer.seen) == 2


async def test_g45_an_invalid_grant_is_repeated_once_with_a_new_identity_token(tmp_path: Path) -> None:
    async with world(tmp_path, manual=True) as at:
        clock = at.clock
        assert isinstance(clock, ManualClock)
        at.issuer.reply = lambda _: reply(400, b'{"error":"invalid_grant"}')
        refused = await at.ask()
        assert (refused.status, refused.problem["code"], len(at.issuer.seen)) == (502, "subject_refused", 2)
        assert at.issuer.seen[0].body != at.issuer.seen[1].body
        clock.advance(53)
        await at.ask()
        assert len(at.issuer.seen) == 2
        clock.advance(14)
        await at.ask()
        assert len(at.issuer.seen) == 4


def revoke(at: World, token: bytes = b"Bearer token-0", *fields: bytes) -> None:
    """The origin takes any token but this one."""
    at.origin.reply = lambda request: reply(401, b"out", *fields) if request.values(b"authorization") == [token] else reply(200, b"in")


@pytest.mark.parametrize("fields", [(), (b'WWW-Authenticate: Bearer error="invalid_token"',), (b"WWW-Authenticate: Basic realm=x",)])
@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("POST", b"k" * 1024)])
async def test_g47_after_a_401_the_request_goes_once_more_with_a_new_token(
    tmp_path: Path, method: str, body: bytes, fields: tuple[bytes, ...]
) -> None:
    async with world(tmp_path) as at:
        revoke(at, b"Bearer token-0", *fields)
        assert (await at.ask(method=method, body=body)).status == 200
        assert at.authorizations == [[b"Bearer token-0"], [b"Bearer token-1"]]
        assert [request.body for request in at.origin.seen] == [body, body]
        assert len(at.issuer.seen) == 2


@pytest.mark.parametrize("size", [5, 70000])
async def test_g47_a_body_that_is_not_held_is_not_sent_again_and_the_next_request_has_the_new_token(tmp_path: Path, size: int) -> None:
    async with world(tmp_path) as at:
        revoke(at)
        fields, body = ("Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n") if size == 5 else ("", b"x" * size)
        assert (await at.ask(method="POST", fields=fields, body=body)).status == 401
        assert (await at.ask()).status == 200
        assert (len(at.origin.seen), len(at.issuer.seen)) == (2, 2)


async def test_g48_an_origin_that_responds_401_for_a_minute_costs_two_token_requests(tmp_path: Path) -> None:
    count = 1000
    async with world(tmp_path, manual=True) as at:
        clock = at.clock
        assert isinstance(clock, ManualClock)
        at.origin.reply = lambda _: reply(401)
        statuses = set()
        for _ in range(count):
            statuses.add((await at.ask()).status)
            clock.advance(59 / count)
        assert (statuses, len(at.issuer.seen), len(at.origin.seen)) == ({401}, 2, count + 1)


async def test_g48_a_hundred_401s_at_once_make_one_forced_refresh(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        await at.ask()
        revoke(at)
        at.origin.gate.clear()
        calls = [asyncio.ensure_future(at.ask()) for _ in range(100)]
        await eventually(lambda: len(at.origin.seen) == 101 or None, what="all requests")
        at.origin.gate.set()
        assert {one.status for one in await asyncio.gather(*calls)} == {200}
        assert (len(at.issuer.seen), len(at.origin.seen) <= 201) == (2, True)


@pytest.mark.parametrize(
    "octets",
    [
        reply(403),
        reply(403, b"", b'WWW-Authenticate: Bearer error="invalid_token"'),
        reply(401, b"", b'WWW-Authenticate: Bearer realm="x", error="insufficient_scope"'),
    ],
)
async def test_g49_other_refusals_refresh_and_repeat_nothing(tmp_path: Path, octets: bytes) -> None:
    async with world(tmp_path) as at:
        at.origin.reply = lambda _: octets
        assert (await at.ask()).status == int(octets.split()[1])
        await at.ask()
        assert (len(at.issuer.seen), len(at.origin.seen)) == (1, 2)


async def test_g49_a_refresh_that_returns_the_same_token_repeats_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        at.issuer.reply = lambda _: token_reply("same")
        at.origin.reply = lambda _: reply(401)
        assert (await at.ask()).status == 401
        assert (len(at.issuer.seen), len(at.origin.seen)) == (2, 1)


async def test_g50_of_all_credentials_of_the_caller_the_origin_sees_none(tmp_path: Path) -> None:
    async with world(tmp_path, credentials=TWO) as at:
        fields = "Authorization: Bearer mine\r\nauthorization: Basic mine\r\nX_Api_Key: mine\r\nProxy-Authorization: Bearer mine\r\n"
        fields += "X-Auth-Token: mine\r\nX-Robin-Subject-Token: mine\r\nTransfer-Encoding: chunked\r\nTrailer: Authorization\r\n"
        body = b"2\r\nhi\r\n0\r\nAuthorization: Bearer mine\r\nX-Api-Key: mine\r\n\r\n"
        assert (await at.ask(method="POST", fields=fields, body=body)).status == 200
        (seen,) = at.origin.seen
        assert b"mine" not in seen.raw
        assert (seen.values(b"authorization"), seen.values(b"x-api-key")) == ([b"Bearer token-0"], [b"Key token-1"])


async def test_g51_after_a_redirect_to_an_unbound_host_the_clients_next_request_has_no_credential(tmp_path: Path) -> None:
    rule = {"name": "any", "hosts": ["b.localhost"], "schemes": ["http"], "ports": ["PORT"]}
    async with world(tmp_path, section={"policy": {"rules": [rule]}}) as at:
        at.origin.reply = lambda _: reply(302, b"", b"Location: http://b.localhost:%d/" % at.origin.port)
        moved = await at.ask()
        assert (moved.status, moved.value("location")) == (302, f"http://b.localhost:{at.origin.port}/")
        await at.ask(host="b.localhost")
        assert at.authorizations == [[b"Bearer token-0"], []]


async def test_the_settings_of_cookies_and_sizes_hold(tmp_path: Path) -> None:
    grants: dict[str, object] = {"strip_cookies": True, "max_response_bytes": 1024, "max_token_bytes": 64}
    async with world(tmp_path, grants=grants) as at:
        for octets, code in (
            (token_reply("x" * 64, more="x" * 1024), "issuer_answer_invalid"),
            (token_reply("x" * 65), "issuer_answer_invalid"),
            (token_reply("x" * 64), None),
        ):
            at.drop_tokens()
            at.issuer.reply = lambda _, octets=octets: octets  # type: ignore[misc]
            answer = await at.ask(fields="Cookie: session=mine\r\n")
            assert (answer.status, answer.problem["code"] if code else None) == (502 if code else 200, code)
        (seen,) = at.origin.seen
        assert (seen.values(b"cookie"), seen.values(b"authorization")) == ([], [b"Bearer " + b"x" * 64])


async def test_e40_only_the_callers_of_a_provider_get_its_credential(tmp_path: Path) -> None:
    caller = IdentityAuthority(trust_domain="callers.test", issuer="https://callers.test")
    (tmp_path / "jwks.json").write_text(json.dumps(caller.jwks()))
    trust = {
        "kind": "spiffe",
        "trust_domain": "callers.test",
        "audiences": ["robin-gateway"],
        "jwks": {"file": str(tmp_path / "jwks.json")},
    }
    section = {
        "listeners": [{"name": "proxy", "listen": "127.0.0.1:0", "auth": "jwt", "issuers": ["callers"]}],
        "issuers": [{"name": "callers", **trust}],
        "policy": {"rules": [{"name": "all", "hosts": ["a.localhost"], "schemes": ["http"], "ports": ["PORT"]}]},
    }
    async with world(tmp_path, section=section, callers=["spiffe://callers.test/app"]) as at:

        def proof(path: str) -> str:
            token = caller.jwt_svid(audience="robin-gateway", path=path)
            return f"Proxy-Authorization: Bearer {token.decode()}\r\n"

        assert (await at.ask()).status == 407
        other = await at.ask(fields=proof("/other"))
        assert (other.status, at.authorizations, at.issuer.seen) == (200, [[]], [])
        assert (await at.ask(fields=proof("/app"))).status == 200
        assert at.authorizations[1:] == [[b"Bearer token-0"]]


async def test_g45_a_failure_beside_a_valid_token_leaves_it_in_use(tmp_path: Path) -> None:
    async with world(tmp_path, manual=True) as at:
        clock = at.clock
        assert isinstance(clock, ManualClock)
        await at.ask()
        at.issuer.reply = lambda _: reply(400, b'{"error":"invalid_grant"}')
        clock.advance(260)
        assert [(await at.ask()).status for _ in range(3)] == [200, 200, 200]
        await eventually(lambda: len(at.issuer.seen) == 3 or None, what="the refused refresh and its repetition")


CANARY = "canary-Zm9vYmFy_token~1"


async def test_g53_no_token_assertion_or_word_of_an_issuer_is_shown_anywhere(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        at.issuer.reply = lambda _: token_reply(CANARY, error_description="prose canary")
        echo = [b"X-Echo: got " + CANARY.encode(), b"Location: https://x/?t=" + CANARY.encode(), b"X-Fine: fine"]
        at.origin.reply = lambda _: reply(200, b"in", *echo)
        shown = [(await at.ask()).head]
        assert b"X-Echo: [redacted]" in shown[0]
        assert b"Location: [redacted]" in shown[0]
        assert b"X-Fine: fine" in shown[0]
        at.origin.reply = lambda _: (
            b"HTTP/1.1 103 Early\r\nX-Echo: " + CANARY.encode() + b"\r\n\r\nHTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nin\r\n0\r\nX-Sum: " + CANARY.encode() + b"\r\n\r\n"
        )
        answer = await at.ask()
        shown += [answer.head, answer.body]
        assert b"X-Echo: [redacted]" in shown[1] + shown[2]
        assert b"X-Sum: [redacted]" in shown[2]
        assertion = at.issuer.seen[0].body.partition(b"client_assertion=")[2].partition(b"&")[0]
        at.drop_tokens()
        at.issuer.reply = lambda _: reply(400, json.dumps({"error": CANARY, "error_description": "prose canary"}).encode())
        answer = await at.ask()
        shown += [answer.head, answer.body, await at.scrape(), json.dumps(at.gateway.lines).encode()]
        shown.append(repr((at.gateway.runtime.plane, vars(at.gateway.runtime.plane))).encode())
        text = b"\n".join(shown)
        for secret in (CANARY.encode(), assertion, assertion.split(b".")[2], b"prose canary"):
            for form in (secret, base64.b64encode(secret), quote(secret, safe="").encode(), secret.hex().encode()):
                assert form not in text
        assert b'robin_grant_echo_redacted_total{provider="demo",plane="gateway"} 2' in text


def canary_replies() -> list[bytes]:
    """An issuer that writes the canary wherever it can, for each fault that it can cause, a broken connection among them."""
    told = json.dumps({"error": CANARY, "error_description": CANARY, "access_token": CANARY, CANARY: CANARY}).encode()
    fields = (b"Content-Type: application/json", b"X-Canary: " + CANARY.encode(), b"Location: https://x/" + CANARY.encode())
    statuses = [reply(status, told, b"Retry-After: " + CANARY.encode(), *fields) for status in (201, 302, 400, 401, 403, 429, 500, 503)]
    known = [reply(400, told.replace(CANARY.encode(), code, 1), *fields) for code in (b"invalid_grant", b"invalid_client", b"slow_down")]
    success = {"access_token": CANARY, "token_type": "Bearer", "scope": CANARY, "expires_in": CANARY}
    bodies = [
        {**success, "token_type": CANARY},
        success,
        {**success, "access_token": CANARY + " x"},
        {**success, "issued_token_type": CANARY},
    ]
    broken = [
        b"HTTP/1.1 " + CANARY.encode() + b"\r\n\r\n",
        reply(200, CANARY.encode(), *fields),
        reply(200, told, b"Content-Type: " + CANARY.encode()),
    ]
    return [*statuses, *known, *(reply(200, json.dumps(body).encode(), *fields) for body in bodies), *broken]


async def test_g53_no_fault_of_an_issuer_shows_what_it_wrote_or_what_it_was_sent(tmp_path: Path) -> None:
    grants: dict[str, object] = {"issuer_rate": {"burst": 1000, "per_second": 1000}}
    async with world(tmp_path, grants=grants) as at:
        shown, codes = [], set()
        for turn, octets in enumerate(canary_replies()):
            at.reload(grant=f"audience: a{turn}")  # another key, so that no wait after a failure stands in the way
            at.issuer.reply = lambda _, octets=octets: octets  # type: ignore[misc]
            answer = await at.ask()
            shown += [answer.head, answer.body]
            codes.add(answer.problem["code"])
        assert codes >= {
            "issuer_unavailable",
            "issuer_rate_limited",
            "issuer_redirected",
            "issuer_answer_invalid",
            "grant_refused",
            "subject_refused",
        }
        shown += [await at.scrape(), json.dumps(at.gateway.lines).encode(), repr(vars(at.gateway.runtime.plane)).encode()]
        assertions = {request.body.partition(b"client_assertion=")[2].partition(b"&")[0] for request in at.issuer.seen}
        text = b"\n".join(shown)
        assert at.origin.seen == []
        for secret in (CANARY.encode(), *assertions, *(one.split(b".")[2] for one in assertions)):
            for form in (secret, base64.b64encode(secret), quote(secret, safe="").encode(), secret.hex().encode()):
                assert form not in text


async def test_g53_the_token_of_the_first_try_is_redacted_in_the_response_to_the_second(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        count = iter("01")
        at.issuer.reply = lambda _: token_reply(CANARY + next(count))
        echo = [b"X-Echo: " + CANARY.encode() + b"0 was refused", b"X-Other: " + CANARY.encode() + b"1"]
        answers = iter([reply(401), reply(200, b"in", *echo)])
        at.origin.reply = lambda _: next(answers)
        answer = await at.ask()
        assert (answer.status, answer.value("X-Echo"), answer.value("X-Other")) == (200, "[redacted]", "[redacted]")


async def test_g53_a_head_that_was_forwarded_to_others_is_redacted_for_the_request_whose_token_it_shows(tmp_path: Path) -> None:
    endpoints = "[{host: a.localhost, port: %(port)d, tls: none, path: /in/**}]"
    rule = {"name": "all", "hosts": ["a.localhost"], "schemes": ["http"], "ports": ["PORT"]}
    async with world(tmp_path, endpoints=endpoints, section={"policy": {"rules": [rule]}}) as at:
        at.issuer.reply = lambda _: token_reply(CANARY)
        at.origin.reply = lambda _: reply(200, b"in", b"X-Echo: " + CANARY.encode())
        reader, writer = await asyncio.open_connection("127.0.0.1", at.gateway.port)
        place = f"a.localhost:{at.origin.port}"
        shown = []
        for path in ("/out", "/in/1", "/in/1"):
            writer.write(f"GET http://{place}{path} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
            async with asyncio.timeout(30):
                shown.append(await reader.readuntil(b"\r\n\r\nin"))
        writer.close()
        assert [CANARY.encode() in head for head in shown] == [True, False, False], "what was not sent is not looked for"


async def test_a_deny_beats_a_provider_and_without_permit_a_rule_is_needed(tmp_path: Path) -> None:
    rules = [
        {"name": "no", "effect": "deny", "hosts": ["a.localhost"], "schemes": ["http"], "ports": ["PORT"], "paths": ["/secret"]},
        {"name": "b", "hosts": ["b.localhost"], "schemes": ["http"], "ports": ["PORT"], "methods": ["GET"]},
    ]
    endpoints = "[{host: a.localhost, port: %(port)d, tls: none}, {host: b.localhost, port: %(port)d, tls: none}]"
    async with world(tmp_path, section={"policy": {"rules": rules}}, endpoints=endpoints) as at:
        assert [(await at.ask(path)).status for path in ("/secret", "/open")] == [403, 200]
        at.reload(permit=False)
        assert [(await at.ask(host=host)).status for host in ("a.localhost", "b.localhost")] == [403, 200]
        assert at.authorizations == [[b"Bearer token-0"], [b"Bearer token-0"]]
        assert (await at.ask(host="b.localhost", method="POST")).problem["code"] == "rule_default"


@pytest.mark.parametrize(("networks", "status"), [("[127.0.0.0/8]", 200), ("[10.0.0.0/8]", 403)])
async def test_an_endpoint_is_dialled_inside_its_networks_only(tmp_path: Path, networks: str, status: int) -> None:
    endpoints = f"[{{host: a.localhost, port: %(port)d, tls: none, allowed_ips: {networks}}}]"
    async with world(tmp_path, endpoints=endpoints) as at:
        assert (await at.ask()).status == status
        assert (len(at.origin.seen), len(at.issuer.seen)) == ((1, 1) if status == 200 else (0, 1))


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1", "fe80::1", "0.0.0.0", "64:ff9b::a9fe:a9fe", "224.0.0.1"])
async def test_an_issuer_whose_name_leads_to_metadata_or_back_here_is_not_dialled(tmp_path: Path, address: str) -> None:
    hosts = {**{name: ["127.0.0.1"] for name in NAMES}, "issuer.test": [address]}
    section = {"addresses": {"hosts": hosts, "unsafe_loopback": ["127.0.0.1:PORT"]}}
    async with world(tmp_path, section=section, issuer_host="issuer.test") as at:
        refused = await at.ask()
        assert (refused.status, refused.problem["code"], refused.problem["provider"]) == (503, "issuer_unavailable", "demo")
        assert (at.issuer.seen, at.origin.seen) == ([], [])


ANSWERS: list[tuple[dict[str, object], int]] = [
    ({"access_token": "a b"}, 502),
    ({"access_token": "a\r\nX: y"}, 502),
    ({"access_token": "x" * 16385}, 502),
    ({"token_type": "N_A"}, 502),
    ({"issued_token_type": "urn:ietf:params:oauth:token-type:saml2"}, 502),
    ({"expires_in": True}, 502),
    ({"expires_in": -1}, 200),
    ({"expires_in": 0}, 200),
    ({"expires_in": "300"}, 200),
    ({"expires_in": 1e14}, 200),
]


async def test_g36_and_g37_what_an_issuer_may_answer_and_what_is_asked_for_once_per_request(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        for members, status in ANSWERS:
            at.drop_tokens()
            at.origin.seen.clear()
            at.issuer.seen.clear()
            at.issuer.reply = lambda _, members=members: answer(members)  # type: ignore[misc]
            found = [await at.ask() for _ in range(2)]
            assert [one.status for one in found] == [status, status], members
            assert len(at.origin.seen) == (2 if status == 200 else 0)
            unkept = members.get("expires_in") in (0, -1) and status == 200
            assert len(at.issuer.seen) == (2 if unkept else 1), members
            assert status == 200 or found[0].problem["code"] == "issuer_answer_invalid"


def answer(members: dict[str, object]) -> bytes:
    body = {"access_token": "good", "token_type": "Bearer", "expires_in": 300} | members
    return reply(200, json.dumps(body).encode(), b"Content-Type: application/json")


async def test_a_body_that_is_expected_is_asked_for_and_sent_again_after_a_401(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        revoke(at)
        reader, writer = await asyncio.open_connection("127.0.0.1", at.gateway.port)
        place = f"a.localhost:{at.origin.port}"
        head = f"POST http://{place}/ HTTP/1.1\r\nHost: {place}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        writer.write(head.encode())
        async with asyncio.timeout(30):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            writer.write(b"hello")
            assert (await reader.readuntil(b"\r\n\r\nin")).startswith(b"HTTP/1.1 200")
        writer.close()
        assert [request.body for request in at.origin.seen] == [b"hello", b"hello"]
