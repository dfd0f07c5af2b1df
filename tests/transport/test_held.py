"""How much one direction holds, byte for byte, while the other side takes nothing (E5): plain and TLS, read and written."""

import asyncio
import contextlib
import fcntl
import functools
import socket
import ssl
import struct
import termios
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.transport.test_dial import stream

from robin.testing.certificates import CertificateAuthority
from robin.testing.waiting import eventually
from robin.transport.stream import Stream
from robin.transport.tls_stream import connect_tls, start_tls

HELD_BYTES = 256 << 10
PIECE = bytes(64 << 10)

Peer = socket.socket | ssl.SSLSocket
Connect = Callable[[], Awaitable[tuple[Stream, Peer]]]


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.socket()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)  # so that the kernel has a whole read of the loop ready
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    return ours, theirs


@pytest.fixture(params=["plain", "tls", "tls server"])
async def connect(request: pytest.FixtureRequest, certificates: CertificateAuthority) -> AsyncIterator[Connect]:
    """Makes a stream and the blocking socket at its other end."""
    loop = asyncio.get_running_loop()
    server = certificates.issue("broker.test").server_context()
    client = ssl.create_default_context(cafile=str(certificates.ca_file))
    with contextlib.ExitStack() as stack:

        async def call() -> tuple[Stream, Peer]:
            ours, theirs = connected()
            if request.param == "plain":
                plain = stream()
                await loop.connect_accepted_socket(lambda: plain, ours)
                stack.callback(plain.abort)
                return plain, stack.enter_context(theirs)
            if request.param == "tls":
                shaking = asyncio.ensure_future(asyncio.to_thread(server.wrap_socket, theirs, server_side=True))
                secured = await (await connect_tls(loop, ours, stream, client, "broker.test"))
            else:
                shaking = asyncio.ensure_future(asyncio.to_thread(client.wrap_socket, theirs, server_hostname="broker.test"))
                below = stream()
                await loop.connect_accepted_socket(lambda: below, ours)
                secured = await start_tls(loop, below, stream, server)
            stack.callback(secured.abort)
            return secured, stack.enter_context(await shaking)

        yield call


def in_kernel(stream: Stream, peer: Peer) -> int:
    """What our side has written and the peer has not read."""

    def ask(sock: socket.socket, what: int) -> int:
        count: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), what, bytes(4)))[0]
        return count

    return ask(stream.transport.get_extra_info("socket"), termios.TIOCOUTQ) + ask(peer, termios.FIONREAD)


def has_heard(reader: Stream, sent: int) -> bool:
    return reader.paused or reader.bytes_received == sent


async def test_a_stream_that_nobody_reads_takes_256_kib_at_most(connect: Connect):
    reader, peer = await connect()
    sent = 0
    for first in (1000, 3095, 60_000):  # whatever came before must leave room for the largest read there is
        peer.sendall(bytes(first))
        sent += first
        await eventually(functools.partial(has_heard, reader, sent), what="what came to be read")
    peer.setblocking(False)
    before = -1
    while before != sent:
        before = sent
        with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError):
            while True:
                sent += peer.send(PIECE)
        for _ in range(20):
            await asyncio.sleep(0)
    assert reader.paused
    assert len(reader.received) <= HELD_BYTES
    assert sent > 2 * HELD_BYTES, "the peer had more to say"


async def test_a_stream_whose_peer_takes_nothing_says_so_before_it_holds_256_kib(connect: Connect):
    writer, peer = await connect()
    largest = bytes(HELD_BYTES - 4096)  # of one read; the rest is for framing
    written, full = 0, in_kernel(writer, peer)
    while not writer.write_blocked:
        writer.write(largest)
        written += len(largest)
        for _ in range(5):
            await asyncio.sleep(0)

    def held() -> int:
        return written - (in_kernel(writer, peer) - full)

    assert held() <= HELD_BYTES
    taken = 0
    while writer.write_blocked:
        taken += len(await asyncio.to_thread(peer.recv, 1 << 16))
        await asyncio.sleep(0)
    assert held() - taken <= 0, "it says that it is free only when all is written"


async def test_bytes_that_are_kept_from_a_paused_stream_are_told(connect: Connect):
    reader, peer = await connect()
    reader.pause_reading()
    peer.sendall(b"stray")
    await eventually(reader.has_unread, what="them to be there")
    reader.resume_reading()
    await eventually(lambda: reader.received == b"stray", what="them to come")
    assert not reader.has_unread()


@pytest.mark.parametrize("connect", ["tls", "tls server"], indirect=True)
async def test_last_words_arrive_although_the_peer_still_speaks(connect: Connect):
    writer, peer = await connect()
    written = 0
    while not writer.write_blocked:
        writer.write(PIECE)
        written += len(PIECE)
    writer.close()

    def speak_then_listen() -> int:
        for _ in range(3):
            peer.sendall(PIECE)
        got = 0
        with contextlib.suppress(ConnectionResetError):
            while octets := peer.recv(1 << 16):
                got += len(octets)
        return got

    assert await asyncio.to_thread(speak_then_listen) == written


@pytest.mark.parametrize("connect", ["tls", "tls server"], indirect=True)
async def test_a_read_of_tls_allocates_about_what_it_brings(connect: Connect):
    """Else glibc gets pages from the kernel and gives them back for each read, which costs more than all the rest of it."""
    reader, peer = await connect()
    await asyncio.sleep(0)
    tracemalloc.start()
    try:
        peer.sendall(b"x" * 1000)
        assert await reader.fill()
        assert tracemalloc.get_traced_memory()[1] < 65536
    finally:
        tracemalloc.stop()
    assert reader.take(1000) == b"x" * 1000
