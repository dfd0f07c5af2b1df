"""DemoBroker: it accepts only what it verified, and never shows the token. What else it does, `robin up` and the tutorial show."""

import asyncio
import json

import pytest
from tests.testing.asking import ask, split_answer

from robin.testing.authority import IdentityAuthority
from robin.testing.demo_broker import DemoBroker, JudgedRequest
from robin.testing.manual_clock import ManualClock


class Stand:
    """A broker, its authority, the clock of both, and the requests that the broker reported."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.authority = IdentityAuthority(clock=self.clock)
        self.judged: list[JudgedRequest] = []
        self.broker = DemoBroker(
            jwks=self.authority.jwks,
            issuer=self.authority.issuer,
            audience="broker.test",
            clock=self.clock,
            every_s=0,
            on_request=self.judged.append,
        )

    def token(self, **claims: object) -> bytes:
        return self.authority.service_account_token(audience="broker.test", lifetime_s=60, **claims)

    async def ask(self, target: str, token: bytes) -> tuple[int, dict[str, str], bytes]:
        return await ask(self.broker.port, target, ("Authorization", f"Bearer {token.decode()}"))


@pytest.fixture
async def stand():
    made = Stand()
    async with made.broker:
        yield made


@pytest.mark.parametrize("good", [True, False])
async def test_no_part_of_the_token_comes_back(stand, good):
    token = stand.token() if good else stand.token(aud="other")
    status, fields, body = await stand.ask("/", token)
    assert status == (200 if good else 401)
    answered = body + repr(fields).encode() + repr(stand.judged).encode()
    for part in (token, *token.split(b".")):
        assert part not in answered


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ((), "missing"),
        ((("Authorization", "Basic dTpw"),), "scheme"),
        ((("Authorization", "Bearer a.b.c"),), "malformed"),
        ((("Authorization", "Bearer a"), ("authorization", "Bearer b")), "repeated"),
    ],
)
async def test_a_request_without_a_good_token_is_refused_with_the_reason(stand, fields, reason):
    status, answered, body = await ask(stand.broker.port, "/", *fields)
    assert (status, json.loads(body)) == (401, {"error": "invalid_token", "reason": reason})
    assert answered["www-authenticate"] == 'Bearer error="invalid_token"'
    assert stand.judged[0].reason == reason


async def test_it_judges_by_its_clock(stand):
    token = stand.token()
    stand.clock.advance(60)
    assert json.loads((await stand.ask("/", token))[2])["reason"] == "expired"


async def test_a_refusal_comes_before_the_body_and_is_not_overtaken_by_a_reset(stand):
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.broker.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + bytes(500_000))
    status, _, body = split_answer(await reader.read())
    assert (status, json.loads(body)["reason"]) == (401, "missing")
    writer.close()
    await writer.wait_closed()


async def test_a_body_is_expected_received_and_echoed_with_its_trailers(stand):
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.broker.port)
    lines = b"Host: x\r\nConnection: close\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer %s\r\n\r\n"
    writer.write(b"POST / HTTP/1.1\r\n" + lines % stand.token())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n")
    seen = json.loads(split_answer(await reader.read())[2])["request"]
    assert (seen["body"]["bytes"], seen["trailers"]) == (3, ["X-Sum: 7"])
    writer.close()
    await writer.wait_closed()
