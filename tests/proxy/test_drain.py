"""The engine: who is connected, and what a drain tells them."""

from tests.proxy.rig import Room

from robin.proxy.drain import CLOSING
from robin.testing.connection import ScriptedConnection
from robin.testing.recording_upstream import RecordingUpstream, response
from robin.testing.waiting import eventually

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Visitor:
    """A connection that only counts what it was told."""

    def __init__(self) -> None:
        self.retired = self.looked = 0

    def begin_closing(self) -> None:
        self.retired += 1

    def detect_disconnect(self) -> None:
        self.looked += 1


async def test_an_idle_engine_is_drained_at_once(room: Room) -> None:
    assert not room.engine.drain.drained.is_set()
    room.engine.drain.begin_closing()
    assert room.engine.drain.state == CLOSING
    assert room.engine.drain.drained.is_set()


async def test_the_last_connection_that_ends_completes_the_drain(room: Room) -> None:
    engine, first, second = room.engine, Visitor(), Visitor()
    engine.drain.connections |= {first, second}
    engine.drain.disconnected(first)
    assert not engine.drain.drained.is_set()
    engine.drain.begin_closing()
    assert (first.retired, second.retired) == (0, 1)
    assert not engine.drain.drained.is_set()
    engine.drain.disconnected(second)
    assert engine.drain.drained.is_set()


async def test_a_tunnel_hears_of_the_drain_too(room: Room) -> None:
    tunnel = Visitor()
    room.engine.drain.add(tunnel)
    room.engine.drain.begin_closing()
    assert tunnel.retired == 1


async def test_an_idle_connection_ends_at_once_and_a_busy_one_with_its_answer(room: Room, upstream: RecordingUpstream) -> None:
    async def once(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(response())
        await connection.wait_ended()

    upstream.script = once
    idle, busy = room.call(), room.call()
    await idle.ask(GET)
    await busy.send(GET)
    origin = await upstream.connection(0)
    await eventually(lambda: origin.received.count(b"GET") == 2, what="the second request")
    room.engine.drain.begin_closing()
    assert await idle.receive() == b""
    assert room.engine.metrics.in_flight == 1
    assert not room.engine.drain.drained.is_set()
    await idle.hang_up()
    await busy.hang_up()
    assert room.engine.drain.drained.is_set()
    await room.settled()


async def test_idle_upstream_connections_end_with_the_drain(room: Room, upstream: RecordingUpstream) -> None:
    caller = room.call()
    await caller.ask(GET)
    assert room.engine.metrics.upstream_idle == 1
    room.engine.drain.begin_closing()
    assert room.engine.metrics.upstream_idle == 0
    assert await (await upstream.connection(0)).wait_ended() in {"eof", "reset"}
    await caller.hang_up()


async def test_a_caller_that_left_while_it_was_held_back_is_noticed_by_the_sweep(room: Room, upstream: RecordingUpstream) -> None:
    async def unwilling(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        connection.transport.pause_reading()
        await connection._lost.wait()

    upstream.script = unwilling
    caller = room.call()
    await caller.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n")
    await upstream.connection(0)
    (downstream,) = room.engine.drain.connections

    async def full() -> bool:
        try:
            while True:
                caller.sock.send(bytes(65536))
        except BlockingIOError:
            return downstream.paused  # type: ignore[attr-defined, no-any-return]

    await eventually(full, what="an upload that is held back")
    caller.sock.close()
    room.engine.drain.detect_client_disconnects(0.0)
    await caller.served()
    assert room.outcomes() == {"client_closed": 1}
    for connection in upstream.connections:
        await connection.reset()
    await room.settled()
