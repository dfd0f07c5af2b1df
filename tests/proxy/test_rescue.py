"""Failures become answers, or a reset where the caller saw a head; what follows a refusal is never guessed."""

import asyncio
import json

import pytest
from tests.proxy.rig import Room

from robin.proxy.downstream import Downstream
from robin.testing.connection import ScriptedConnection
from robin.testing.recording_upstream import RecordingUpstream
from robin.testing.waiting import eventually

NEXT = b"GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n"


def post(*fields: bytes) -> bytes:
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: elsewhere", *fields]) + b"\r\n\r\n"


async def test_a_refusal_is_a_problem_that_the_record_can_be_found_by(room: Room) -> None:
    caller = room.call()
    head, _, body = (await caller.ask(b"GET / HTTP/1.1\r\nHost: elsewhere\r\n\r\n")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 421 Misdirected Request\r\n")
    problem = json.loads(body)
    (record,) = await room.records()
    assert problem["code"] == record["outcome"] == "host_not_allowed"
    assert problem["request_id"] == record["request_id"]
    assert (record["status"], record["upstream_status"]) == (421, None)
    await caller.hang_up()


async def test_head_is_refused_without_a_body(room: Room) -> None:
    caller = room.call()
    await caller.send(b"HEAD / HTTP/1.1\r\nHost: elsewhere\r\n\r\n" + NEXT)
    seen = await caller.receive(until=b"200 OK\r\nContent-Length: 0\r\n\r\n")
    assert b"}" not in seen
    await caller.hang_up()


@pytest.mark.parametrize("size", [0, 5, 256 * 1024])
async def test_a_small_unread_body_is_forgotten_and_the_connection_goes_on(room: Room, upstream: RecordingUpstream, size: int) -> None:
    caller = room.call()
    await caller.send(post(b"Content-Length: %d" % size) + bytes(size) + NEXT)
    seen = await caller.receive(until=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert seen.startswith(b"HTTP/1.1 421")
    assert b"Connection: close" not in seen
    assert [request.target for request in upstream.requests] == [b"/next"]
    await caller.hang_up()
    await room.settled()


@pytest.mark.parametrize(
    "fields",
    [
        (b"Content-Length: 262145",),
        (b"Transfer-Encoding: chunked",),
        (b"Content-Length: 5", b"Expect: 100-continue"),
        (b"Content-Length: 0", b"Connection: close"),
    ],
)
async def test_where_the_end_of_the_body_is_far_or_unsure_the_connection_ends(
    room: Room, upstream: RecordingUpstream, fields: tuple[bytes, ...]
) -> None:
    caller = room.call()
    await caller.send(post(*fields) + NEXT)
    seen = await caller.receive()
    assert seen.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in seen
    assert upstream.connections == []
    await caller.hang_up()
    await room.settled()


async def test_tunnel_bytes_behind_a_refused_upgrade_are_no_request(room: Room, upstream: RecordingUpstream) -> None:
    caller = room.call()
    await caller.send(b"GET / HTTP/1.1\r\nHost: elsewhere\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n" + NEXT)
    assert (await caller.receive()).count(b"HTTP/1.1 ") == 1
    assert upstream.connections == []
    await caller.hang_up()


async def test_a_malformed_request_ends_the_connection(room: Room) -> None:
    caller = room.call()
    await caller.send(b"GET / HTTP/1.1\r\n\r\n" + NEXT)
    seen = await caller.receive()
    assert seen.startswith(b"HTTP/1.1 400")
    assert seen.count(b"HTTP/1.1 ") == 1
    await caller.hang_up()
    assert room.outcomes() == {"bad_request": 1}


async def test_after_the_caller_saw_a_head_a_failure_is_no_answer_but_an_end(room: Room, upstream: RecordingUpstream) -> None:
    async def broken(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await seen.wait()
        await connection.send(b"zz\r\n")
        await connection.wait_ended()

    seen = asyncio.Event()
    upstream.script = broken
    caller = room.call()
    await caller.send(NEXT)
    got = await caller.receive(until=b"abc\r\n")
    seen.set()
    got += await caller.receive()
    assert got.count(b"HTTP/1.1 ") == 1
    assert not got.endswith(b"0\r\n\r\n")
    await caller.hang_up()
    assert room.outcomes() == {"upstream_aborted": 1}
    await room.settled()


async def test_our_own_options_answer_is_no_error_and_contacts_nobody(room: Room, upstream: RecordingUpstream) -> None:
    caller = room.call()
    for line in (b"OPTIONS * HTTP/1.1\r\n", b"OPTIONS /x HTTP/1.1\r\nMax-Forwards: 00\r\n"):
        seen = await caller.ask(line + b"Host: localhost\r\n\r\n")
        assert seen.startswith(b"HTTP/1.1 204 No Content\r\nAllow: ")
    assert upstream.connections == []
    assert room.outcomes() == {"local_response": 2}
    await caller.hang_up()


async def test_who_pipelines_refusals_and_never_reads_is_answered_no_further(room: Room) -> None:
    caller = room.call()
    await eventually(lambda: room.engine.drain.connections, what="the connection", every_s=0)
    (downstream,) = room.engine.drain.connections
    assert isinstance(downstream, Downstream)
    refused = b"GET / HTTP/1.1\r\nHost: elsewhere\r\n\r\n"

    def swamped() -> bool:
        try:
            caller.sock.send(refused * 1000)
        except BlockingIOError:
            return downstream.write_blocked
        return False

    await eventually(swamped, what="answers that nobody takes", every_s=0)
    before = room.recorded
    for _ in range(100):
        await asyncio.sleep(0)
    assert room.recorded == before
    caller.sock.close()
    await caller.served()
    await room.settled()
