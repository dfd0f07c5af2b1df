"""The house: who is connected, and what a drain tells them."""

from tests.proxy.room import Room

from robin.testing.connection import ScriptedConnection
from robin.testing.recording_upstream import RecordingUpstream, response
from robin.testing.waiting import eventually

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Visitor:
    """A connection that only counts what it was told."""

    def __init__(self) -> None:
        self.retired = self.looked = 0

    def retire(self) -> None:
        self.retired += 1

    def notice_leaving(self) -> None:
        self.looked += 1


async def test_an_empty_house_is_emptied_as_soon_as_it_retires(room: Room) -> None:
    assert not room.house.emptied.is_set()
    room.house.retire()
    assert room.house.closing
    assert room.house.emptied.is_set()


async def test_a_house_is_emptied_by_the_last_who_leaves_after_it_retired(room: Room) -> None:
    house, first, second = room.house, Visitor(), Visitor()
    house.connections |= {first, second}
    house.leave(first)
    assert not house.emptied.is_set()
    house.retire()
    assert (first.retired, second.retired) == (0, 1)
    assert not house.emptied.is_set()
    house.leave(second)
    assert house.emptied.is_set()


async def test_a_tunnel_hears_of_the_drain_too(room: Room) -> None:
    tunnel = Visitor()
    room.house.tunnels.add(tunnel)
    room.house.retire()
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
    room.house.retire()
    assert await idle.receive() == b""
    assert room.house.metrics.in_flight == 1
    assert not room.house.emptied.is_set()
    await idle.hang_up()
    await busy.hang_up()
    assert room.house.emptied.is_set()
    await room.settled()


async def test_idle_upstream_connections_end_with_the_drain(room: Room, upstream: RecordingUpstream) -> None:
    caller = room.call()
    await caller.ask(GET)
    assert room.house.metrics.upstream_idle == 1
    room.house.retire()
    assert room.house.metrics.upstream_idle == 0
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
    (downstream,) = room.house.connections

    async def full() -> bool:
        try:
            while True:
                caller.sock.send(bytes(65536))
        except BlockingIOError:
            return downstream.paused  # type: ignore[attr-defined, no-any-return]

    await eventually(full, what="an upload that is held back")
    caller.sock.close()
    room.house.notice_leavers(0.0)
    await caller.served()
    assert room.outcomes() == {"client_closed": 1}
    for connection in upstream.connections:
        await connection.reset()
    await room.settled()
