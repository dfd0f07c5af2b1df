"""The request path: the order of its steps, what is contacted at each refusal, and what is sent again."""

import asyncio

import pytest
from tests.proxy.rig import Room, open_room

from robin.model.faults import Fault
from robin.model.limits import Limits
from robin.model.verdict import Permit
from robin.telemetry.record import ExchangeRecord
from robin.testing.connection import ScriptedConnection
from robin.testing.recording_upstream import RecordingUpstream, answer, response
from robin.testing.waiting import eventually

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def status(seen: bytes) -> int:
    return int(seen.split(b" ")[1])


async def test_a_good_request_is_answered_injected_and_recorded(room: Room, upstream: RecordingUpstream) -> None:
    upstream.script = answer(response(200, b"hello"))
    caller = room.call()
    seen = await caller.ask(b"POST /x?secret=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nAuthorization: Bearer mine\r\n\r\nabc")
    assert seen.endswith(b"\r\n\r\nhello")
    (request,) = upstream.requests
    assert (request.values(b"Authorization"), request.body) == ([b"Bearer t0ken"], b"abc")
    await caller.hang_up()
    (record,) = await room.records()
    assert (record["outcome"], record["status"], record["upstream_status"], record["path"]) == ("forwarded", 200, 200, "/x")
    assert (record["bytes_in"], record["bytes_out"], record["reused"], record["retries"]) == (3, 5, False, 0)
    assert (record["identity"]["sub"], record["credential"]) == ("alice", "forward")


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", "host_not_allowed"),
        (b"GET / HTTP/1.1\r\n\r\n", "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nVia: 1.1 robin-00c0ffee\r\n\r\n", "loop"),
    ],
)
async def test_who_is_refused_reaches_neither_identity_nor_upstream(
    room: Room, upstream: RecordingUpstream, octets: bytes, code: str
) -> None:
    room.tokens.token = None
    caller = room.call()
    await caller.ask(octets)
    await caller.hang_up()
    assert room.outcomes() == {code: 1}
    assert upstream.connections == []
    await room.settled()


async def test_what_the_audit_refuses_goes_nowhere_and_its_record_claims_no_credential(room: Room, upstream: RecordingUpstream) -> None:
    async def refuse(record: ExchangeRecord, permit: Permit, held: object) -> None:
        raise Fault("internal_error", "the audit log cannot be written")

    room.engine.audit = refuse
    caller = room.call()
    assert status(await caller.ask(GET)) == 500
    assert upstream.requests == []
    await caller.hang_up()
    (record,) = await room.records()
    assert (record["outcome"], record["credential"], record["identity"]["sub"]) == ("internal_error", None, "alice")


async def test_without_a_credential_the_upstream_is_not_contacted(room: Room, upstream: RecordingUpstream) -> None:
    room.tokens.token = None
    caller = room.call()
    await caller.send(GET)
    await eventually(lambda: room.tokens.waiting == 1, what="a wait for the credential", every_s=0)
    assert upstream.connections == []
    await room.tokens.refuse(Fault("identity_unavailable", "file: none"))
    assert status(await caller.receive(until=b"}")) == 503
    await caller.hang_up()
    assert upstream.connections == []
    assert (await room.records())[0]["identity_wait_s"] > 0
    await room.settled()


async def test_a_credential_that_comes_in_time_serves_the_request_that_waited(room: Room, upstream: RecordingUpstream) -> None:
    room.tokens.token = None
    caller = room.call()
    await caller.send(GET)
    await eventually(lambda: room.tokens.waiting == 1, what="a wait for the credential", every_s=0)
    await room.tokens.give(b"late")
    assert status(await caller.receive(until=b"\r\n\r\n")) == 200
    assert upstream.requests[0].values(b"Authorization") == [b"Bearer late"]
    await caller.hang_up()


async def test_a_credential_that_changed_while_the_pool_was_full_is_taken_afresh(upstream: RecordingUpstream, tmp_path) -> None:  # type: ignore[no-untyped-def]
    async with open_room(upstream.port, tmp_path, limits=Limits(upstream_connections=1)) as room:
        busy = await room.engine.pool.acquire(room.permit)
        caller = room.call()
        await caller.send(GET)
        await eventually(lambda: room.bucket.waiters, what="a wait for the pool", every_s=0)
        room.tokens.token = b"newer"
        busy.reusable = True
        room.engine.pool.release(busy, None)
        assert status(await caller.receive(until=b"\r\n\r\n")) == 200
        assert upstream.requests[0].values(b"Authorization") == [b"Bearer newer"]
        await caller.hang_up()
        await room.settled()


async def test_a_401_is_relayed_told_to_the_grant_and_not_repeated(room: Room, upstream: RecordingUpstream) -> None:
    upstream.script = answer(response(401, b"no", reason="Unauthorized"))
    caller = room.call()
    assert status(await caller.ask(GET)) == 401
    await caller.hang_up()
    assert room.tokens.rejections == 1
    assert len(upstream.requests) == 1
    assert room.outcomes() == {"forwarded": 1}


async def test_past_the_drains_minimum_a_head_is_answered_with_draining(room: Room, upstream: RecordingUpstream) -> None:
    caller = room.call()
    await caller.send(b"GET / ")
    await eventually(lambda: room.engine.metrics.in_flight, what="an exchange", every_s=0)
    room.engine.drain.begin_closing()
    await caller.send(b"HTTP/1.1\r\nHost: localhost\r\n\r\n")
    seen = await caller.receive()
    assert status(seen) == 503
    assert b'"code": "draining"' in seen
    assert upstream.connections == []
    await caller.hang_up()
    await room.settled()


def dying(served: list[bytes]) -> "object":
    """A script: the first connection answers once and dies of its second request; the later ones answer."""

    async def script(connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            served.append(request.method)
            if connection.index == 0 and len(connection.requests) == 2:
                return
            await connection.send(response())

    return script


@pytest.mark.parametrize(
    ("octets", "expected", "outcome"),
    [
        (GET, 200, {"forwarded": 2}),
        (b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 200, {"forwarded": 2}),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi", 502, {"forwarded": 1, "upstream_closed": 1}),
        (b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi", 502, {"forwarded": 1, "upstream_closed": 1}),
    ],
)
async def test_only_what_can_be_repeated_is_sent_again_on_a_new_connection_when_a_kept_one_was_dead(
    room: Room, upstream: RecordingUpstream, octets: bytes, expected: int, outcome: dict[str, int]
) -> None:
    served: list[bytes] = []
    upstream.script = dying(served)  # type: ignore[assignment]
    caller = room.call()
    assert status(await caller.ask(GET)) == 200
    assert status(await caller.ask(octets)) == expected
    await caller.hang_up()
    await room.settled()
    assert room.outcomes() == outcome
    assert len(served) == (3 if expected == 200 else 2)
    assert room.engine.metrics.retries["eof"] == (1 if expected == 200 else 0)


async def test_a_fresh_connection_that_dies_is_502_and_no_second_one_is_tried(room: Room, upstream: RecordingUpstream) -> None:
    async def deaf(connection: ScriptedConnection) -> None:
        await connection.read_request()

    upstream.script = deaf
    caller = room.call()
    assert status(await caller.ask(GET)) == 502
    await caller.hang_up()
    assert len(upstream.connections) == 1
    assert room.outcomes() == {"upstream_closed": 1}
    await room.settled()


async def test_a_caller_that_left_while_the_upstream_was_dialled_or_asked_is_client_closed(room: Room, upstream: RecordingUpstream) -> None:
    for turns in range(30):
        caller = room.call()
        await caller.send(GET)
        for _ in range(turns):
            await asyncio.sleep(0)
        await caller.hang_up()
        await room.settled()
    assert room.recorded == 30
    assert room.outcomes().keys() <= {"client_closed", "forwarded"}
    assert room.outcomes()["client_closed"] >= 3


async def test_a_bug_of_ours_is_500_told_with_its_stack_and_spoils_no_other_exchange(room: Room) -> None:
    class Broken:
        def decide(self, *_: object) -> object:
            raise ZeroDivisionError("canary")

    good, room.engine.policy = room.engine.policy, Broken()  # type: ignore[assignment]
    caller = room.call()
    seen = await caller.ask(GET)
    assert status(seen) == 500
    assert b"canary" not in seen
    room.engine.policy = good
    other = room.call()
    assert status(await other.ask(GET)) == 200
    await caller.hang_up()
    await other.hang_up()
    (event,) = await eventually(room.events, what="the event")
    assert (event["event"], event["level"], event["code"]) == ("exchange_failed", "error", "internal_error")
    assert "decide" in str(event["stack"])
    assert room.outcomes() == {"internal_error": 1, "forwarded": 1}
    await room.settled()
