"""The engine: who is connected, and what a drain tells them."""

from tests.proxy.rig import Room

from robin.testing.connection import ScriptedConnection
from robin.testing.recording_upstream import RecordingUpstream, response
from robin.testing.waiting import eventually

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Visitor:
    """A connection that only counts what it was told."""

    def __init__(self) -> None:
        self.retired = self.looked = 0

    def begin_drain(self) -> None:
        self.retired += 1

    def detect_disconnect(self) -> None:
        self.looked += 1


async def test_an_empty_house_is_emptied_as_soon_as_it_retires(room: Room) -> None:
    assert not room.engine.drained.is_set()
    room.engine.begin_drain()
    assert room.engine.closing
    assert room.engine.drained.is_set()


async def test_a_house_is_emptied_by_the_last_who_leaves_after_it_retired(room: Room) -> None:
    engine, first, second = room.engine, Visitor(), Visitor()
    engine.connections |= {first, second}
    engine.unregister(first)
    assert not engine.drained.is_set()
    engine.begin_drain()
    assert (first.retired, second.retired) == (0, 1)
    assert not engine.drained.is_set()
    engine.unregister(second)
    assert engine.drained.is_set()


async def test_a_tunnel_hears_of_the_drain_too(room: Room) -> None:
    tunnel = Visitor()
    room.engine.tunnels.add(tunnel)
    room.engine.begin_drain()
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
    room.engine.begin_drain()
    assert await idle.receive() == b""
    assert room.engine.metrics.in_flight == 1
    assert not room.engine.drained.is_set()
    await idle.hang_up()
    await busy.hang_up()
    assert room.engine.drained.is_set()
    await room.settled()


async def test_idle_upstream_connections_end_with_the_drain(room: Room, upstream: RecordingUpstream) -> None:
    caller = room.call()
    await caller.ask(GET)
    assert room.engine.metrics.upstream_idle == 1
    room.engine.begin_drain()
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
    (downstream,) = room.engine.connections

    async def full() -> bool:
        try:
            while True:
                caller.sock.send(bytes(65536))
        except BlockingIOError:
            return downstream.paused  # type: ignore[attr-defined, no-any-return]

    await eventually(full, what="an upload that is held back")
    caller.sock.close()
    room.engine.detect_client_disconnects(0.0)
    await caller.served()
    assert room.outcomes() == {"client_closed": 1}
    for connection in upstream.connections:
        await connection.reset()
    await room.settled()
