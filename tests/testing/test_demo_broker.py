"""DemoBroker: it accepts only what it verified, echoes what it saw, and never shows the token."""

import asyncio
import hashlib
import json

import pytest
from tests.testing.asking import ask, split_answer

from robin.testing.authority import IdentityAuthority
from robin.testing.demo_broker import DemoBroker, Sighting, fingerprint_of
from robin.testing.manual_clock import ManualClock


class Stand:
    """A broker, its authority, the clock of both, and what was sighted."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.authority = IdentityAuthority(clock=self.clock)
        self.sightings: list[Sighting] = []
        self.broker = DemoBroker(
            jwks=self.authority.jwks,
            issuer=self.authority.issuer,
            audience="broker.test",
            clock=self.clock,
            every_s=0,
            on_sighting=self.sightings.append,
        )

    def token(self, **claims: object) -> bytes:
        return self.authority.service_account_token(audience="broker.test", lifetime_s=60, **claims)

    async def ask(self, target: str, token: bytes, *fields: tuple[str, str], **more):
        return await ask(self.broker.port, target, ("Authorization", f"Bearer {token.decode()}"), *fields, **more)


@pytest.fixture
async def stand():
    made = Stand()
    async with made.broker:
        yield made


async def test_it_echoes_what_it_verified_and_what_it_saw(stand):
    token = stand.token()
    status, fields, body = await stand.ask("/v1/x?y=z", token, ("X-One", "1"), method="POST", body=b"hello")
    seen = json.loads(body)
    assert (status, fields["content-type"]) == (200, "application/json")
    assert seen["identity"]["claims"]["sub"] == "system:serviceaccount:demo:agent"
    assert seen["identity"]["expires_in_s"] == 60.0
    assert seen["identity"]["token_sha256"] == hashlib.sha256(token).hexdigest()[:12]
    assert (seen["request"]["method"], seen["request"]["target"]) == ("POST", "/v1/x?y=z")
    assert "X-One: 1" in seen["request"]["fields"]
    assert seen["request"]["body"] == {"bytes": 5, "sha256": hashlib.sha256(b"hello").hexdigest()}
    assert stand.sightings[0].status == 200


@pytest.mark.parametrize("good", [True, False])
async def test_no_part_of_the_token_comes_back(stand, good):
    token = stand.token() if good else stand.token(aud="other")
    status, fields, body = await stand.ask("/", token)
    assert status == (200 if good else 401)
    answered = body + repr(fields).encode() + repr(stand.sightings).encode()
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
    assert stand.sightings[0].reason == reason


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


async def test_a_connection_serves_many_requests(stand):
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.broker.port)
    request = b"GET /%d HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + stand.token() + b"\r\n\r\n"
    for number in range(3):
        writer.write(request % number)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(split_answer(head)[1]["content-length"]))
        assert json.loads(body)["request"]["target"] == f"/{number}"
    writer.close()
    await writer.wait_closed()
    assert [sighting.target for sighting in stand.sightings] == ["/0", "/1", "/2"]


async def test_head_has_the_fields_and_no_body(stand):
    status, fields, body = await stand.ask("/", stand.token(), method="HEAD")
    assert (status, body) == (200, b"")
    assert int(fields["content-length"]) > 0


async def test_an_expectation_is_answered_before_the_body(stand):
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.broker.port)
    head = (
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\nAuthorization: Bearer %s\r\n\r\n"
    )
    writer.write(head % stand.token())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"ok")
    assert json.loads(split_answer(await reader.read())[2])["request"]["body"]["bytes"] == 2
    writer.close()
    await writer.wait_closed()


async def test_trailers_of_a_chunked_body_are_echoed(stand):
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.broker.port)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer %s\r\n\r\n"
    writer.write(head % stand.token() + b"3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n")
    seen = json.loads(split_answer(await reader.read())[2])["request"]
    assert (seen["body"]["bytes"], seen["trailers"]) == (3, ["X-Sum: 7"])
    writer.close()
    await writer.wait_closed()


async def test_the_stream_sends_each_event_as_its_own_chunk(stand):
    status, fields, body = await stand.ask("/stream?events=3", stand.token())
    assert (status, fields["content-type"], fields["transfer-encoding"]) == (200, "text/event-stream", "chunked")
    events = [json.loads(part.partition(b"\n\n")[0]) for part in body.split(b"data: ")[1:]]
    assert [event["event"] for event in events] == [1, 2, 3]
    assert events[0]["token_sha256"] == stand.sightings[0].fingerprint
    assert body.endswith(b"\r\n0\r\n\r\n")


async def test_a_malformed_request_is_answered_and_closed(stand):
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.broker.port)
    writer.write(b"GET  / HTTP/1.1\r\n\r\n")
    assert split_answer(await reader.read())[0] == 400
    writer.close()
    await writer.wait_closed()


def test_a_fingerprint_is_short_and_of_the_whole_token():
    assert fingerprint_of(b"abc") == "ba7816bf8f01"
