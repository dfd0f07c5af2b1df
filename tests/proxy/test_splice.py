"""Opaque bytes between two streams: nothing of either direction is lost, a reset stays a reset, and nothing outlasts its end."""

import asyncio
import math
import select
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from tests.permits import CALLER
from tests.proxy.rig import Room

from robin.model.faults import Fault
from robin.planes.gateway.open_tunnels import OpenConnect
from robin.proxy.downstream import Downstream
from robin.proxy.splice import SpliceEnd, splice
from robin.telemetry.record import ExchangeRecord
from robin.testing.waiting import eventually
from robin.transport.stream import Stream
from robin.wire.http1 import RequestForms, parse_request

PIECE = bytes(range(256)) * 256


@dataclass
class Spliced:
    """The two far ends, the two streams between them, and the task that relays."""

    caller: socket.socket
    origin: socket.socket
    downstream: Downstream
    upstream: Stream
    record: ExchangeRecord
    task: "asyncio.Task[SpliceEnd]"

    async def fill(self, end: socket.socket, source: Stream) -> int:
        """Send from this end until the other one takes no more. Returns the count."""
        loop, sent = asyncio.get_running_loop(), 0
        while not source.paused:
            await loop.sock_sendall(end, PIECE)
            sent += len(PIECE)
            arrived = sent
            await eventually(lambda at=arrived: source.paused or source.bytes_received == at, what="the piece")  # type: ignore[misc]
        return sent

    async def ended(self) -> SpliceEnd:
        async with asyncio.timeout(10):
            return await self.task


async def received(end: socket.socket) -> bytes | None:
    """All that comes to this end; None where it ends with a reset."""
    loop, seen = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(10):
        try:
            while piece := await loop.sock_recv(end, 1 << 18):
                seen += piece
        except ConnectionResetError:
            return None
    return bytes(seen)


@asynccontextmanager
async def spliced(room: Room, *, idle_s: float = math.inf, max_s: float = math.inf) -> AsyncIterator[Spliced]:
    loop, engine = asyncio.get_running_loop(), room.engine
    with socket.create_server(("127.0.0.1", 0)) as server:
        ends = [(socket.create_connection(server.getsockname()), server.accept()[0]) for _ in range(2)]
    (caller, near), (origin, far) = ends
    for sock in (caller, origin, near, far):
        sock.setblocking(False)
    downstream, upstream = Downstream(engine, CALLER), Stream(engine.loop, engine.sweeper)
    await loop.connect_accepted_socket(lambda: downstream, near)
    await loop.connect_accepted_socket(lambda: upstream, far)
    record = ExchangeRecord(CALLER, engine.clock())
    task = engine.tasks.start(splice(downstream, upstream, record, engine, idle_s=idle_s, max_s=max_s), "splice")
    await asyncio.sleep(0)
    try:
        yield Spliced(caller, origin, downstream, upstream, record, task)
    finally:
        task.cancel()
        await asyncio.wait([task])
        for stream in (downstream, upstream):
            stream.abort()
        for sock in (caller, origin):
            sock.close()
        await room.settled()


def reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


async def test_each_side_may_end_first_and_the_other_goes_on(room: Room) -> None:
    async with spliced(room) as both:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(both.caller, b"a question")
        both.caller.shutdown(socket.SHUT_WR)
        assert await received(both.origin) == b"a question"
        await loop.sock_sendall(both.origin, b"an answer")
        both.origin.close()
        assert await received(both.caller) == b"an answer"
        assert await both.ended() == SpliceEnd.CLIENT_CLOSED
        assert (both.record.bytes_in, both.record.bytes_out) == (10, 9)


@pytest.mark.parametrize("origin_ended", [False, True])
async def test_the_end_of_an_upload_arrives_however_slow_the_origin_is(room: Room, origin_ended: bool) -> None:
    async with spliced(room) as both:
        if origin_ended:
            both.origin.shutdown(socket.SHUT_WR)
            assert await received(both.caller) == b""
        sent = await both.fill(both.caller, both.downstream)
        await asyncio.get_running_loop().sock_sendall(both.caller, b"the end")
        both.caller.shutdown(socket.SHUT_WR)
        await eventually(lambda: both.downstream._look(select.POLLRDHUP), what="the end in the kernel")
        both.downstream.detect_disconnect()  # as each sweep does
        arrived = await received(both.origin)
        assert arrived is not None
        assert (len(arrived), arrived[-7:]) == (sent + 7, b"the end")


async def test_a_reset_that_the_end_of_an_upload_runs_into_reaches_the_caller_as_a_reset(room: Room) -> None:
    async with spliced(room) as both:
        both.upstream.pause_reading()  # so that a write sees the reset first
        reset(both.origin)
        await asyncio.get_running_loop().sock_sendall(both.caller, b"the end")
        both.caller.shutdown(socket.SHUT_WR)
        assert await both.ended() == SpliceEnd.CLIENT_CLOSED
        assert await received(both.caller) is None


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("by", ["caller", "origin"])
async def test_a_reset_reaches_the_other_side_as_a_reset(room: Room, by: str, paused: bool) -> None:
    async with spliced(room) as both:
        ends, streams = (both.caller, both.origin), (both.downstream, both.upstream)
        resetting, other, source = (ends[0], ends[1], streams[0]) if by == "caller" else (ends[1], ends[0], streams[1])
        if paused:
            await both.fill(resetting, source)
        reset(resetting)
        if paused:
            await eventually(lambda: source.detect_disconnect() or source.eof, what="the end")  # the loop does not read, so it sees nothing
        assert await received(other) is None
        assert await both.ended() == (SpliceEnd.CLIENT_CLOSED if by == "caller" else SpliceEnd.UPSTREAM_CLOSED)


@pytest.mark.parametrize("asked", [False, True], ids=["open", "the caller has ended"])
async def test_what_a_drain_cuts_looks_whole_to_neither_side(room: Room, asked: bool) -> None:
    async with spliced(room) as both:
        if asked:
            both.caller.shutdown(socket.SHUT_WR)
            assert await received(both.origin) == b""
        both.task.cancel()
        assert await received(both.caller) is None
        if not asked:
            assert await received(both.origin) is None


@pytest.mark.parametrize("to", ["caller", "origin"])
@pytest.mark.parametrize("times", [(7.0, math.inf), (math.inf, 7.0)], ids=["idle", "max_age"])
async def test_a_part_does_not_look_whole_where_the_rest_was_not_taken_in_time(room: Room, times: tuple[float, float], to: str) -> None:
    async with spliced(room, idle_s=times[0], max_s=times[1]) as both:
        sending, source = (both.caller, both.downstream) if to == "origin" else (both.origin, both.upstream)
        await both.fill(sending, source)
        now = room.engine.now()
        room.engine.now = lambda: now + 8
        both.upstream.expire()  # as the sweep does
        await both.ended()
        assert await received(both.origin if to == "origin" else both.caller) is None


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("times", "end"), [((7.0, math.inf), SpliceEnd.IDLE), ((math.inf, 7.0), SpliceEnd.MAX_AGE)])
async def test_silence_and_age_end_it_and_are_its_reason(room: Room, times: tuple[float, float], end: SpliceEnd, half: bool) -> None:
    async with spliced(room, idle_s=times[0], max_s=times[1]) as both:
        if half:
            both.caller.shutdown(socket.SHUT_WR)
            assert await received(both.origin) == b""
        now = room.engine.now()
        assert now < both.downstream.deadline_at == both.upstream.deadline_at <= now + 7
        room.engine.now = lambda: now + 8
        both.upstream.expire()  # as the sweep does
        assert await both.ended() == (SpliceEnd.CLIENT_CLOSED if half and end == SpliceEnd.IDLE else end)
        assert await received(both.caller) == (b"" if end == SpliceEnd.IDLE else None)  # only behind silence is nothing under way


@pytest.mark.parametrize("filled", [False, True])
async def test_what_a_reload_ends_looks_whole_to_neither_side(room: Room, filled: bool) -> None:
    octets, forms = b"CONNECT a.test:1 HTTP/1.1\r\nHost: a.test:1\r\n\r\n", RequestForms(connect=True)
    head = parse_request(octets, target_bytes=100, fields_max=10, forms=forms)
    async with spliced(room, idle_s=900.0) as both:
        opened = OpenConnect(head, both.record, room.engine)
        opened.answered(both.downstream, both.upstream)
        if filled:
            await both.fill(both.origin, both.upstream)  # the caller does not read
        both.downstream.data_received(PIECE)  # in the same turn
        opened.withdraw(Fault("rule_denied", "policy_reload: a test"))
        await both.ended()
        assert await received(both.caller) is None
        assert await received(both.origin) is None
        opened.close()
