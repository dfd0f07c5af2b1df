"""One downstream connection: exchanges in order, one after the other, and nothing left when it ends."""

import socket

import pytest
from tests.proxy.rig import CALLER, Room

from robin.proxy.connection import serve_connection
from robin.proxy.downstream import Downstream
from robin.testing.recording_upstream import RecordingUpstream, answer, hold, response

GET = b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_requests_of_one_connection_are_answered_in_order_on_one_upstream_connection(room: Room, upstream: RecordingUpstream) -> None:
    upstream.script = answer(*(response(200, b"%d" % number) for number in range(20)))
    caller = room.call()
    await caller.send(b"".join(GET % number for number in range(20)))
    seen = await caller.receive(until=b"\r\n\r\n19")
    assert [part[-2:].strip() for part in seen.split(b"HTTP/1.1 200 OK")[1:]] == [b"%d" % number for number in range(20)]
    assert [request.target for request in upstream.requests] == [b"/%d" % number for number in range(20)]
    assert len(upstream.connections) == 1
    await caller.hang_up()
    await room.settled()
    assert room.outcomes() == {"forwarded": 20}


async def test_after_a_close_nothing_more_is_read_as_a_request(room: Room, upstream: RecordingUpstream) -> None:
    caller = room.call()
    await caller.send(b"GET /first HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" + GET % 2)
    assert (await caller.receive()).count(b"HTTP/1.1") == 1
    await caller.hang_up()
    assert [request.target for request in upstream.requests] == [b"/first"]
    assert room.recorded == 1
    await room.settled()


async def test_a_caller_that_says_nothing_leaves_no_record(room: Room) -> None:
    caller = room.call()
    await caller.hang_up()
    assert room.recorded == 0
    await room.settled()


async def test_a_caller_that_left_before_it_was_served_is_no_error(room: Room) -> None:
    near, far = socket.socketpair()
    near.close()
    far.setblocking(False)
    await serve_connection(far, CALLER, room.engine)
    await room.settled()
    assert room.recorded == 0


@pytest.mark.parametrize("octets", [b"", b"GET / HT", GET % 1])
async def test_while_it_is_served_a_connection_is_counted_and_then_no_more(room: Room, upstream: RecordingUpstream, octets: bytes) -> None:
    upstream.script = hold
    caller = room.call()
    await caller.send(octets)
    if octets.endswith(b"\r\n\r\n"):
        await upstream.connection(0)
    else:
        for _ in range(3):
            await caller.loop.run_in_executor(None, lambda: None)  # a turn of the loop, at least
    assert room.engine.metrics.downstream_connections["test"] == 1
    assert len(room.engine.drain.connections) == 1
    await caller.hang_up()
    await room.settled()
    assert room.outcomes() == ({"client_closed": 1} if octets else {})


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_request_that_was_sent_before_the_drain_is_answered_although_it_was_not_read_yet(
    room: Room, upstream: RecordingUpstream, fresh: bool
) -> None:
    upstream.script = answer(response(200, b"ok"), response(200, b"ok"))
    caller = room.call()
    if not fresh:
        await caller.ask(GET % 1)
    caller.sock.send(GET % 2)  # in the kernel; no turn of the loop has passed
    room.engine.drain.begin_closing()
    assert b'"draining"' in await caller.receive()
    await caller.hang_up()
    assert room.outcomes()["draining"] == 1
    await room.settled()


async def test_a_request_that_was_read_but_not_served_when_the_drain_begins_is_answered(room: Room, upstream: RecordingUpstream) -> None:
    upstream.script = answer(response(200, b"ok"), response(200, b"ok"))
    caller = room.call()
    await caller.ask(GET % 1)
    (downstream,) = room.engine.drain.connections
    assert isinstance(downstream, Downstream)

    def drain_between() -> None:
        """Behind the read, before the task that it wakes."""
        if downstream.idle and downstream.received:
            room.engine.drain.begin_closing()
        else:
            caller.loop.call_soon(drain_between)

    caller.loop.call_soon(drain_between)
    caller.sock.send(GET % 2)
    assert b'"draining"' in await caller.receive()
    await caller.hang_up()
    assert room.outcomes()["draining"] == 1
    await room.settled()


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_drain_ends_a_connection_that_says_nothing_at_once(room: Room, upstream: RecordingUpstream, fresh: bool) -> None:
    upstream.script = answer(response(200, b"ok"))
    caller = room.call()
    if not fresh:
        await caller.ask(GET % 1)
    room.engine.drain.begin_closing()
    assert await caller.receive() == b""
    await caller.hang_up()
    await room.settled()
