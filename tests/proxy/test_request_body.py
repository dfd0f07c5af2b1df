"""The request body: framed anew, withheld while it is not wanted, and never made to look whole when it is not."""

import asyncio
import tracemalloc

import pytest
from tests.permits import CALLER
from tests.proxy.rig import Leaps, Room

from robin.model.route import Held
from robin.proxy.request_body import hold_body
from robin.telemetry.record import ExchangeRecord
from robin.testing.connection import PeerLeft, ScriptedConnection
from robin.testing.recording_upstream import RecordingUpstream, response
from robin.testing.waiting import eventually
from robin.wire.framing import CHUNKS_A_TURN
from robin.wire.http1 import parse_request

CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("cut", [1, 2, 5, 1000])
async def test_a_chunked_body_goes_up_in_chunks_without_extensions_and_with_the_trailers_that_may_travel(
    room: Room, upstream: RecordingUpstream, cut: int
) -> None:
    octets = b"3;a=b\r\nabc\r\n0000A\r\n0123456789\r\n0\r\nX-Sum: 1\r\nAuthorization: no\r\nX-Api-Key: no\r\n\r\n"
    caller = room.call()
    await caller.send(CHUNKED)
    for at in range(0, len(octets), cut):
        await caller.send(octets[at : at + cut])
        await asyncio.sleep(0)
    await caller.receive(until=b"\r\n\r\n")
    (request,) = upstream.requests
    assert request.body == b"abc0123456789"
    assert list(request.trailers) == [(b"X-Sum", b"1")]
    assert b";a=b" not in request.raw
    await caller.hang_up()
    assert room.engine.metrics.body_bytes_in == 13
    await room.settled()


async def test_a_body_of_known_length_goes_up_as_it_comes_and_what_follows_is_the_next_request(
    room: Room, upstream: RecordingUpstream
) -> None:
    caller = room.call()
    await caller.send(b"POST /1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\nabc")
    origin = await upstream.connection(0)
    await eventually(lambda: origin.received.endswith(b"\r\n\r\nabc"), what="the first half")
    await caller.send(b"defGET /2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    seen = b""
    while seen.count(b"\r\n\r\n") < 2:
        seen += await caller.receive(octets=1)
    assert [(request.target, request.body) for request in upstream.requests] == [(b"/1", b"abcdef"), (b"/2", b"")]
    await caller.hang_up()


async def test_an_expected_body_is_withheld_until_100_and_goes_then(room: Room, upstream: RecordingUpstream) -> None:
    held: list[bytes] = []

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        for _ in range(20):
            await asyncio.sleep(0)
        held.append(bytes(connection.received).partition(b"\r\n\r\n")[2])
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await connection.read_exactly(3) == b"abc"
        await connection.send(response(200, b"ok"))
        await connection.wait_ended()

    upstream.script = script
    caller = room.call()
    await caller.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc")
    seen = await caller.receive(until=b"\r\n\r\nok")
    assert seen.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert held == [b""]
    await caller.hang_up()
    await room.settled()


async def test_after_a_second_of_silence_an_expected_body_goes_anyway(room: Room, upstream: RecordingUpstream) -> None:
    caller = room.call()
    began = room.engine.clock()
    await caller.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc")
    await caller.receive(until=b"\r\n\r\n")
    assert 0.9 < room.engine.clock() - began < 5
    assert upstream.requests[0].body == b"abc"
    await caller.hang_up()
    await room.settled()


async def test_a_final_answer_instead_of_100_means_that_no_body_byte_goes_up(room: Room, upstream: RecordingUpstream) -> None:
    async def refusing(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.send(response(413, b"no", reason="Too Large"))
        await connection.wait_ended()

    upstream.script = refusing
    caller = room.call()
    await caller.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc")
    seen = await caller.receive()
    assert seen.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nConnection: close\r\n" in seen
    await caller.hang_up()
    assert not upstream.connections[0].received.endswith(b"abc")
    assert room.bucket.count == 0
    await room.settled()


async def test_an_early_answer_is_relayed_and_both_connections_end(room: Room, upstream: RecordingUpstream) -> None:
    async def early(connection: ScriptedConnection) -> None:
        await connection.read_until(b"abc")
        await connection.send(response(200, b"enough"))
        await connection.wait_ended()

    upstream.script = early
    caller = room.call()
    await caller.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
    seen = await caller.receive()
    assert seen.endswith(b"\r\n\r\nenough")
    assert b"\r\nConnection: close\r\n" in seen
    await caller.hang_up()
    assert (room.outcomes(), room.bucket.count) == ({"forwarded": 1}, 0)
    await room.settled()


@pytest.mark.parametrize("bad", [b"zz\r\n", b"3\r\nabcX", b"0\r\nContent-Length: 3\r\n\r\n"])
@pytest.mark.parametrize("together", [False, True])
async def test_a_broken_body_is_400_and_the_upstream_never_sees_a_whole_one(
    room: Room, upstream: RecordingUpstream, bad: bytes, together: bool
) -> None:
    whole: list[bytes] = []

    async def script(connection: ScriptedConnection) -> None:
        try:
            whole.append((await connection.read_request()).raw)
        except PeerLeft:
            return

    upstream.script = script
    caller = room.call()
    await caller.send(CHUNKED + b"3\r\nabc\r\n" + (bad if together else b""))
    if not together:
        await upstream.connection(0)
        await caller.send(bad)
    seen = await caller.receive()
    assert seen.startswith(b"HTTP/1.1 400 ")
    await caller.hang_up()
    assert await (await upstream.connection(0)).wait_ended() in {"eof", "reset", "closed"}
    assert whole == []
    assert room.outcomes() == {"bad_request": 1}
    await room.settled()


@pytest.mark.parametrize("head", [CHUNKED + b"5\r\nab", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab"])
async def test_a_caller_that_leaves_within_its_body_ends_the_upstream_connection(
    room: Room, upstream: RecordingUpstream, head: bytes
) -> None:
    caller = room.call()
    await caller.send(head)
    origin = await upstream.connection(0)
    await eventually(lambda: b"ab" in origin.received, what="the beginning of the body")
    await caller.hang_up()
    assert await origin.wait_ended() in {"eof", "reset"}
    assert upstream.requests == []
    assert room.outcomes() == {"client_closed": 1}
    await room.settled()


async def test_a_body_that_stops_is_given_up_at_its_deadline(room: Room, upstream: RecordingUpstream) -> None:
    caller = room.call()
    await caller.send(CHUNKED + b"3\r\nabc\r\n")
    origin = await upstream.connection(0)
    await eventually(lambda: origin.received.endswith(b"abc\r\n"), what="the beginning of the body")
    (downstream,) = room.engine.drain.connections
    downstream.expire()  # type: ignore[attr-defined]
    assert (await caller.receive()).startswith(b"HTTP/1.1 408 ")
    await caller.hang_up()
    assert upstream.requests == []
    assert room.outcomes() == {"request_timeout": 1}
    await room.settled()


async def test_an_upstream_that_does_not_read_holds_the_caller_back(room: Room, upstream: RecordingUpstream) -> None:
    go = asyncio.Event()

    async def slow(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        connection.transport.pause_reading()
        await go.wait()
        connection.transport.resume_reading()
        await connection.read_exactly(64 << 20)
        await connection.send(response(200, b"ok"))
        await connection.wait_ended()

    upstream.script = slow
    caller = room.call()
    await caller.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
    sending = asyncio.get_running_loop().create_task(caller.send(bytes(64 << 20)))
    await upstream.connection(0)
    (downstream,) = room.engine.drain.connections
    await eventually(lambda: downstream.paused, what="an upload that is held back")  # type: ignore[attr-defined]
    assert len(downstream.received) <= 256 << 10  # type: ignore[attr-defined]
    assert not sending.done()
    go.set()
    assert (await caller.receive(until=b"ok")).startswith(b"HTTP/1.1 200 OK")
    await sending
    await caller.hang_up()
    await room.settled()


async def test_a_flood_of_small_chunks_leaves_turns_to_others(room: Room, upstream: RecordingUpstream) -> None:
    """One read of the loop holds ten thousands of them, and all in one go would keep every other caller waiting."""
    caller = room.call()
    with Leaps(lambda: room.engine.metrics.body_bytes_in) as leaps:
        await caller.send(CHUNKED + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
        await caller.receive(until=b"\r\n\r\n")
    assert room.engine.metrics.body_bytes_in == 100_000
    assert 0 < leaps.largest <= CHUNKS_A_TURN
    assert upstream.requests[0].body == b"x" * 100_000
    await caller.hang_up()
    await room.settled()


async def test_a_body_that_is_held_takes_little_more_memory_than_it_has_bytes_however_it_arrives(room: Room) -> None:
    downstream, _ = await room.meet()
    head = parse_request(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000\r\n\r\n", target_bytes=100, fields_max=10)
    record = ExchangeRecord(CALLER, 0.0)
    tracemalloc.start()
    try:
        holding = asyncio.ensure_future(hold_body(downstream, head, Held(limit_bytes=20_000), 10.0, record, room.engine))
        for number in range(9_999):
            downstream.data_received(b"%02d" % (number % 100))
            await asyncio.sleep(0)
        assert record.bytes_in > 19_000
        assert tracemalloc.get_traced_memory()[0] < 120_000
        downstream.data_received(b"zz")
        assert (await holding).octets[-4:] == b"98zz"
    finally:
        tracemalloc.stop()
