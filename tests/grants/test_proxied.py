"""Token grants end to end: engine, selection, cache, issuer calls and the 401 rule, as grants.md section 13 numbers them."""

import asyncio
import json
from email.utils import formatdate
from pathlib import Path

import pytest
from tests.grants.proxied import World, reply, token_reply, world

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
    async with world(tmp_path, callers="[demo-app]") as at:
        assert (await at.ask()).status == 403
        assert at.issuer.seen == []


@pytest.mark.parametrize("path", ["/v1/../admin", "/v1/%2e%2e/admin", "/v1%2Fadmin", "//v1", "/v1;x"])
async def test_g17_a_path_without_canonical_form_is_refused_before_anything_is_sent(tmp_path: Path, path: str) -> None:
    async with world(tmp_path, endpoints="[{host: a.localhost, port: %(port)d, tls: none, path: /v1/**}]") as at:
        refused = await at.ask(path)
        assert (refused.status, refused.problem["code"]) == (400, "path_not_canonical")
        assert (at.origin.seen, at.issuer.seen) == ([], [])


async def test_g18_after_a_reload_the_next_request_of_a_kept_connection_carries_no_credential(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.proxy.port)
        place = f"a.localhost:{at.origin.port}"
        ask = f"GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\n\r\n".encode()
        writer.write(ask)
        assert b"200" in await reader.readuntil(b"\r\n\r\nin")
        at.proxy.reload_text(at.text(callers="[another]"))
        writer.write(ask)
        assert b"403" in await reader.readuntil(b"\r\n")
        writer.close()
        assert len(at.origin.seen) == 1


async def test_g18_a_reload_that_withdraws_a_binding_refuses_a_request_that_waits(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        at.issuer.gate.clear()
        waiting = asyncio.ensure_future(at.ask())
        await eventually(lambda: at.issuer.seen or None, what="the token request")
        at.proxy.reload_text(at.text(callers="[another]"))
        at.issuer.gate.set()
        refused = await waiting
        assert (refused.status, refused.problem["code"], at.origin.seen) == (403, "binding_withdrawn", [])


async def test_g19_two_credentials_are_both_written_and_if_one_fails_nothing_is_sent(tmp_path: Path) -> None:
    async with world(tmp_path, credentials=TWO) as at:
        assert (await at.ask()).status == 200
        (seen,) = at.origin.seen
        assert (seen.values(b"authorization"), seen.values(b"x-api-key")) == ([b"Bearer token-0"], [b"Key token-1"])
        at.proxy.drop_tokens()
        at.issuer.reply = lambda request: token_reply("x") if request.target == b"/token" else reply(400, b'{"error":"invalid_client"}')
        refused = await at.ask()
        assert (refused.status, refused.problem["code"], len(at.origin.seen)) == (502, "grant_refused", 1)


@pytest.mark.parametrize("status", [302, 307, 308])
async def test_g34_a_redirect_of_the_issuer_is_not_followed(tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path) as at:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{at.origin.port}")
        at.issuer.reply = lambda _: reply(status, b"", b"Location: http://127.0.0.1:%d/" % at.origin.port)
        refused = await at.ask()
        assert (refused.status, refused.problem["code"]) == (502, "issuer_redirected")
        assert at.origin.seen == []


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (reply(200, b"x" * 65537, b"Content-Type: application/json"), "issuer_answer_invalid"),
        (reply(200, b"{}", b"Content-Type: application/json", b"Content-Encoding: gzip"), "issuer_answer_invalid"),
        (reply(200, b"<html>", b"Content-Type: text/html"), "issuer_answer_invalid"),
        (
            reply(200, b'{"access_token":"a","access_token":"b","token_type":"Bearer"}', b"Content-Type: application/json"),
            "issuer_answer_invalid",
        ),
        (
            b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b"x" * 4096,
            "issuer_unavailable",
        ),
        (b"", "issuer_unavailable"),
    ],
    ids=["too long", "gzip", "html", "duplicate", "endless", "silent"],
)
async def test_g35_a_response_that_is_no_token_response_becomes_a_fault_in_time(tmp_path: Path, octets: bytes, code: str) -> None:
    async with world(tmp_path, grants="{token_timeout: 300ms}") as at:
        at.issuer.reply = lambda _: octets
        async with asyncio.timeout(5):
            refused = await at.ask()
        assert (refused.status, refused.problem["code"]) == ({"issuer_unavailable": 503}.get(code, 502), code)
        assert at.origin.seen == []


async def test_g38_a_thousand_cold_requests_make_one_token_request_and_those_that_leave_fail_no_other(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        at.issuer.gate.clear()
        calls = [asyncio.ensure_future(at.ask()) for _ in range(200)]
        await eventually(lambda: at.issuer.seen or None, what="the token request")
        for call in calls[:10]:
            call.cancel()
        at.issuer.gate.set()
        statuses = [one.status for one in await asyncio.gather(*calls[10:])]
        assert (set(statuses), len(at.issuer.seen)) == ({200}, 1)


async def test_g39_paths_and_hosts_with_one_audience_share_a_token_and_scopes_do_not(tmp_path: Path) -> None:
    places = ", ".join(f"{{host: {name}.localhost, port: %(port)d, tls: none}}" for name in "abc")
    override = "scopes: [b, a], audience_overrides: [{host: c.localhost, path: /o, audience: '', scopes: [x]}]".replace(
        "audience: ''", "audience: z"
    )
    async with world(tmp_path, endpoints=f"[{places}]", grant=override) as at:
        for host in ("a.localhost", "b.localhost", "c.localhost"):
            for path in ("/1", "/2", "/3"):
                await at.ask(path, host=host)
        assert len(at.issuer.seen) == 1
        await at.ask("/o", host="c.localhost")
        assert len(at.issuer.seen) == 2
        at.proxy.reload_text(at.text(grant=override.replace("[b, a]", "[a, b]")))
        await at.ask()
        assert len(at.issuer.seen) == 2, "the order of scopes is no part of the key"


@pytest.mark.parametrize(("value", "least", "most"), [("7", 1, 7), ("86400", 299, 300), (None, 5, 7)])
async def test_g43_during_the_pause_that_an_issuer_asks_for_it_is_not_called(
    tmp_path: Path, value: str | None, least: int, most: int
) -> None:
    async with world(tmp_path) as at:
        when = value or formatdate(at.clock.wall() + 7, usegmt=True)
        at.issuer.reply = lambda _: reply(429, b"", b"Retry-After: " + when.encode())
        for _ in range(3):
            refused = await at.ask()
            assert (refused.status, refused.problem["code"]) == (503, "issuer_rate_limited")
            assert least <= int(refused.value("retry-after") or 0) <= most
        assert len(at.issuer.seen) == 1


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
        at.proxy.reload_text(at.text())
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


async def test_g48_an_origin_that_always_responds_401_costs_two_token_requests(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        at.origin.reply = lambda _: reply(401)
        statuses = {(await at.ask()).status for _ in range(100)}
        assert (statuses, len(at.issuer.seen)) == ({401}, 2)
        assert len(at.origin.seen) <= 101


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


async def test_g52_a_fault_of_an_issuer_has_its_members_and_nothing_of_the_issuers_words(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        at.issuer.reply = lambda _: reply(400, json.dumps({"error": "invalid_scope", "error_description": "prose canary"}).encode())
        refused = await at.ask()
        assert refused.value("cache-control") == "no-store"
        assert refused.value("proxy-status") == 'robin-gateway; error=proxy_internal_error; details="grant_refused"'
        assert 27 <= int(refused.value("retry-after") or 0) <= 33
        expected = {"source": "issuer", "retry": "after", "class": "fix_configuration", "provider": "demo", "credential": "token"}
        assert refused.problem.items() >= {**expected, "issuer_error": "invalid_scope", "status": 502}.items()
        assert b"canary" not in refused.body
        assert str(at.issuer.port).encode() not in refused.body


async def test_g40_past_its_usable_time_a_token_is_never_sent_and_before_that_a_hanging_issuer_delays_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, manual=True, grants="{token_timeout: 200ms}") as at:
        clock = at.clock
        assert isinstance(clock, ManualClock)
        await at.ask()
        at.issuer.reply = lambda _: reply(503)
        clock.advance(260)  # STALE: past 90 % of 270 s
        assert (await at.ask()).status == 200
        clock.advance(9.9)
        assert (await at.ask()).status == 200
        clock.advance(0.2)
        refused = await at.ask()
        assert (refused.status, refused.problem["code"]) == (503, "issuer_unavailable")
        assert set(map(tuple, at.authorizations)) == {(b"Bearer token-0",)}
