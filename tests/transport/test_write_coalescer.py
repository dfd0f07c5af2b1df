"""Small writes of one loop turn are sent together: in order, none lost, none later than the next turn, none held back by a failure."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from robin.testing.certificates import CertificateAuthority
from robin.testing.recording_upstream import RecordingUpstream, hold
from robin.testing.waiting import eventually
from robin.transport.deadlines import Sweeper
from robin.transport.stream import Stream
from robin.transport.write_coalescer import SMALL_BYTES

LARGE = 4 << 20


def nothing() -> None:
    """A task that was woken and writes nothing."""


def arrived(sock: socket.socket) -> bytes | None:
    """What has arrived; None where nothing has, and b"" at the end."""
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return None


class Connections:
    """Streams and the plain sockets at their other ends: `peers[n]` is connected to `streams[n]`."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.sweeper = Sweeper(self.loop)
        self.streams: list[Stream] = []
        self.peers: list[socket.socket] = []
        self.errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))

    async def open(self, count: int, *, tcp: bool = False) -> None:
        for _ in range(count):
            if tcp:
                with socket.create_server(("127.0.0.1", 0)) as listener:
                    ours = socket.create_connection(listener.getsockname())
                    theirs, _ = listener.accept()
            else:
                ours, theirs = socket.socketpair(socket.AF_UNIX)
            ours.setblocking(False)
            theirs.setblocking(False)
            stream = Stream(self.loop, self.sweeper)
            await self.loop.connect_accepted_socket(lambda stream=stream: stream, ours)  # type: ignore[misc]
            self.streams.append(stream)
            self.peers.append(theirs)

    async def turn(self, *acts: Callable[[], object]) -> None:
        """Wake the tasks of the first streams in one turn of the loop, in order; the n-th task does the n-th act."""

        async def serve(stream: Stream, act: Callable[[], object]) -> None:
            await stream.fill()
            stream.take(1)
            act()

        tasks = [self.loop.create_task(serve(stream, act)) for stream, act in zip(self.streams, acts, strict=False)]
        await asyncio.sleep(0)
        for peer in self.peers[: len(acts)]:
            peer.send(b"!")
        await asyncio.gather(*tasks)


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    made = Connections()
    yield made
    for stream, peer in zip(made.streams, made.peers, strict=True):
        stream.abort()
        peer.close()
    await eventually(lambda: all(stream.closed for stream in made.streams), what="the end of every stream")


@pytest.fixture
async def three(connections: Connections) -> Connections:
    await connections.open(3)
    return connections


async def test_a_connection_alone_is_not_delayed(three: Connections):
    seen: list[bytes | None] = []
    await three.turn(lambda: (three.streams[0].write(b"a"), seen.append(arrived(three.peers[0]))))
    three.streams[1].write(b"b")  # no task was woken
    assert [*seen, arrived(three.peers[1])] == [b"a", b"b"]


async def test_the_writes_of_a_turn_are_sent_with_the_last_of_them(three: Connections):
    seen: list[list[bytes | None]] = []
    await three.turn(*(lambda stream=stream: (stream.write(b"x"), seen.append([*map(arrived, three.peers)])) for stream in three.streams))
    assert seen == [[None] * 3, [None] * 3, [b"x"] * 3]


async def test_a_write_is_sent_in_the_next_turn_where_the_last_task_writes_nothing(three: Connections):
    await three.turn(lambda: three.streams[0].write(b"a"), nothing, nothing)
    await asyncio.sleep(0)
    assert [*map(arrived, three.peers)] == [b"a", None, None]


async def test_a_second_write_is_sent_at_once_behind_the_first(three: Connections):
    stream, peer = three.streams[0], three.peers[0]
    seen: list[bytes | None] = []
    await three.turn(lambda: [(stream.write(octets), seen.append(arrived(peer))) for octets in (b"1", b"2", b"3")], nothing)
    await asyncio.sleep(0)
    assert [*seen, arrived(peer)] == [None, b"12", None, b"3"]


@pytest.mark.parametrize(("octets", "deferred"), [(SMALL_BYTES - 1, True), (SMALL_BYTES, False)])
async def test_only_small_writes_are_deferred(three: Connections, octets: int, deferred: bool):
    seen: list[bytes | None] = []
    await three.turn(lambda: (three.streams[0].write(bytes(octets)), seen.append(arrived(three.peers[0]))), nothing)
    assert seen == [None if deferred else bytes(octets)]


async def test_a_blocked_stream_defers_nothing(three: Connections):
    three.streams[0].write(bytes(LARGE))
    seen: list[bytes] = []
    await three.turn(lambda: (three.streams[0].write(b"more"), seen.append(three.streams[0].pending_write)), nothing)
    assert seen == [b""]


async def test_at_most_63_writes_are_deferred(connections: Connections):
    await connections.open(100)
    seen: list[int] = []

    def act(stream: Stream) -> None:
        stream.write(b"x")
        seen.append(sum(bool(one.pending_write) for one in connections.streams))

    await connections.turn(*(lambda stream=stream: act(stream) for stream in connections.streams))
    assert (max(seen), seen[-1]) == (63, 0)
    assert [*map(arrived, connections.peers)] == [b"x"] * 100


@pytest.mark.parametrize(("end", "sent"), [("close", b"half"), ("finish", b"half"), ("reset", b"half"), ("abort", b"")])
async def test_an_end_sends_what_is_deferred_first_but_an_abort_drops_it(three: Connections, end: str, sent: bytes):
    stream, peer = three.streams[0], three.peers[0]
    await three.turn(lambda: (stream.write(b"half"), getattr(stream, end)()), nothing)
    got = bytearray()
    await eventually(lambda: (piece := arrived(peer)) == b"" or got.extend(piece or b""), what="the end")
    assert (bytes(got), three.errors) == (sent, [])


async def test_a_woken_task_that_never_runs_delays_others_by_one_turn_at_most(three: Connections):
    first, second, _ = three.streams
    waiting = second.fill()
    waiting.send(None)
    waiting.close()
    three.peers[1].send(b"!")
    await eventually(lambda: second.received, what="the byte", every_s=0)
    first.write(b"a")
    await asyncio.sleep(0)
    assert arrived(three.peers[0]) == b"a"
    first.write(b"b")
    assert arrived(three.peers[0]) == b"b", "it is waited for once only"


@pytest.mark.parametrize(("wake", "wait"), [("eof", "fill"), ("expire", "fill"), ("expire", "flush"), ("interrupt", "flush")])
async def test_whatever_ends_the_waits_their_writes_are_sent_together(three: Connections, wake: str, wait: str):
    await three.open(3)
    if wait == "flush":
        three.streams[2].write(bytes(LARGE))
    seen: list[list[bytes]] = []

    async def act(waiting: Awaitable[object], out: Stream) -> None:
        with contextlib.suppress(TimeoutError):
            await waiting
        out.write(b"x")
        seen.append([octets for octets in map(arrived, three.peers[3:]) if octets])

    waits = [three.streams[0].fill(), three.streams[1].fill(), getattr(three.streams[2], wait)()]
    tasks = [three.loop.create_task(act(*pair)) for pair in zip(waits, three.streams[3:], strict=True)]
    await asyncio.sleep(0)
    for stream, peer in zip(three.streams[:3], three.peers, strict=False):
        peer.shutdown(socket.SHUT_WR) if wake == "eof" else getattr(stream, wake)()
    await asyncio.gather(*tasks)
    assert seen == [[], [], [b"x"] * 3]


async def test_a_write_that_fails_is_reported_and_affects_no_other(three: Connections):
    first, bad, last = three.streams
    await three.turn(lambda: first.write(b"a"), lambda: (bad.write(b"b"), bad.transport.write_eof()), lambda: last.write(b"c"))
    assert [arrived(three.peers[0]), arrived(three.peers[2])] == [b"a", b"c"]
    assert [type(context["exception"]) for context in three.errors] == [RuntimeError]
    await eventually(lambda: bad.closed, what="the end of the failed stream")


async def test_under_tls_the_order_is_kept_up_to_the_end(three: Connections, certificates: CertificateAuthority):
    async with RecordingUpstream(hold, tls=certificates.issue("broker.test").server_context()) as upstream:
        made, context = Stream(three.loop, three.sweeper), certificates.client_context()
        _, stream = await three.loop.create_connection(lambda: made, "127.0.0.1", upstream.port, ssl=context, server_hostname="broker.test")
        await three.turn(lambda: [stream.write(b"one "), stream.write(b"two "), stream.write(b"three"), stream.close()], nothing)
        connection = await upstream.connection()
        await eventually(lambda: connection.ended and stream.closed, what="the end")
        assert bytes(connection.received) == b"one two three"


@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "unix"])
@pytest.mark.parametrize("seed", range(10))
async def test_in_any_order_of_events_no_byte_is_lost_doubled_or_moved(connections: Connections, seed: int, tcp: bool):
    """Tasks that are woken together write to any stream, yield, or are cancelled; each peer gets what was written to it."""
    await connections.open(12, tcp=tcp)
    chance, deferred = random.Random(seed), 0
    written, got = ([bytearray() for _ in connections.streams] for _ in range(2))

    async def serve(stream: Stream) -> None:
        nonlocal deferred
        while await stream.fill():
            for order in stream.take(len(stream.received)):
                await asyncio.sleep(0) if order == ord("z") else None
                n = chance.randrange(12)
                octets = chance.randbytes(chance.choice([1, 50, SMALL_BYTES - 1, SMALL_BYTES, 100_000]))
                written[n] += octets
                connections.streams[n].write(octets)
                deferred += bool(connections.streams[n].pending_write)

    def receive() -> bool:
        for n, peer in enumerate(connections.peers):
            got[n] += arrived(peer) or b""
        return got == written

    tasks = [connections.loop.create_task(serve(stream)) for stream in connections.streams]
    for _ in range(60):
        for peer in chance.sample(connections.peers, chance.randrange(12)):
            peer.send(bytes(chance.choices(b"wwwz", k=chance.randint(1, 3))))
        if chance.randrange(4) == 0:
            n = chance.randrange(12)
            tasks[n].cancel()
            await asyncio.wait([tasks[n]])
            tasks[n] = connections.loop.create_task(serve(connections.streams[n]))
        pending = [(stream, stream.pending_write) for stream in connections.streams if stream.pending_write]
        await asyncio.sleep(0)
        assert not any(octets is stream.pending_write for stream, octets in pending), "deferred for more than a turn"
        receive()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await eventually(receive, what="every byte that was written", every_s=0)
    assert deferred > 5
    assert connections.errors == []
