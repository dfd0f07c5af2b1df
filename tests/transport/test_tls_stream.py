"""TLS streams in both roles, alone and within each other: bytes, ends, limits; and what is chosen before the handshake."""

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import struct
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.transport.key_updates import RECORD_BYTES, key_updates
from tests.transport.test_dial import dialer, permit, stream

from robin.model.faults import Fault
from robin.model.route import TlsProfile
from robin.model.secret import Secret
from robin.testing.certificates import CertificateAuthority, Leaf
from robin.testing.connection import ScriptedConnection
from robin.testing.recording_upstream import RecordingUpstream, hold
from robin.testing.waiting import eventually
from robin.transport.deadlines import Sweeper
from robin.transport.stream import Stream, StreamClosed
from robin.transport.tls import client_context
from robin.transport.tls_server import server_context
from robin.transport.tls_stream import peek_client_hello, peer_certificate, start_tls
from robin.transport.tls_transport import TlsTransport
from robin.wire.client_hello import ClientHelloError

NAME = "broker.test"

Pair = tuple[Stream, Stream]


def client_of(certificates: CertificateAuthority) -> ssl.SSLContext:
    return client_context(TlsProfile(ca_file=str(certificates.ca_file)))


def server_of(leaf: Leaf, *, client_ca: CertificateAuthority | None = None, required: bool = True) -> ssl.SSLContext:
    key = Secret(leaf.key_file.read_bytes())
    roots = None if client_ca is None else str(client_ca.ca_file)
    return server_context(leaf.certificate_file.read_bytes(), key, client_ca_file=roots, required=required)


async def plain_pair(build: Callable[[], Stream] = stream) -> Pair:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    streams = build(), build()
    for one, sock in zip(streams, (near, far), strict=True):
        sock.setblocking(False)
        await loop.connect_accepted_socket(lambda one=one: one, sock)
    return streams


async def within(pair: Pair, client: ssl.SSLContext, server: ssl.SSLContext, build: Callable[[], Stream] = stream) -> Pair:
    """TLS on both ends of what connects them already."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        return tuple(
            await asyncio.gather(
                start_tls(loop, pair[0], build, client, server_hostname=NAME),
                start_tls(loop, pair[1], build, server),
            )
        )


@pytest.fixture(params=["tls", "tls within tls"])
async def connect(request: pytest.FixtureRequest, certificates: CertificateAuthority) -> AsyncIterator[Callable[[], Awaitable[Pair]]]:
    """Makes a client and the server at its other end."""
    client, server = client_of(certificates), server_of(certificates.issue(NAME))
    made: list[Stream] = []

    async def call() -> Pair:
        pair = await plain_pair()
        for _ in range(1 if request.param == "tls" else 2):
            pair = await within(pair, client, server)
        made.extend(pair)
        return pair

    yield call
    for one in made:
        one.abort()
    await eventually(lambda: all(one.closed for one in made), what="the streams to be gone")


Connect = Callable[[], Awaitable[Pair]]


async def read(reader: Stream, count: int) -> bytes:
    taken = b""
    async with asyncio.timeout(10):
        while len(taken) < count and (reader.received or await reader.fill()):
            taken += reader.take(min(len(reader.received), count - len(taken)))
    return taken


@pytest.mark.parametrize("size", [1, 16_384, 16_385, 3_000_000])
async def test_bytes_arrive_as_they_were_written_both_ways(connect: Connect, size: int):
    octets = bytes(range(256)) * (size // 256) + bytes(size % 256)

    async def send(writer: Stream) -> None:
        for at in range(0, size, 200_000):
            writer.write(octets[at : at + 200_000])
            while writer.write_blocked:
                await writer.flush()

    for writer, reader in [(pair := await connect()), pair[::-1]]:
        sending = asyncio.ensure_future(send(writer))
        assert await read(reader, size) == octets
        await sending


async def test_half_closed_by_either_side_the_other_still_writes(connect: Connect):
    for side in (0, 1):
        pair = await connect()
        ender, other = pair[side], pair[1 - side]
        ender.write(b"last words")
        ender.finish()
        assert await read(other, 100) == b"last words"
        assert other.eof
        assert not other.was_reset
        other.write(b"reply" * 10_000)
        assert await read(ender, 50_000) == b"reply" * 10_000
        other.close()
        assert not await ender.fill()
        assert not ender.was_reset
        ender.close()
        await eventually(lambda pair=pair: pair[0].closed and pair[1].closed, what="both to be closed")


async def test_closed_the_peer_gets_an_end_and_aborted_it_gets_an_error(connect: Connect):
    for close, was_reset in ((Stream.close, False), (Stream.abort, True), (Stream.reset, True)):
        near, far = await connect()
        close(near)
        assert not await far.fill()
        await eventually(lambda far=far: far.closed or not far.was_reset, what="the end to be seen")
        far.close()
        await eventually(lambda near=near, far=far: near.closed and far.closed, what="both to be closed")
        assert far.was_reset is was_reset


async def test_what_a_paused_stream_is_sent_stays_in_the_kernel_until_it_reads(connect: Connect):
    near, far = await connect()
    await asyncio.sleep(0)
    near.pause_reading()
    far.write(b"x" * 3000)
    await eventually(near.has_unread, what="it to arrive")
    assert near.received == b""
    assert await read(near, 3000) == b"x" * 3000


class Watched(Stream):
    """A stream that can be seen to be gone."""

    __slots__ = ("__weakref__",)


async def ended(pair: Pair, close: Callable[[Stream], None]) -> list[weakref.ref[object]]:
    """End both, and hold nothing of them but what tells whether they are gone."""
    tls = [one.transport.get_extra_info("ssl_object") for one in pair]
    for one in pair:
        close(one)
    await eventually(lambda: all(one.closed for one in pair), what="the end")
    return [weakref.ref(one) for one in (*pair, *tls)]


@pytest.mark.parametrize("close", [Stream.abort, Stream.close])
async def test_a_stream_that_ended_keeps_no_tls_alive(certificates: CertificateAuthority, close: Callable[[Stream], None]):
    """Each TLS has some 100 KiB of buffers: they must not wait for the collector of cycles."""
    loop = asyncio.get_running_loop()
    sweeper = Sweeper(loop)
    client, server = client_of(certificates), server_of(certificates.issue(NAME))
    gc.disable()
    try:
        seen = await ended(await within(await plain_pair(), client, server, lambda: Watched(loop, sweeper)), close)
        await eventually(lambda: not any(one() is not None for one in seen), what="them to be forgotten")
    finally:
        gc.enable()


# before the handshake


async def test_a_server_sees_name_and_protocols_before_it_chooses_its_certificate(certificates: CertificateAuthority):
    loop = asyncio.get_running_loop()
    near, far = await plain_pair()
    dialling = asyncio.ensure_future(start_tls(loop, near, stream, client_of(certificates), server_hostname=NAME))
    hello = await peek_client_hello(far)
    assert (hello.server_name, hello.protocols, hello.ech) == (NAME.encode(), (b"http/1.1",), False)
    server = await start_tls(loop, far, stream, server_of(certificates.issue(hello.server_name.decode())))
    client = await dialling
    assert client.transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    assert server.transport.get_extra_info("peername") == far.transport.get_extra_info("peername")
    server.write(b"x")
    assert await read(client, 1) == b"x"
    client.abort()
    server.abort()


async def test_a_client_that_leaves_or_speaks_no_tls_is_told_apart_before_the_handshake():
    near, far = await plain_pair()
    near.write(b"\x16\x03\x01")
    near.close()
    with pytest.raises(StreamClosed):
        await peek_client_hello(far)
    near, other = await plain_pair()
    near.write(b"GET / HTTP/1.1\r\n")
    with pytest.raises(ClientHelloError, match="not_tls"):
        await peek_client_hello(other)
    for one in (near, far, other):
        one.abort()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("shown", "required", "let_in"),
    [("ours", True, True), ("none", True, False), ("none", False, True), ("foreign", True, False), ("foreign", False, False)],
)
async def test_clients_prove_themselves_by_certificate(
    certificates: CertificateAuthority, tmp_path: Path, version: ssl.TLSVersion, shown: str, required: bool, let_in: bool
):
    loop = asyncio.get_running_loop()
    client = client_of(certificates)
    client.minimum_version = client.maximum_version = version
    leaf = (CertificateAuthority(tmp_path) if shown == "foreign" else certificates).issue("workload.test")
    if shown != "none":
        client.load_cert_chain(leaf.certificate_file, leaf.key_file)
    server = server_of(certificates.issue(NAME), client_ca=certificates, required=required)
    near, far = await plain_pair()
    dialling = asyncio.ensure_future(start_tls(loop, near, stream, client, server_hostname=NAME))
    accepting = asyncio.ensure_future(start_tls(loop, far, stream, server))
    await asyncio.wait([dialling, accepting], timeout=10)
    if let_in:
        der = ssl.PEM_cert_to_DER_cert(leaf.certificate_file.read_text()) if shown == "ours" else None
        assert peer_certificate(accepting.result()) == der
        accepting.result().abort()
    else:
        assert isinstance(accepting.exception(), ssl.SSLError)
    if dialling.exception() is None:
        dialling.result().abort()


async def test_given_up_handshakes_leave_nothing_open(certificates: CertificateAuthority):
    loop = asyncio.get_running_loop()
    for role in ("client", "server"):
        near, far = await plain_pair()
        how = (client_of(certificates), NAME) if role == "client" else (server_of(certificates.issue(NAME)), None)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await start_tls(loop, near, stream, how[0], server_hostname=how[1])
        while await far.fill():
            pass
        far.close()
        await eventually(lambda far=far: far.closed, what="the other end to be closed")


async def test_a_dial_given_up_in_any_turn_leaves_nothing_open_and_no_complaint(certificates: CertificateAuthority):
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    async with RecordingUpstream(hold, tls=certificates.issue(NAME).server_context()) as upstream:
        before = len(os.listdir("/proc/self/fd"))
        for turns in range(40):
            dialling = asyncio.ensure_future(dial(upstream, certificates))
            for _ in range(turns):
                await asyncio.sleep(0)
            dialling.cancel()
            await asyncio.wait([dialling])
            if not dialling.cancelled() and dialling.exception() is None:
                dialling.result().abort()
        await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before, what="every descriptor to be closed")
    assert reported == []


# peers that send what never reaches the stream


async def dial(upstream: RecordingUpstream, certificates: CertificateAuthority) -> Stream:
    return await dialer("127.0.0.1").dial(permit(upstream.port, ca_file=certificates.ca_file), stream)


async def test_a_flood_of_session_tickets_ends_the_connection(certificates: CertificateAuthority):
    context = certificates.issue(NAME).server_context()
    context.num_tickets = 2000

    async def script(connection: ScriptedConnection) -> None:
        await connection.wait_ended()

    async with RecordingUpstream(script, tls=context) as upstream:
        dialled = await dial(upstream, certificates)
        await eventually(lambda: dialled.closed, what="the connection to be ended")
        assert dialled.bytes_received == 0
        assert dialled.was_reset


async def test_some_session_tickets_and_records_of_one_byte_pass(certificates: CertificateAuthority):
    context = certificates.issue(NAME).server_context()
    context.num_tickets = 20

    async def script(connection: ScriptedConnection) -> None:
        await connection.send(*[b"x"] * 8000)
        await connection.send(b"y" * 300_000)
        await connection.wait_ended()

    async with RecordingUpstream(script, tls=context) as upstream:
        dialled = await dial(upstream, certificates)
        assert await read(dialled, 308_000) == b"x" * 8000 + b"y" * 300_000
        dialled.abort()


async def test_an_origin_that_speaks_before_the_handshake_is_no_tls(certificates: CertificateAuthority):
    async def script(connection: ScriptedConnection) -> None:
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await connection.wait_ended()

    async with RecordingUpstream(script) as upstream:
        for _ in range(20):  # its bytes come before and while TLS begins
            with pytest.raises(Fault) as refused:
                async with asyncio.timeout(30):
                    await dial(upstream, certificates)
            assert refused.value.code == "upstream_tls"


async def test_an_origin_that_resets_before_the_handshake_is_a_fault_and_no_failure_of_the_loop(certificates: CertificateAuthority):
    loop = asyncio.get_running_loop()
    reported: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    faults: list[str] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]

        async def reset_all() -> None:
            while True:
                sock, _ = await loop.sock_accept(listener)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()

        async def dial_once() -> None:
            try:
                await dialer("127.0.0.1").dial(permit(port, ca_file=certificates.ca_file), stream)
            except Fault as fault:
                faults.append(fault.code)

        resetting = loop.create_task(reset_all())
        await asyncio.gather(*(dial_once() for _ in range(200)))
        resetting.cancel()
    assert len(faults) == 200
    assert set(faults) <= {"connect_refused", "upstream_tls", "upstream_closed"}
    assert reported == []


class Line:
    """A transport in memory: what is written is for `peer`, and what it does is seen."""

    def __init__(self, peer: ssl.MemoryBIO) -> None:
        self.peer = peer
        self.written = 0
        self.buffered = 0
        self.reading = True
        self.aborted = self.closed = self.half_closed = False

    def write(self, octets: bytes) -> None:
        self.written += len(octets)
        self.peer.write(octets)

    def write_eof(self) -> None:
        self.half_closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.aborted or self.closed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.buffered


class InMemory:
    """A TLS client of ours on a `Line` to a server of Python's, whose handshake is done unless told otherwise."""

    def __init__(self, certificates: CertificateAuthority, folder: Path, *, shaken: bool = True) -> None:
        context = certificates.issue(NAME).server_context()
        context.num_tickets = 0
        context.keylog_filename = str(folder / "keys")
        self.key_log = folder / "keys"
        to_server, self.from_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = context.wrap_bio(to_server, self.from_server, server_side=True)
        self.line = Line(to_server)
        self.stream = stream()
        self.tls = TlsTransport(asyncio.get_running_loop(), lambda: self.stream, client_of(certificates), server_hostname=NAME)
        self.tls.connection_made(self.line)
        self.tls.data_received(b"")  # the client's first message goes out
        while shaken and not self.tls.opened.done():
            with contextlib.suppress(ssl.SSLWantReadError):
                self.server.do_handshake()
            self.arrive(self.from_server.read())
        if shaken:
            self.server.do_handshake()

    def arrive(self, octets: bytes) -> None:
        """As the loop does: as much as there is room for; a line that does not read gets nothing."""
        while octets and self.line.reading and not self.line.aborted:
            place = self.tls.get_buffer(-1)
            size = min(len(octets), len(place))
            place[:size] = octets[:size]
            octets = octets[size:]
            self.tls.buffer_updated(size)


@pytest.mark.parametrize("requested", [False, True], ids=["silent", "reply requested"])
async def test_a_flood_of_key_updates_is_cut_off_and_never_much_work_in_one_turn(
    certificates: CertificateAuthority, tmp_path: Path, requested: bool
):
    within = InMemory(certificates, tmp_path)
    before = within.line.written
    within.arrive(key_updates(within.key_log, 131_072 // RECORD_BYTES, requested=requested))
    assert not within.line.aborted
    assert not within.line.reading, "the rest waits for the next turn"
    a_turn = within.line.written - before
    assert (0 < a_turn <= 40_960) is requested
    await asyncio.sleep(0)
    assert within.line.aborted
    assert within.line.written - before <= 2 * 40_960
    assert within.stream.bytes_received == 0


@pytest.mark.parametrize("requested", [False, True], ids=["silent", "reply requested"])
async def test_replies_to_key_updates_that_the_peer_does_not_read_end_the_connection(
    certificates: CertificateAuthority, tmp_path: Path, requested: bool
):
    within = InMemory(certificates, tmp_path)
    within.line.buffered = 600_000
    within.tls.pause_writing()
    within.arrive(key_updates(within.key_log, 3, requested=requested))
    assert within.line.aborted is requested


async def test_a_handshake_without_an_end_is_cut_off(certificates: CertificateAuthority, tmp_path: Path):
    within = InMemory(certificates, tmp_path, shaken=False)
    hello_request = bytes((22, 3, 3, 0, 4, 0, 0, 0, 0))  # a client ignores it in its handshake, however often it comes
    within.arrive(hello_request * (262_144 // len(hello_request)))
    assert not within.line.closed
    within.arrive(hello_request)
    assert within.line.closed
    with pytest.raises(ConnectionAbortedError):
        await within.tls.opened


async def test_what_comes_while_our_last_bytes_go_out_is_dropped_up_to_a_limit(certificates: CertificateAuthority, tmp_path: Path):
    within = InMemory(certificates, tmp_path)
    within.tls.close()
    assert within.line.half_closed
    within.arrive(bytes(4 << 20))
    assert not within.line.is_closing()
    within.arrive(b"x")
    assert within.line.aborted
    assert within.stream.received == b""


async def test_tiny_records_are_decrypted_over_several_turns(certificates: CertificateAuthority, tmp_path: Path):
    within = InMemory(certificates, tmp_path)
    for _ in range(6000):
        within.server.write(b"x")
    octets = within.from_server.read(131_072)
    within.arrive(octets)
    turns = 0
    while not within.line.reading:
        assert len(within.stream.take(len(within.stream.received))) < 2000
        within.stream.resume_reading()
        await asyncio.sleep(0)
        turns += 1
    assert turns > 2
    assert within.stream.bytes_received == len(octets) // 23


async def test_a_line_that_is_full_during_the_handshake_blocks_the_stream_from_its_start(
    certificates: CertificateAuthority, tmp_path: Path
):
    within = InMemory(certificates, tmp_path, shaken=False)
    within.tls.pause_writing()
    while not within.tls.opened.done():
        with contextlib.suppress(ssl.SSLWantReadError):
            within.server.do_handshake()
        within.arrive(within.from_server.read())
    assert within.stream.write_blocked
    within.tls.resume_writing()
    assert not within.stream.write_blocked
