"""A WebSocket in the drain: Close 1001 on both sides, masked towards the upstream only, and never inside a frame (G7)."""

import asyncio
import base64
import contextlib
import hashlib
import signal
import struct
from collections.abc import AsyncIterator
from pathlib import Path

from tests.corpus.rig import Caller, Rig
from tests.journeys.life import exchanges, metric, serving

from robin.testing.connection import ScriptedConnection
from robin.testing.message import ReceivedRequest
from robin.testing.waiting import eventually

KEY = base64.b64encode(bytes(16))
ACCEPT = base64.b64encode(hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
GOING_AWAY = struct.pack("!H", 1001)


def asking(protocol: bytes) -> bytes:
    key = b"Sec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Version: 13\r\n" if protocol == b"websocket" else b""
    return b"GET /chat HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: " + protocol + b"\r\n" + key + b"\r\n"


class Switched:
    """An upgraded exchange: its caller, and the upstream's end of it."""

    def __init__(self, rig: Rig, caller: Caller, origin: ScriptedConnection) -> None:
        self.rig = rig
        self.caller = caller.peer
        self.origin = origin

    def drain(self) -> None:
        self.rig.robin.send_signal(signal.SIGTERM)


@contextlib.asynccontextmanager
async def switched(folder: Path, protocol: bytes = b"websocket", **settings: str) -> AsyncIterator[Switched]:
    async with serving(folder, settings=settings) as rig:
        over = asyncio.Event()

        async def switch(connection: ScriptedConnection, _: ReceivedRequest) -> None:
            accept = b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n" if protocol == b"websocket" else b""
            head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol + b"\r\n"
            await connection.send(head + accept + b"\r\n")
            await over.wait()

        rig.reply = switch
        caller = await rig.caller()
        caller.send(asking(protocol))
        assert (await caller.peer.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        try:
            yield Switched(rig, caller, rig.seen[0][0])
        finally:
            over.set()


def frame(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """A short final frame (RFC 6455 section 5.2)."""
    masked = bytes(octet ^ mask[at % 4] for at, octet in enumerate(payload)) if mask else payload
    return bytes([0x80 | opcode, (0x80 if mask else 0) | len(payload)]) + mask + masked


async def read_close(peer: ScriptedConnection, *, masked: bool) -> bytes:
    """The payload of the Close frame that must come next."""
    first, second = await peer.read_exactly(2)
    assert (first, second) == (0x88, (0x80 if masked else 0) | 2)
    mask = await peer.read_exactly(4) if masked else bytes(4)
    return bytes(octet ^ mask[at % 4] for at, octet in enumerate(await peer.read_exactly(2)))


async def test_g7_both_sides_get_close_1001_masked_only_towards_the_upstream(tmp_path: Path):
    async with switched(tmp_path) as both:
        await both.origin.send(frame(1, b"hello"))
        assert await both.caller.read_exactly(7) == frame(1, b"hello")
        both.drain()
        assert await read_close(both.caller, masked=False) == GOING_AWAY
        assert await read_close(both.origin, masked=True) == GOING_AWAY
        assert both.rig.robin.returncode is None, "both sides may still say goodbye"
        await both.caller.send(frame(8, GOING_AWAY, b"abcd"))
        await both.origin.send(frame(8, GOING_AWAY))
        await both.caller.close()
        assert await both.rig.robin.returned() == 0
        (record,) = exchanges(both.rig)
        assert (record["outcome"], record["status"]) == ("forwarded", 101)


async def test_g7_the_close_waits_for_the_end_of_a_begun_frame(tmp_path: Path):
    down, up = frame(2, b"D" * 100), frame(2, b"U" * 100, b"mask")
    async with switched(tmp_path) as both:
        await both.origin.send(down[:50])
        await both.caller.send(up[:50])
        assert await both.caller.read_exactly(50) == down[:50]
        assert await both.origin.read_exactly(50) == up[:50]
        both.drain()
        await both.rig.robin.event("draining")
        await eventually(lambda: _closing(both), what="the drain to reach the tunnel")
        assert (both.caller.received_count, both.origin.received_count) == _counts(both, 50, 50), "not within a frame"
        await both.origin.send(down[50:] + frame(1, b"too late"))
        assert await both.caller.read_exactly(len(down) - 50) == down[50:]
        assert await read_close(both.caller, masked=False) == GOING_AWAY
        await both.caller.send(up[50:])
        assert await both.origin.read_exactly(len(up) - 50) == up[50:]
        assert await read_close(both.origin, masked=True) == GOING_AWAY
        await both.caller.close()
        assert await both.rig.robin.returned() == 0
        assert both.caller.received.endswith(b"\x88\x02" + GOING_AWAY), "nothing follows our Close"


async def _closing(both: Switched) -> bool:
    return await metric(both.rig.robin, "robin_drain_state") == 2


def _counts(both: Switched, down: int, up: int) -> tuple[int, int]:
    """What either side has in all when its tunnel brought so many bytes."""
    answer = both.caller.received.index(b"\r\n\r\n") + 4
    return answer + down, len(both.rig.seen[0][1].raw) + up


async def test_g7_other_protocols_are_told_nothing_and_cut_at_max_and_counted(tmp_path: Path):
    async with switched(tmp_path, b"echo", ROBIN_UPGRADE_PROTOCOLS="echo", ROBIN_DRAIN_MAX="700ms") as both:
        both.drain()
        await eventually(lambda: _closing(both), what="the drain to reach the tunnel")
        await both.origin.send(b"still")
        assert await both.caller.read_exactly(5) == b"still"
        assert await both.rig.robin.returned() == 4
        assert (await both.rig.robin.event("drained"))["cut"] == 1
        assert (both.caller.received_count, both.origin.received_count) == _counts(both, 5, 0)
        assert both.caller.ended in ("eof", "reset")
        (record,) = exchanges(both.rig)
        assert record["outcome"] == "drain_cut"


async def test_g7_a_websocket_that_does_not_say_goodbye_is_cut_at_max(tmp_path: Path):
    async with switched(tmp_path, ROBIN_DRAIN_MAX="500ms") as both:
        both.drain()
        assert await read_close(both.caller, masked=False) == GOING_AWAY
        assert await both.rig.robin.returned() == 4
        assert (await both.rig.robin.event("drained"))["cut"] == 1


async def test_g7_a_websocket_that_closed_already_is_not_closed_again(tmp_path: Path):
    async with switched(tmp_path) as both:
        await both.origin.send(frame(8, struct.pack("!H", 1000)))
        assert await read_close(both.caller, masked=False) == struct.pack("!H", 1000)
        both.drain()
        assert await read_close(both.origin, masked=True) == GOING_AWAY
        await both.caller.close()
        assert await both.rig.robin.returned() == 0
        assert both.caller.received.count(b"\x88\x02") == 1
