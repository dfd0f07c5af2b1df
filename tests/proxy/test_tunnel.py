"""A tunnel: opened only by a good 101, byte for byte both ways, ended by either side, and told when we drain."""

import asyncio

import pytest
from tests.proxy.rig import CallerEnd, Leaps, Room

from robin.model.faults import Fault
from robin.model.message import RequestHead, ResponseHead
from robin.proxy.tunnel import check_switch
from robin.testing.connection import PeerLeft, ScriptedConnection
from robin.testing.recording_upstream import RecordingUpstream, response
from robin.testing.waiting import eventually
from robin.wire.http1 import parse_request, parse_response
from robin.wire.websocket import accept_value, close_frame

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: %b\r\nSec-WebSocket-Key: " + KEY + b"\r\n\r\n"
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %b\r\nSec-WebSocket-Accept: " + accept_value(KEY) + b"\r\n\r\n"
)


def asked(protocol: bytes = b"websocket") -> RequestHead:
    return parse_request(ASK % protocol, target_bytes=100, fields_max=10)


def switched(octets: bytes) -> ResponseHead:
    return parse_response(octets, method="GET", fields_max=10)


def test_a_switch_to_what_was_asked_for_passes(room: Room) -> None:
    check_switch(asked(), b"websocket", switched(SWITCH % b"WebSocket"), room.engine.metrics)
    check_switch(asked(b"irc"), b"irc", switched(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: irc\r\n\r\n"), room.engine.metrics)
    assert room.engine.metrics.upgrades["failed"] == 0


@pytest.mark.parametrize(
    ("head", "octets"),
    [
        (parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", target_bytes=9, fields_max=9), SWITCH % b"websocket"),
        (asked(), SWITCH % b"irc"),
        (asked(), (SWITCH % b"websocket").replace(b"Connection: Upgrade\r\n", b"")),
        (asked(), b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
        (asked(), (SWITCH % b"websocket").replace(b"Accept: ", b"Accept: x")),
        (asked(), b"HTTP/1.1 101 X\r\n\r\n"),
    ],
)
def test_any_other_switch_is_refused_and_counted(room: Room, head: RequestHead, octets: bytes) -> None:
    with pytest.raises(Fault) as refused:
        check_switch(head, head.upgrade, switched(octets), room.engine.metrics)
    assert refused.value.code == "upgrade_failed"
    assert room.engine.metrics.upgrades["failed"] == 1


async def opened(
    room: Room, upstream: RecordingUpstream, protocol: bytes = b"websocket", *, behind: bytes = b""
) -> tuple[CallerEnd, ScriptedConnection]:
    """A tunnel, and both its ends."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.send(SWITCH % protocol + behind)
        await connection._lost.wait()

    upstream.script = script
    caller = room.call()
    await caller.send(ASK % protocol)
    seen = await caller.receive(until=b"\r\n\r\n" + behind)
    assert seen.startswith(b"HTTP/1.1 101 ")
    return caller, await upstream.connection(0)


def frame(payload: bytes, *, masked: bool) -> bytes:
    assert len(payload) < 126
    return bytes([0x82, len(payload) | (0x80 if masked else 0)]) + (bytes(4) if masked else b"") + payload


async def test_bytes_pass_both_ways_unchanged_with_those_right_behind_the_head(room: Room, upstream: RecordingUpstream) -> None:
    caller, origin = await opened(room, upstream, behind=b"\x81\x02hi")
    octets = bytes(range(256)) * 400
    await caller.send(octets)
    assert await origin.read_exactly(len(octets)) == octets
    await origin.send(octets)
    assert await caller.receive(octets=len(octets)) == octets
    assert room.engine.metrics.upgrades_active == 1
    await caller.hang_up()
    await room.settled()
    (record,) = await room.records()
    assert (record["status"], record["bytes_in"], record["bytes_out"]) == (101, len(octets), len(octets) + 4)
    assert room.engine.metrics.upgrades["switched"] == 1


async def test_the_end_of_the_caller_ends_the_origin_with_what_was_said_last(room: Room, upstream: RecordingUpstream) -> None:
    caller, origin = await opened(room, upstream)
    await caller.send(b"last words")
    caller.sock.close()
    assert await origin.read_exactly(10) == b"last words"
    assert await origin.wait_ended() in {"eof", "reset"}
    await caller.served()
    await room.settled()


async def test_the_last_bytes_of_the_caller_arrive_however_slow_the_origin_is(room: Room, upstream: RecordingUpstream) -> None:
    caller, origin = await opened(room, upstream, b"irc")
    (downstream,) = room.engine.drain.connections
    sent = 0
    while not (downstream.paused and downstream.peer.write_blocked):  # type: ignore[attr-defined]
        sent += caller.sock.send(bytes(65536))
        arrived = sent
        await eventually(lambda at=arrived: downstream.paused or downstream.bytes_received >= at, what="it")  # type: ignore[attr-defined,misc]
    sent += caller.sock.send(b"the end")
    caller.sock.close()
    downstream.detect_disconnect()  # as each sweep does
    assert len(await origin.read_exactly(sent)) == sent
    await caller.served()
    await room.settled()


@pytest.mark.parametrize("reset", [False, True])
async def test_the_end_of_the_origin_ends_the_caller(room: Room, upstream: RecordingUpstream, reset: bool) -> None:
    caller, origin = await opened(room, upstream)
    await (origin.reset() if reset else origin.close())
    assert await caller.receive() == b""
    await caller.hang_up()
    await room.settled()
    assert room.outcomes() == {"forwarded": 1}


async def test_a_drain_says_1001_to_both_sides_masked_only_upwards(room: Room, upstream: RecordingUpstream) -> None:
    caller, origin = await opened(room, upstream)
    room.engine.drain.begin_closing()
    room.engine.drain.close_tunnels()
    assert await caller.receive(octets=4) == close_frame(None)
    up = await origin.read_exactly(8)
    assert up == close_frame(up[2:6])
    await caller.hang_up()
    await room.settled()


async def test_in_the_middle_of_a_frame_the_farewell_waits_for_its_end_and_nothing_follows_it(
    room: Room, upstream: RecordingUpstream
) -> None:
    caller, origin = await opened(room, upstream)
    up, down = frame(b"from the caller", masked=True), frame(b"from the origin", masked=False)
    await caller.send(up[:9])
    await origin.send(down[:3])
    assert await origin.read_exactly(9) == up[:9]
    assert await caller.receive(octets=3) == down[:3]
    room.engine.drain.begin_closing()
    room.engine.drain.close_tunnels()
    await caller.send(up[9:] + up)
    await origin.send(down[3:] + down)
    assert await caller.receive(octets=len(down) - 3 + 4) == down[3:] + close_frame(None)
    rest = await origin.read_exactly(len(up) - 9 + 8)
    assert rest[: len(up) - 9] == up[9:]
    assert rest[len(up) - 9 :] == close_frame(rest[-6:-2])
    await caller.hang_up()
    await room.settled()


async def test_no_farewell_follows_a_close_of_theirs(room: Room, upstream: RecordingUpstream) -> None:
    caller, origin = await opened(room, upstream)
    await origin.send(b"\x88\x00")
    assert await caller.receive(octets=2) == b"\x88\x00"
    room.engine.drain.begin_closing()
    room.engine.drain.close_tunnels()
    await origin.read_exactly(8)
    await origin.close()
    assert await caller.receive() == b""
    await caller.hang_up()


async def test_another_protocol_is_told_nothing_and_goes_on(room: Room, upstream: RecordingUpstream) -> None:
    caller, origin = await opened(room, upstream, b"irc")
    room.engine.drain.begin_closing()
    room.engine.drain.close_tunnels()
    await caller.send(b"still here")
    assert await origin.read_exactly(10) == b"still here"
    await origin.send(b"so am I")
    assert await caller.receive(octets=7) == b"so am I"
    assert not room.engine.drain.drained.is_set()
    await caller.hang_up()
    assert room.engine.drain.drained.is_set()


async def test_a_tunnel_that_a_reload_ends_looks_whole_to_neither_side(room: Room, upstream: RecordingUpstream) -> None:
    caller, origin = await opened(room, upstream, b"irc")
    (both,) = room.engine.open_tunnels  # type: ignore[misc]
    both.withdraw(Fault("rule_denied", "policy_reload: a test"))
    assert await origin.wait_ended() == "reset"
    await caller.hang_up()
    await room.settled()


async def test_a_silent_tunnel_ends_at_its_deadline_on_both_sides(room: Room, upstream: RecordingUpstream) -> None:
    caller, origin = await opened(room, upstream)
    (downstream,) = room.engine.drain.connections
    assert downstream.deadline_at == pytest.approx(room.engine.now() + 3600, abs=5)  # type: ignore[attr-defined]
    upstream_end = downstream.peer or None  # type: ignore[attr-defined]
    assert upstream_end is not None
    assert upstream_end.deadline_at == downstream.deadline_at  # type: ignore[attr-defined]
    (both,) = room.engine.open_tunnels  # type: ignore[misc]
    for end in (upstream_end, downstream):
        end.expire()  # type: ignore[attr-defined]
    assert await caller.receive() == b""
    assert await origin.wait_ended() in {"eof", "reset"}
    assert both.record.notes["reason"] == "idle"
    await caller.hang_up()
    await room.settled()


@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_defect_in_one_direction_ends_both(room: Room, upstream: RecordingUpstream, way: str) -> None:
    caller, origin = await opened(room, upstream)
    (both,) = room.engine.open_tunnels  # type: ignore[misc]
    getattr(both, way)._tracker = None  # what the next bytes need
    await (caller.send(b"\x82\x80abcd") if way == "up" else origin.send(b"\x82\x00"))
    assert await origin.wait_ended() in {"eof", "reset"}
    await caller.hang_up()
    await room.settled()
    await eventually(lambda: [line["event"] for line in room.events()] == ["exchange_failed"], what="the event")
    assert room.outcomes() == {"upstream_aborted": 1}


async def test_a_caller_that_takes_nothing_keeps_no_connection_that_has_ended(room: Room, upstream: RecordingUpstream) -> None:
    caller, origin = await opened(room, upstream, b"irc")
    (downstream,) = room.engine.drain.connections
    sending = asyncio.get_running_loop().create_task(origin.send(*[bytes(1 << 20)] * 8))
    await eventually(lambda: downstream.write_blocked, what="back-pressure")  # type: ignore[attr-defined]
    downstream.expire()  # type: ignore[attr-defined] - it was silent for too long
    await caller.served()
    await eventually(lambda: downstream.closed, what="the end")  # type: ignore[attr-defined]
    await asyncio.wait([sending])
    assert isinstance(sending.exception(), PeerLeft)
    await room.settled()


async def test_a_side_that_does_not_read_holds_the_other_back(room: Room, upstream: RecordingUpstream) -> None:
    caller, origin = await opened(room, upstream, b"irc")
    sending = asyncio.get_running_loop().create_task(origin.send(*[bytes(1 << 20)] * 8))
    (downstream,) = room.engine.drain.connections
    await eventually(lambda: downstream.write_blocked and downstream.peer.paused, what="back-pressure")  # type: ignore[attr-defined]
    assert not sending.done()
    assert len(await caller.receive(octets=8 << 20)) == 8 << 20
    await sending
    await caller.hang_up()
    await room.settled()


async def test_a_flood_of_empty_frames_leaves_turns_to_others(room: Room, upstream: RecordingUpstream) -> None:
    caller, origin = await opened(room, upstream)
    flood = frame(b"", masked=True) * 100_000
    with Leaps(lambda: room.engine.metrics.body_bytes_in) as leaps:
        await caller.send(flood)
        assert await origin.read_exactly(len(flood)) == flood
    assert 0 < leaps.largest <= 32768
    await caller.hang_up()
    await room.settled()


async def test_a_refused_upgrade_is_a_plain_answer(room: Room, upstream: RecordingUpstream) -> None:
    async def plain(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_until(b"\r\n\r\n")
            await connection.send(response(426, b"no", reason="Upgrade Required"))

    upstream.script = plain
    caller = room.call()
    assert (await caller.ask(ASK % b"websocket")).endswith(b"\r\n\r\nno")
    assert (await caller.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")).endswith(b"\r\n\r\nno")
    assert room.engine.metrics.upgrades["refused"] == 1
    await caller.hang_up()
    await room.settled()
