"""ScriptedConnection: exact bytes, back-pressure, and an end that says how it came."""

import asyncio
import socket
import struct

import pytest

from robin.testing.connection import PeerLeft, ScriptedConnection
from robin.testing.recording_upstream import RecordingUpstream, hold
from robin.testing.waiting import eventually


async def test_every_byte_is_recorded_in_order_and_read_piece_by_piece():
    read: list[bytes] = []

    async def script(connection: ScriptedConnection) -> None:
        read.append(await connection.read_until(b"\n"))
        read.append(await connection.read_exactly(3))
        read.append(await connection.read_some())
        read.append(await connection.read_some())

    async with RecordingUpstream(script) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(b"one\ntwothree")
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    assert read == [b"one\n", b"two", b"three", b""]
    assert upstream.connections[0].received == b"one\ntwothree"
    assert upstream.connections[0].received_count == 12


async def test_a_fin_and_a_reset_are_told_apart():
    async with RecordingUpstream(hold) as upstream:
        first = socket.create_connection(("127.0.0.1", upstream.port))
        first.close()
        assert await (await upstream.connection(0)).wait_ended() == "eof"
        second = socket.create_connection(("127.0.0.1", upstream.port))
        connection = await upstream.connection(1)
        second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        second.close()
        assert await connection.wait_ended() == "reset"


async def test_reset_reaches_the_peer_as_a_reset():
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_some()
        await connection.reset()

    async with RecordingUpstream(script) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(b"hello")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_a_half_closed_connection_still_reads():
    heard: list[bytes] = []

    async def script(connection: ScriptedConnection) -> None:
        await connection.send(b"bye")
        connection.half_close()
        heard.append(await connection.read_until(b"!"))

    async with RecordingUpstream(script) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        assert await reader.read() == b"bye"
        writer.write(b"still here!")
        await eventually(lambda: heard == [b"still here!"])
        writer.close()
        await writer.wait_closed()


async def test_a_script_that_does_not_read_pushes_back():
    go = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await go.wait()
        await connection.wait_ended()

    async with RecordingUpstream(script, window_bytes=64 << 10) as upstream:
        _, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        size = 32 << 20
        writer.write(b"x" * size)
        connection = await upstream.connection()
        await eventually(lambda: connection.received_count > 64 << 10)
        before = connection.received_count
        assert before < size // 4
        go.set()
        await eventually(lambda: connection.received_count == size)
        writer.close()
        await writer.wait_closed()


async def test_what_is_kept_has_a_limit_but_every_byte_is_counted():
    async with RecordingUpstream(hold, keep_bytes=10) as upstream:
        _, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(b"0123456789abcdef")
        writer.close()
        await writer.wait_closed()
        connection = await upstream.connection()
        await eventually(lambda: connection.ended)
        assert (bytes(connection.received), connection.received_count) == (b"0123456789", 16)


async def test_waiting_too_long_says_for_what_and_what_had_come():
    async def script(connection: ScriptedConnection) -> None:
        with pytest.raises(TimeoutError, match=r"for b'\\r\\n'; unread: b'half'"):
            await connection.read_until(b"\r\n")

    async with RecordingUpstream(script, patience_s=0.2) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(b"half")
        assert await reader.read() == b""
        writer.close()


async def test_sending_to_a_peer_that_left_raises():
    outcome: list[str] = []

    async def script(connection: ScriptedConnection) -> None:
        await connection.wait_ended()
        try:
            while True:
                await connection.send(b"x" * 65536)
        except PeerLeft as left:
            outcome.append(str(left))

    async with RecordingUpstream(script) as upstream:
        with socket.create_connection(("127.0.0.1", upstream.port)) as client:
            connection = await upstream.connection()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await eventually(lambda: outcome)
    assert outcome == ["connection 0 is gone (reset)"]
    assert connection.ended == "reset"
