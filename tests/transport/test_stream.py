"""One connection as bytes: what is buffered, which waits end, how back-pressure and the end are noticed. Real sockets on both ends."""

import asyncio
import contextlib
import math
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from robin.testing.waiting import eventually
from robin.transport.deadlines import Sweeper
from robin.transport.stream import Stream, StreamClosed

Pair = tuple[Stream, socket.socket]
LARGE = 16 << 20  # more than Linux buffers for a TCP connection, on both of its sides


@pytest.fixture
async def sweeper() -> AsyncIterator[Sweeper]:
    made = Sweeper(asyncio.get_running_loop())
    made.start()
    yield made
    made.close()


@pytest.fixture(params=["tcp", "unix"])
async def connect(request: pytest.FixtureRequest, sweeper: Sweeper) -> AsyncIterator[Callable[[], Awaitable[Pair]]]:
    """Makes a Stream and the plain socket at its other end (non-blocking)."""
    loop = asyncio.get_running_loop()
    made: list[Pair] = []

    async def call() -> Pair:
        if request.param == "unix":
            ours, theirs = socket.socketpair(socket.AF_UNIX)
        else:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                ours = socket.create_connection(listener.getsockname())
                theirs, _ = listener.accept()
        for sock in (ours, theirs):
            sock.setblocking(False)
        stream = Stream(loop, sweeper)
        await loop.connect_accepted_socket(lambda: stream, ours)
        made.append((stream, theirs))
        return stream, theirs

    yield call
    for stream, theirs in made:
        stream.abort()
        theirs.close()
    await eventually(lambda: all(stream.closed for stream, _ in made), what="the end of every stream")


Connect = Callable[[], Awaitable[Pair]]


async def test_take_consumes_exactly_what_was_asked_for(connect: Connect):
    stream, theirs = await connect()
    theirs.send(b"hello")
    assert await stream.fill()
    theirs.send(b" world")
    await eventually(lambda: len(stream.received) == 11, what="both pieces")
    assert stream.take(4) == b"hell"
    assert stream.take(7) == b"o world"
    assert stream.received == b""


async def test_take_returns_bytes_whatever_the_buffer_is(connect: Connect):
    stream, theirs = await connect()
    for octets in (b"a", b"b", b"c"):
        theirs.send(octets)
        await stream.fill()
    assert (type(stream.take(2)), type(stream.take(1))) == (bytes, bytes)


async def test_reading_pauses_at_a_full_buffer_and_resumes_with_the_next_wait(connect: Connect):
    stream, theirs = await connect()
    sent = await _send_until_full(theirs)
    buffered = len(stream.received)
    assert stream.paused
    assert 4096 <= buffered <= 4096 + 256 * 1024, "at most one read of the loop above the limit"
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(stream.received) == buffered
    total = 0
    while total < sent:
        total += len(stream.take(len(stream.received)))
        if total < sent:
            assert await stream.fill()
    assert total == sent


async def _send_until_full(sock: socket.socket) -> int:
    """Send until the kernel takes no more. Returns the number of bytes."""
    sent = 0
    while True:
        try:
            sent += sock.send(bytes(65536))
        except BlockingIOError:
            return sent
        await asyncio.sleep(0)


async def test_a_fin_ends_reading_only(connect: Connect):
    stream, theirs = await connect()
    theirs.send(b"last")
    theirs.shutdown(socket.SHUT_WR)
    while not stream.eof:
        await stream.fill()
    assert stream.received == b"last"
    assert not await stream.fill()
    assert (stream.closed, stream.was_reset) == (False, False)
    stream.write(b"response")
    await eventually(lambda: _received(theirs) == b"response", what="our response")


def _received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except BlockingIOError:
        return b""


async def test_a_connection_that_is_closing_cannot_be_half_closed(connect: Connect):
    stream, _ = await connect()
    stream.abort()  # uvloop raises RuntimeError from then on, before the stream has learnt of the end
    with pytest.raises(OSError):
        stream.finish()


async def test_the_end_wakes_a_waiting_reader(connect: Connect):
    stream, theirs = await connect()
    waiting = asyncio.ensure_future(stream.fill())
    await asyncio.sleep(0)
    theirs.close()
    assert await waiting is False
    assert stream.eof


async def test_flush_waits_while_the_peer_does_not_read(connect: Connect):
    stream, theirs = await connect()
    stream.write(bytes(LARGE))
    assert stream.write_blocked
    draining = asyncio.ensure_future(stream.flush())
    for _ in range(10):  # the buffers of the kernel are full: more turns of the loop change nothing
        await asyncio.sleep(0)
    assert not draining.done()
    got = 0
    while not draining.done():
        got += len(_received(theirs))
        await asyncio.sleep(0)
    await draining
    assert not stream.write_blocked
    while got < LARGE:
        got += len(_received(theirs))
        await asyncio.sleep(0)
    assert got == LARGE


async def test_flush_raises_stream_closed_once_the_peer_has_disconnected(connect: Connect):
    stream, theirs = await connect()
    stream.write(bytes(LARGE))
    draining = asyncio.ensure_future(stream.flush())
    await asyncio.sleep(0)
    theirs.close()
    with pytest.raises(StreamClosed):
        await draining
    assert stream.closed
    stream.write(b"dropped")
    with pytest.raises(StreamClosed):
        await stream.flush()


async def test_a_deadline_ends_the_waits_of_reader_and_writer(connect: Connect):
    loop = asyncio.get_running_loop()
    stream, _ = await connect()
    stream.deadline_at = loop.time() + 0.05
    with pytest.raises(TimeoutError):
        await stream.fill()
    stream.write(bytes(LARGE))
    stream.deadline_at = loop.time() + 0.05
    with pytest.raises(TimeoutError):
        await stream.flush()
    assert not stream.closed, "that is for the owner of the deadline to decide"


async def test_a_deadline_that_passed_between_two_waits_ends_the_next_one(connect: Connect, sweeper: Sweeper):
    stream, _ = await connect()
    stream.deadline_at = 0.0
    sweeper.sweep()
    with pytest.raises(TimeoutError):
        await stream.fill()
    assert stream.deadline_at == math.inf


async def test_the_end_of_the_peer_stream_wakes_reader_and_writer(connect: Connect):
    stream, _ = await connect()
    partner, theirs = await connect()
    partner.peer = stream
    stream.write(bytes(LARGE))
    waiting = [asyncio.ensure_future(stream.fill()), asyncio.ensure_future(stream.flush())]
    await asyncio.sleep(0)
    theirs.close()
    assert await waiting[0] is True
    assert await waiting[1] is None
    assert (stream.eof, stream.write_blocked, partner.eof) == (False, True, True)


async def test_close_flushes_and_abort_does_not(connect: Connect):
    stream, theirs = await connect()
    stream.write(bytes(LARGE))
    stream.close()
    assert await _read_all(theirs) == LARGE
    stream, theirs = await connect()
    stream.write(bytes(LARGE))
    stream.abort()
    assert await _read_all(theirs) < LARGE


async def _read_all(sock: socket.socket) -> int:
    """Bytes up to the end, a reset included."""
    loop, got = asyncio.get_running_loop(), 0
    async with asyncio.timeout(10):
        try:
            while piece := await loop.sock_recv(sock, 1 << 20):
                got += len(piece)
        except ConnectionResetError:
            pass
    return got


async def test_a_closed_stream_whose_peer_does_not_read_is_aborted_at_its_deadline(connect: Connect):
    stream, theirs = await connect()
    stream.write(bytes(LARGE))
    stream.close()
    assert stream.write_blocked
    assert not stream.closed, "the peer may still read the rest"
    assert 0 < stream.deadline_at - asyncio.get_running_loop().time() <= 10
    stream.deadline_at = 0.0  # the sweep finds it overdue
    await eventually(lambda: stream.closed, what="the end of the stream")
    theirs.setblocking(True)
    taken = 0
    with contextlib.suppress(ConnectionResetError):
        while octets := theirs.recv(1 << 20):
            taken += len(octets)
    assert taken < LARGE


async def _over_tcp(sweeper: Sweeper) -> tuple[Stream, socket.socket]:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    stream = Stream(loop, sweeper)
    await loop.connect_accepted_socket(lambda: stream, ours)
    return stream, theirs


async def test_what_a_closed_stream_could_not_flush_in_time_does_not_look_whole(sweeper: Sweeper):
    stream, theirs = await _over_tcp(sweeper)
    stream.write(bytes(LARGE))
    stream.close()
    stream.expire()  # as the sweep does
    await eventually(lambda: stream.closed, what="the end of the stream")
    theirs.settimeout(5)
    with theirs, pytest.raises(ConnectionResetError):
        all(theirs.recv(1 << 20) for _ in range(LARGE))


async def test_the_peer_sees_a_reset_over_tcp(sweeper: Sweeper):
    stream, theirs = await _over_tcp(sweeper)
    stream.write(b"half")
    await asyncio.sleep(0)
    stream.reset()
    await eventually(lambda: stream.closed, what="the end of the stream")
    theirs.settimeout(5)
    with theirs:
        try:
            assert theirs.recv(4) == b"half"
            with pytest.raises(ConnectionResetError):
                theirs.recv(1)
        except ConnectionResetError:
            pass  # the kernel may drop unread bytes with the reset


async def test_a_closed_stream_is_no_longer_swept(connect: Connect, sweeper: Sweeper):
    stream, theirs = await connect()
    assert len(sweeper) == 1
    theirs.close()
    while await stream.fill():
        pass
    stream.close()
    await eventually(lambda: len(sweeper) == 0, what="its removal from the sweeper")


async def test_a_cancelled_wait_leaves_the_stream_usable(connect: Connect):
    stream, theirs = await connect()
    for _ in range(3):
        waiting = asyncio.ensure_future(stream.fill())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    theirs.send(b"x")
    assert await stream.fill()
    assert stream.take(1) == b"x"


async def test_a_pooled_stream_is_aborted_on_data_eof_or_expiry(connect: Connect):
    for event in ("data", "eof", "expiry"):
        stream, theirs = await connect()
        stream.pooled = True
        if event == "data":
            theirs.send(b"x")
        elif event == "eof":
            theirs.shutdown(socket.SHUT_WR)
        else:
            stream.deadline_at = asyncio.get_running_loop().time()
        await eventually(lambda stream=stream: stream.closed, what=f"the abort after {event}")
        assert stream.received == b""


@pytest.mark.parametrize("tunnel", [False, True])
@pytest.mark.parametrize("end", ["fin", "reset"])
async def test_a_disconnect_is_detected_while_paused_but_not_a_half_close_in_a_tunnel(
    connect: Connect, sweeper: Sweeper, tunnel: bool, end: str
):
    stream, theirs = await connect()
    other = Stream(asyncio.get_running_loop(), sweeper)
    stream.peer, other.peer = other, stream if tunnel else None
    stream.pause_reading()
    theirs.send(b"last bytes")
    if end == "fin":
        theirs.shutdown(socket.SHUT_WR)
    else:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
    stream.detect_disconnect()
    resets = end == "reset" and theirs.family != socket.AF_UNIX  # a Unix socket has none: what was sent can still be read
    assert stream.was_reset is resets
    assert stream.eof is (resets or not tunnel)
    if not stream.eof:
        assert await stream.fill()
        assert stream.received == b"last bytes"
