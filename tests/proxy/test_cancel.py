"""Cut at every turn of the loop: an exchange that is cancelled leaves no task, no connection in use, no place taken, and one record.

Engine rule 7. Each scenario runs once per number of turns until the exchange is over before the cut comes.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.proxy.rig import CallerEnd, Room, open_room

from robin.model.limits import Limits
from robin.testing.connection import ScriptedConnection
from robin.testing.recording_upstream import RecordingUpstream, response
from robin.testing.waiting import eventually
from robin.wire.websocket import accept_value

TURNS_MAX = 400
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: " + KEY + b"\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)


async def answer_each(connection: ScriptedConnection) -> None:
    """What the scenarios ask of the origin, by path."""
    while True:
        head = await connection.read_until(b"\r\n\r\n")
        path = head.split(b" ")[1]
        if path == b"/upload":
            await connection.read_until(b"0\r\n\r\n")
        elif path == b"/length":
            await connection.read_exactly(100)
        if path == b"/stream":
            await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n", b"3\r\ndef\r\n", b"0\r\n\r\n")
        elif path == b"/hints":
            await connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", response(200, b"ok"))
        elif path == b"/ws":
            accept = accept_value(KEY)
            await connection.send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
                + accept
                + b"\r\n\r\n"
            )
            while octets := await connection.read_some():
                await connection.send(octets)
            return
        else:
            await connection.send(response(200, b"ok"))


async def get(caller: CallerEnd) -> None:
    await caller.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


async def head_in_pieces(caller: CallerEnd) -> None:
    for piece in (b"GET /hints", b" HTTP/1.1\r\nHost: local", b"host\r\nConnection: close\r\n\r\n"):
        await caller.send(piece)
        await asyncio.sleep(0)
    await caller.receive()


async def upload(caller: CallerEnd) -> None:
    await caller.send(b"POST /upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
    for piece in (b"3\r\nab", b"c\r\n", b"2\r\nde\r\n0\r\n", b"\r\n"):
        await caller.send(piece)
        await asyncio.sleep(0)
    await caller.receive()


async def expecting_upload(caller: CallerEnd) -> None:
    head = b"POST /length HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    await caller.send(head + b"x" * 60)
    await caller.send(b"x" * 40)
    await caller.receive(until=b"\r\n\r\nok")


async def download(caller: CallerEnd) -> None:
    await caller.send(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await caller.receive(until=b"0\r\n\r\n")


async def refused(caller: CallerEnd) -> None:
    await caller.send(b"POST / HTTP/1.1\r\nHost: elsewhere\r\nContent-Length: 5\r\n\r\nab")
    await caller.receive(until=b"}")
    await caller.send(b"cde" + b"\x00\r\n\r\n")
    await caller.receive()


async def switched(caller: CallerEnd) -> None:
    await caller.send(UPGRADE)
    await caller.receive(until=b"\r\n\r\n")
    ping = b"\x89\x84" + struct.pack("!I", 0) + b"ping"
    await caller.send(ping[:3])
    await caller.send(ping[3:])
    await caller.receive(octets=len(ping))


Scenario = Callable[[CallerEnd], Awaitable[None]]
SCENARIOS: list[Scenario] = [get, head_in_pieces, upload, download, refused, switched]


async def run(scenario: Scenario, caller: CallerEnd) -> None:
    """The caller's part; the cut ends it."""
    try:
        await scenario(caller)
    except (ConnectionError, AssertionError):
        assert caller.task is not None
        assert caller.task.done()


async def cut_after(room: Room, scenario: Scenario, turns: int, *, everything: bool = False) -> bool:
    """Cut the connection after so many turns; False when its part was played before that."""
    caller = room.call()
    playing = asyncio.get_running_loop().create_task(run(scenario, caller))
    for _ in range(turns):
        await asyncio.sleep(0)
    over = playing.done()
    expected = room.recorded + room.engine.metrics.in_flight
    if everything:
        await room.engine.tasks.close()
    else:
        caller.task.cancel()
        await asyncio.wait([caller.task])
    await room.settled()
    assert room.recorded == expected
    caller.sock.setblocking(False)
    await asyncio.wait([playing], timeout=10)
    assert playing.done(), "the caller did not hear that it was cut"
    playing.result()
    caller.sock.close()
    return not over


async def cut_everywhere(room: Room, scenario: Scenario, *, everything: bool) -> int:
    """Cut at turn 1, 2, 3 ... until the scenario is over first. How many cuts were made."""
    for turns in range(1, TURNS_MAX):
        if not await cut_after(room, scenario, turns, everything=everything):
            return turns - 1
    raise AssertionError(f"{scenario.__name__} does not end within {TURNS_MAX} turns")


@pytest.mark.parametrize("everything", [False, True], ids=["the connection", "every task"])
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_an_exchange_cut_at_any_turn_leaves_nothing(
    room: Room, upstream: RecordingUpstream, scenario: Scenario, everything: bool
) -> None:
    upstream.script = answer_each
    cuts = await cut_everywhere(room, scenario, everything=everything)
    assert cuts >= 5
    if scenario is refused:  # a refusal that was said stays what it was
        assert room.outcomes().keys() == {"host_not_allowed", "bad_request"}
    else:
        assert room.outcomes()["drain_cut"] >= 3
        assert room.outcomes().keys() <= {"drain_cut", "forwarded"}
    assert len(await room.records()) == room.recorded
    await eventually(
        lambda: sum(1 for one in upstream.connections if one.ended is None) == room.bucket.count, what="cut connections to end"
    )


async def upload_to_nowhere(caller: CallerEnd) -> None:
    await caller.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await caller.receive()


async def test_an_exchange_cut_while_its_upload_is_stopped_gives_its_connection_back(room: Room, upstream: RecordingUpstream) -> None:
    async def leave(connection: ScriptedConnection) -> None:
        await connection.read_until(b"abc\r\n")

    upstream.script = leave
    assert await cut_everywhere(room, upload_to_nowhere, everything=False) >= 5


async def test_after_every_cut_the_pool_still_serves(upstream: RecordingUpstream, tmp_path: Path) -> None:
    upstream.script = answer_each
    async with open_room(upstream.port, tmp_path, limits=Limits(upstream_connections=1)) as room:
        for scenario in (get, upload, download, switched):
            for turns in range(1, 40):
                await cut_after(room, scenario, turns)
                caller = room.call()
                assert (await caller.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")).endswith(b"\r\n\r\nok")
                await caller.hang_up()
                await room.settled()


async def test_a_wait_for_the_pool_cut_at_any_turn_leaves_the_line_in_order(upstream: RecordingUpstream, tmp_path: Path) -> None:
    upstream.script = answer_each
    async with open_room(upstream.port, tmp_path, limits=Limits(upstream_connections=1)) as room:
        for turns in range(1, 60):
            busy = await room.engine.pool.acquire(room.permit)
            first, second = room.call(), room.call()
            for caller in (first, second):
                await caller.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            await eventually(lambda: len(room.bucket.waiters) == 2, what="two in the line", every_s=0)
            busy.reusable = turns % 2 == 0  # handed over, or a place to dial in
            expected = room.recorded + 2
            room.engine.pool.release(busy, None)
            for _ in range(turns // 2):
                await asyncio.sleep(0)
            first.task.cancel()
            assert (await second.receive()).endswith(b"\r\n\r\nok")
            await first.hang_up()
            await second.hang_up()
            await room.settled()
            assert room.recorded == expected


async def test_a_wait_for_the_pool_cut_before_its_turn_gives_up_its_place(upstream: RecordingUpstream, tmp_path: Path) -> None:
    async with open_room(upstream.port, tmp_path, limits=Limits(upstream_connections=1)) as room:
        busy = await room.engine.pool.acquire(room.permit)
        caller = room.call()
        await caller.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await eventually(lambda: room.bucket.waiters, what="one in the line", every_s=0)
        caller.task.cancel()
        await asyncio.wait([caller.task])
        assert not room.bucket.waiters
        busy.reusable = True
        room.engine.pool.release(busy, None)
        await room.settled()
        assert len(room.bucket.idle) == 1
        caller.sock.close()


async def test_a_wait_for_a_credential_cut_at_any_turn_leaves_nothing(room: Room, upstream: RecordingUpstream) -> None:
    for turns in range(1, 40):
        room.tokens.token = None
        before = room.recorded
        caller = room.call()
        await caller.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await eventually(lambda: room.tokens.waiting, what="a wait for the credential", every_s=0)
        if turns > 1:
            await room.tokens.give(b"t0ken")
        for _ in range(turns - 1):
            await asyncio.sleep(0)
        caller.task.cancel()
        await asyncio.wait([caller.task])
        await room.settled()
        assert room.tokens.waiting == 0
        assert room.recorded == before + 1
        caller.sock.close()
    assert room.outcomes()["drain_cut"] >= 3
    assert room.outcomes()["forwarded"] >= 1


async def test_an_upload_that_is_held_back_is_cut_clean(room: Room, upstream: RecordingUpstream) -> None:
    upstream.script = answer_each
    for turns in range(1, 30):  # silence withholds the body for a second: the cut always comes first
        assert await cut_after(room, expecting_upload, turns)
    assert all(b"xxx" not in connection.received for connection in upstream.connections)


async def test_a_stalled_direction_is_cut_clean(room: Room, upstream: RecordingUpstream) -> None:
    async def flood(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n", *[bytes(100000)] * 1000)

    async def swallow(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        connection.transport.pause_reading()
        await connection._lost.wait()

    for script, request in (
        (flood, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        (swallow, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n"),
    ):
        upstream.script = script
        caller = room.call()
        await caller.send(request)
        sending = asyncio.get_running_loop().create_task(caller.send(bytes(99_000_000))) if script is swallow else None
        moved, seen = 1, 0
        while moved:  # until nothing moves any more: both sides are full
            await asyncio.sleep(0.05)  # that nothing moves any more shows only over a while
            now = room.engine.metrics.body_bytes_in + room.engine.metrics.body_bytes_out
            moved, seen = now - seen, now
        assert seen > 100000
        caller.task.cancel()
        await asyncio.wait([caller.task])
        await room.settled()
        if sending is not None:
            sending.cancel()
            await asyncio.wait([sending])
        caller.sock.close()
        for connection in upstream.connections:
            if connection.ended is None:
                await connection.reset()
    assert room.outcomes() == {"drain_cut": 2}
