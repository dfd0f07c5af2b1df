"""TLS that says nothing to the stream is bounded; TLS that carries something passes, whatever the size of its records."""

import asyncio
import gc
import socket
import ssl
import struct
import weakref
from collections.abc import Callable

import pytest
from tests.transport.test_dial import dialer, permit, stream

from robin.model.address import ResolvedAddress
from robin.model.faults import Fault
from robin.model.verdict import Permit
from robin.testing.certificates import CertificateAuthority
from robin.testing.connection import ScriptedConnection
from robin.testing.recording_upstream import RecordingUpstream, hold
from robin.testing.waiting import eventually
from robin.transport.deadlines import Sweeper
from robin.transport.stream import Stream
from robin.transport.valve import Valve


async def dial(upstream: RecordingUpstream, certificates: CertificateAuthority) -> Stream:
    return await dialer("127.0.0.1").dial(permit(upstream.port, ca_file=certificates.ca_file), stream)


@pytest.fixture
def context(certificates: CertificateAuthority) -> ssl.SSLContext:
    """The server's."""
    return certificates.issue("broker.test").server_context()


async def test_a_flood_of_session_tickets_ends_the_connection(certificates: CertificateAuthority, context: ssl.SSLContext):
    context.num_tickets = 2000

    async def script(connection: ScriptedConnection) -> None:
        await connection.wait_ended()

    async with RecordingUpstream(script, tls=context) as upstream:
        dialled = await dial(upstream, certificates)
        await eventually(lambda: dialled.closed, what="the connection to be ended")
        assert dialled.bytes_received == 0


async def test_some_session_tickets_and_records_of_one_byte_pass(certificates: CertificateAuthority, context: ssl.SSLContext):
    context.num_tickets = 20

    async def script(connection: ScriptedConnection) -> None:
        await connection.send(*[b"x"] * 8000)
        await connection.send(b"y" * 300_000)
        await connection.wait_ended()

    async with RecordingUpstream(script, tls=context) as upstream:
        dialled = await dial(upstream, certificates)
        taken = b""
        async with asyncio.timeout(10):
            while len(taken) < 308_000:
                taken += dialled.take(len(dialled.received))
                if len(taken) < 308_000:
                    assert await dialled.fill()
        assert taken == b"x" * 8000 + b"y" * 300_000
        dialled.abort()


async def test_an_origin_that_speaks_before_the_handshake_is_no_tls(certificates: CertificateAuthority):
    async def script(connection: ScriptedConnection) -> None:
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await connection.wait_ended()

    async with RecordingUpstream(script) as upstream:
        for _ in range(50):  # its bytes come before, while and after TLS is put in place
            with pytest.raises(Fault) as refused:
                async with asyncio.timeout(2):
                    await dial(upstream, certificates)
            assert refused.value.code == "upstream_tls"


class Counted(asyncio.BufferedProtocol):
    """A TLS that makes `yields` bytes of whatever comes."""

    def __init__(self, reader: Stream) -> None:
        self.reader = reader
        self.yields = 0

    def get_buffer(self, sizehint: int) -> bytearray:
        return bytearray(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        self.reader.bytes_received += self.yields

    def pause_writing(self) -> None:
        pass


class Line:
    """A transport that can be cut and rest; as that of the stream it tells what TLS holds."""

    def __init__(self) -> None:
        self.cut = False
        self.reading = True
        self.held = 0

    def abort(self) -> None:
        self.cut = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_read_buffer_size(self) -> int:
        return self.held


Attended = tuple[Valve, Counted, Stream, Line]


def attended(version: str | None = "TLSv1.3") -> Attended:
    """A valve on nothing real; without a version it is still in its handshake."""
    reader, line = stream(), Line()
    reader.transport = line
    tls = Counted(reader)
    valve = Valve(asyncio.get_running_loop(), line, tls)
    if version is not None:
        valve.attend(reader, version=version)
    return valve, tls, reader, line


@pytest.mark.parametrize(
    ("version", "yields", "paused", "reads"),
    [
        ("TLSv1.3", 0, False, 1),
        ("TLSv1.3", 0, True, None),
        ("TLSv1.3", 2048, False, None),
        ("TLSv1.3", 1800, False, 7),
        ("TLSv1.2", 683, False, None),
        ("TLSv1.2", 600, False, 7),
        (None, 0, False, 5),
    ],
    ids=["silent", "not-read", "one-byte-records", "mostly-silent", "one-byte-records-of-1.2", "mostly-silent-1.2", "handshake"],
)
async def test_what_came_is_weighed_against_what_was_heard(version: str | None, yields: int, paused: bool, reads: int | None):
    valve, tls, reader, line = attended(version)
    tls.yields = yields
    reader.paused = paused
    done = 0
    while not line.cut and done < 100:
        valve.buffer_updated(65536)
        done += 1
    assert (done if line.cut else None) == reads


async def test_what_comes_while_our_last_bytes_go_out_is_dropped_up_to_a_limit():
    valve, _, reader, line = attended()
    reader.closing = reader.paused = True
    done = 0
    while not line.cut and done < 1000:
        valve.buffer_updated(65536)
        done += 1
    assert done == (4 << 20) // 65536 + 1


async def test_a_stream_on_a_full_line_is_choked_whatever_tls_says():
    valve, _, reader, _ = attended()
    valve.pause_writing()
    assert reader.write_blocked
    reader.resume_writing()
    valve.buffer_updated(10)
    assert reader.write_blocked
    late, _, other, _ = attended(None)
    late.pause_writing()
    late.attend(other, version="TLSv1.3")
    assert other.write_blocked


@pytest.mark.parametrize(
    ("nbytes", "paused", "rests"),
    [(65536, False, True), (65535, False, False), (65536, True, False)],
    ids=["full", "not-full", "not-read"],
)
async def test_tls_gets_one_full_read_a_turn(nbytes: int, paused: bool, rests: bool):
    valve, tls, reader, line = attended()
    tls.yields = 4000
    reader.paused = paused
    valve.buffer_updated(nbytes)
    assert line.reading is not rests
    await asyncio.sleep(0)
    assert line.reading


@pytest.mark.parametrize("gone", [False, True], ids=["held-by-tls", "lost"])
async def test_a_rest_does_not_end_what_tls_or_the_end_has_paused(gone: bool):
    valve, tls, reader, line = attended()
    tls.yields = 4000
    valve.buffer_updated(65536)
    reader.closed = gone
    line.held = 0 if gone else 1
    await asyncio.sleep(0)
    assert not line.reading


async def test_an_origin_that_resets_before_the_handshake_is_a_fault_and_no_failure_of_the_loop(certificates: CertificateAuthority):
    loop = asyncio.get_running_loop()
    told: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    faults: list[str] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.setblocking(False)

        async def reset_all() -> None:
            while True:
                sock, _ = await loop.sock_accept(listener)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()

        resetting = loop.create_task(reset_all())
        port = listener.getsockname()[1]

        async def dial_once() -> None:
            try:
                await dialer("127.0.0.1").dial(permit(port, ca_file=certificates.ca_file), stream)
            except Fault as fault:
                faults.append(fault.code)

        await asyncio.gather(*(dial_once() for _ in range(200)))
        resetting.cancel()
    assert len(faults) == 200
    assert set(faults) <= {"connect_refused", "upstream_tls", "upstream_closed"}
    assert told == []


class Watched(Stream):
    """A stream that can be seen to be gone."""

    __slots__ = ("__weakref__",)


async def end_one(leave: Permit, build: Callable[[ResolvedAddress], Watched]) -> weakref.ref[Watched]:
    """Dial, hang up; and hold nothing of it."""
    dialled = await dialer("127.0.0.1").dial(leave, build)
    dialled.abort()
    await eventually(lambda: dialled.closed, what="the end")
    return weakref.ref(dialled)


async def test_a_stream_that_ended_keeps_no_tls_alive(certificates: CertificateAuthority, context: ssl.SSLContext):
    """Each TLS has 256 KiB of buffers: they must not wait for the collector of cycles."""
    loop = asyncio.get_running_loop()
    sweeper = Sweeper(loop)
    gc.disable()
    try:
        async with RecordingUpstream(hold, tls=context) as upstream:
            seen = await end_one(permit(upstream.port, ca_file=certificates.ca_file), lambda _: Watched(loop, sweeper))
            await eventually(lambda: seen() is None, what="it to be forgotten")
    finally:
        gc.enable()
