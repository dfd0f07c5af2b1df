"""What a route or a plane may ask of the request path: a held body, a repeat after 401, a signature, an audit, a caller per request."""

import dataclasses
import hashlib
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from tests.permits import CALLER, route
from tests.proxy.rig import Room, open_room

from robin.model.caller import Caller, Evidence
from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.model.message import HeldBody, OutboundRequest, RequestHead
from robin.model.route import Held
from robin.model.secret import Secret
from robin.model.verdict import Permit
from robin.telemetry.record import ExchangeRecord
from robin.testing.connection import ScriptedConnection
from robin.testing.recording_upstream import RecordingUpstream, answer, response
from robin.testing.waiting import eventually
from robin.transport.pool import Upstream

POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def opened(upstream: RecordingUpstream, folder: Path, **changes: object) -> AbstractAsyncContextManager[Room]:
    """An engine whose route differs in `changes` from the usual one."""
    return open_room(upstream.port, folder, through=dataclasses.replace(route(), **changes))


def status(seen: bytes) -> int:
    return int(seen.split(b" ")[1])


async def test_a_held_body_is_whole_before_the_upstream_is_contacted_and_is_sent_with_its_length(
    upstream: RecordingUpstream, tmp_path: Path
) -> None:
    async with opened(upstream, tmp_path, body=Held(limit_bytes=6)) as room:
        caller = room.call()
        await caller.send(CHUNKED + b"3\r\nabc\r\n")
        await eventually(lambda: room.engine.metrics.body_bytes_in == 3, what="the first chunk", every_s=0)
        assert upstream.connections == []
        await caller.send(b"3\r\ndef\r\n0\r\nX-Sum: 1\r\n\r\n")
        assert status(await caller.receive(until=b"\r\n\r\n")) == 200
        (request,) = upstream.requests
        assert (request.values(b"Content-Length"), request.values(b"Transfer-Encoding"), request.body) == ([b"6"], [], b"abcdef")
        await caller.hang_up()
        await room.settled()


async def test_the_caller_of_a_held_body_gets_its_100_from_the_proxy(upstream: RecordingUpstream, tmp_path: Path) -> None:
    async with opened(upstream, tmp_path, body=Held(limit_bytes=6)) as room:
        caller = room.call()
        await caller.send(POST.replace(b"\r\n\r\nabc", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert await caller.receive(until=b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await caller.send(b"abc")
        assert status(await caller.receive(until=b"\r\n\r\n")) == 200
        (request,) = upstream.requests
        assert (request.values(b"Expect"), request.body) == ([], b"abc")
        await caller.hang_up()


async def test_bodies_that_are_held_share_one_bound_and_give_it_back(upstream: RecordingUpstream, tmp_path: Path) -> None:
    async with opened(upstream, tmp_path, body=Held(limit_bytes=6)) as room:
        engine = room.engine
        engine.limits = dataclasses.replace(engine.limits, held_bytes=8)
        first, second, third = room.call(), room.call(), room.call()
        await first.send(POST.replace(b"3", b"6", 1))
        await second.send(CHUNKED + b"2\r\nab\r\n")
        await eventually(lambda: engine.held_bytes == 8, what="both bodies", every_s=0)
        assert status(await third.ask(POST)) == 503
        await second.send(b"1\r\nc\r\n")
        assert status(await second.receive(until=b"\r\n\r\n")) == 503
        await first.hang_up()
        await eventually(lambda: engine.held_bytes == 0, what="the memory", every_s=0)
        fourth = room.call()
        assert status(await fourth.ask(POST)) == 200
        assert [request.body for request in upstream.requests] == [b"abc"]
        assert engine.held_bytes == 0
        for caller in (second, third, fourth):
            await caller.hang_up()
        await room.settled()


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\r\n", "limit_body"),
        (CHUNKED + b"7\r\nabcdefg\r\n", "limit_body"),
        (CHUNKED + b"zz\r\n", "bad_request"),
    ],
)
async def test_a_body_that_cannot_be_held_is_refused_and_nothing_is_sent(
    upstream: RecordingUpstream, tmp_path: Path, octets: bytes, code: str
) -> None:
    async with opened(upstream, tmp_path, body=Held(limit_bytes=6)) as room:
        caller = room.call()
        await caller.send(octets)
        seen = await caller.receive()
        assert status(seen) == {"limit_body": 413, "bad_request": 400}[code]
        await caller.hang_up()
        assert upstream.connections == []
        assert room.outcomes() == {code: 1}
        await room.settled()


async def test_a_held_body_that_stops_is_given_up_and_a_caller_that_leaves_is_recorded(upstream: RecordingUpstream, tmp_path: Path) -> None:
    async with opened(upstream, tmp_path, body=Held(limit_bytes=6)) as room:
        slow, gone = room.call(), room.call()
        await slow.send(CHUNKED + b"3\r\nab")
        await gone.send(CHUNKED + b"3\r\nab")
        await eventually(lambda: room.engine.metrics.body_bytes_in == 4, what="both parts", every_s=0)
        await gone.hang_up()
        (downstream,) = room.engine.drain.connections
        downstream.expire()  # type: ignore[attr-defined]
        assert status(await slow.receive()) == 408
        await slow.hang_up()
        assert room.outcomes() == {"client_closed": 1, "request_timeout": 1}
        assert upstream.connections == []


class Renewing:
    """Credentials that are renewed when one is rejected."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.rejected_count = 0

    def ready(self, permit: Permit) -> Credential | None:
        self._room.tokens.token = b"fresh" if self.rejected_count else b"stale"
        return self._room.tokens.ready(permit)

    async def obtain(self, permit: Permit, notes: dict[str, object]) -> Credential:
        return await self._room.tokens.obtain(permit, notes)

    def rejected(self, permit: Permit, credential: Credential) -> None:
        self.rejected_count += 1

    async def renew(self, permit: Permit, credential: Credential) -> Credential | None:
        self.rejected(permit, credential)
        return self.ready(permit)


async def only_fresh(connection: ScriptedConnection) -> None:
    """Respond 401 to any credential but the fresh one."""
    while (request := await connection.read_request()) is not None:
        good = request.values(b"Authorization") == [b"Bearer fresh"]
        await connection.send(response(200, b"in") if good else response(401, b"out"))


@pytest.mark.parametrize(
    ("octets", "changes", "expected", "sent"),
    [
        (GET, {"repeat_on_401": True}, 200, 2),
        (POST, {"repeat_on_401": True, "body": Held(limit_bytes=3)}, 200, 2),
        (POST, {"repeat_on_401": True}, 401, 1),
        (GET, {}, 401, 1),
    ],
    ids=["no body", "held body", "streamed body", "a route that does not ask for it"],
)
async def test_after_a_401_a_request_that_can_be_sent_again_is_sent_once_more_with_a_fresh_credential(
    upstream: RecordingUpstream, tmp_path: Path, octets: bytes, changes: dict[str, object], expected: int, sent: int
) -> None:
    upstream.script = only_fresh
    async with opened(upstream, tmp_path, **changes) as room:
        room.engine.credentials = Renewing(room)
        caller = room.call()
        seen = await caller.ask(octets)
        assert (status(seen), seen.count(b"HTTP/1.1")) == (expected, 1), "the caller sees one response"
        assert len(upstream.requests) == sent
        await caller.hang_up()
        (record,) = await room.records()
        assert (record["status"], record["retries"], record["outcome"]) == (expected, sent - 1, "forwarded")
        await room.settled()


async def test_a_second_401_is_relayed(upstream: RecordingUpstream, tmp_path: Path) -> None:
    upstream.script = answer(*[response(401)] * 3)
    async with opened(upstream, tmp_path, repeat_on_401=True) as room:
        caller = room.call()
        assert status(await caller.ask(GET)) == 401
        assert len(upstream.requests) == 2
        await caller.hang_up()


async def test_a_signer_sees_the_final_head_and_the_body_and_adds_its_field_last(upstream: RecordingUpstream, tmp_path: Path) -> None:
    seen: list[tuple[str, bytes, bytes, bytes]] = []

    def sign(outbound: OutboundRequest, held: HeldBody | None, credential: Credential, now: float) -> OutboundRequest:
        assert held is not None
        seen.append((outbound.method, outbound.target, outbound.authority, held.sha256))
        return outbound.with_fields(Secret(b"Signature: s1\r\n"))

    async with opened(upstream, tmp_path, body=Held(limit_bytes=3), base_path=b"/v1", sign=sign) as room:
        caller = room.call()
        assert status(await caller.ask(POST)) == 200
        assert seen == [("POST", b"/v1/", b"127.0.0.1:%d" % upstream.port, hashlib.sha256(b"abc").digest())]
        (request,) = upstream.requests
        assert request.values(b"Signature") == [b"s1"]
        await caller.hang_up()


async def test_the_audit_comes_before_the_first_byte_upstream_and_its_failure_sends_nothing(
    room: Room, upstream: RecordingUpstream
) -> None:
    audited: list[tuple[str | None, Caller, int]] = []

    async def audit(record: ExchangeRecord, permit: Permit, held: HeldBody | None) -> None:
        audited.append((record.method, permit.caller, len(upstream.requests)))
        if len(audited) == 2:
            raise Fault("internal_error", "audit: the log cannot be written")

    room.engine.audit = audit
    caller = room.call()
    assert status(await caller.ask(GET)) == 200
    assert status(await caller.ask(GET)) == 500
    assert audited == [("GET", CALLER, 0), ("GET", CALLER, 1)]
    assert len(upstream.requests) == 1
    await caller.hang_up()
    await room.settled()


async def test_what_an_idle_upstream_sent_while_the_audit_was_written_is_no_response(room: Room, upstream: RecordingUpstream) -> None:
    late = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    idle: list[Upstream] = []

    async def audit(record: ExchangeRecord, permit: Permit, held: HeldBody | None) -> None:
        if idle:
            spoke = idle.pop()
            await upstream.connections[0].send(late)
            await eventually(lambda: spoke.received, what="the late bytes")

    room.engine.audit = audit
    caller = room.call()
    assert status(await caller.ask(GET)) == 200
    idle += room.bucket.idle
    assert status(await caller.ask(b"POST" + GET[3:])) == 200
    assert [len(connection.requests) for connection in upstream.connections] == [1, 1]
    await caller.hang_up()
    await room.settled()


async def test_the_caller_of_a_request_is_the_authenticated_one(room: Room, upstream: RecordingUpstream) -> None:
    agent = Caller(evidence=Evidence.LOOPBACK, listener="test", uid=7)
    permitted: list[Caller] = []

    async def authenticate(head: RequestHead, caller: Caller) -> Caller:
        if head.values(b"x-agent") != [b"a"]:
            raise Fault("peer_denied", "uid: no such agent")
        return agent

    async def audit(record: ExchangeRecord, permit: Permit, held: HeldBody | None) -> None:
        permitted.append(permit.caller)

    room.engine.authenticate, room.engine.audit = authenticate, audit
    known, unknown = room.call(), room.call()
    assert status(await known.ask(GET.replace(b"\r\n\r\n", b"\r\nX-Agent: a\r\n\r\n"))) == 200
    assert status(await unknown.ask(GET)) == 403
    assert (permitted, len(upstream.requests)) == ([agent], 1)
    await known.hang_up()
    await unknown.hang_up()
    assert {record["peer_uid"] for record in await room.records()} == {7, None}
