"""The relay: each framing reaches each caller whole, a broken answer never looks whole, and only a clean connection is kept."""

import asyncio
import socket

import pytest
from tests.proxy.rig import CALLER, Leaps, Room

from robin.proxy.connection import serve_connection
from robin.testing.connection import ScriptedConnection
from robin.testing.recording_upstream import RecordingUpstream, answer, response
from robin.testing.server import Script
from robin.testing.waiting import eventually
from robin.wire.framing import CHUNKS_A_TURN

GET = b"GET / HTTP/1.%d\r\nHost: localhost\r\n\r\n"


def say(*parts: bytes, end: str = "close") -> Script:
    """Answer a request with these parts, each a write of its own, then end the connection or stay."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(*parts)
        if end == "reset":
            await connection.reset()
        elif end == "stay":
            await connection.wait_ended()

    return script


LENGTH = (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", b"abc", b"def")
CHUNKED = (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3;x=y\r\nab", b"c\r\n3\r\ndef\r\n", b"0\r\n\r\n")
CLOSE = (b"HTTP/1.1 200 OK\r\n\r\n", b"abc", b"def")


def unchunked(octets: bytes) -> bytes:
    """The payload of a whole chunked body."""
    payload, rest = b"", octets
    while True:
        line, _, rest = rest.partition(b"\r\n")
        if not (size := int(line, 16)):
            assert rest == b"\r\n"
            return payload
        payload, rest = payload + rest[:size], rest[size + 2 :]


@pytest.mark.parametrize("parts", [LENGTH, CHUNKED, CLOSE], ids=["length", "chunked", "close"])
@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize("together", [False, True])
async def test_each_framing_reaches_each_caller_whole(
    room: Room, upstream: RecordingUpstream, parts: tuple[bytes, ...], minor: int, together: bool
) -> None:
    upstream.script = say(b"".join(parts)) if together else say(*parts)
    caller = room.call()
    await caller.send((GET % minor)[:-2] + b"Connection: close\r\n\r\n")
    head, _, body = (await caller.receive()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (b"Transfer-Encoding: chunked" in head) is (minor == 1 and parts is not LENGTH)
    assert (unchunked(body) if b"chunked" in head else body) == b"abcdef"
    await caller.hang_up()
    assert room.engine.metrics.body_bytes_out == 6
    assert room.outcomes() == {"forwarded": 1}
    await room.settled()


@pytest.mark.parametrize(
    "parts",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", b"abcdef"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"6\r\nabcdef\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"6\r\nabcdef\r\n", b"zz\r\n0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"6\r\nabcdef\r\n", b"0\r\nContent-Length: 1\r\n\r\n"),
    ],
)
async def test_an_answer_that_breaks_off_never_looks_whole(room: Room, upstream: RecordingUpstream, parts: tuple[bytes, ...]) -> None:
    gone = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(*parts[:2])
        await gone.wait()  # the caller has the beginning
        await connection.send(*parts[2:])

    upstream.script = script
    caller = room.call()
    await caller.send(GET % 1)
    seen = await caller.receive(until=b"abcdef")
    gone.set()
    seen += await caller.receive()
    assert seen.count(b"HTTP/1.1") == 1
    assert not seen.endswith(b"0\r\n\r\n")
    await caller.hang_up()
    assert room.outcomes() == {"upstream_aborted": 1}
    assert room.bucket.count == 0
    await room.settled()


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ((b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",), "upstream_protocol"),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",), "upstream_protocol"),
        ((b"HTTP/1.1 200 OK\nA: 1\n\n",), "upstream_protocol"),
        ((b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70000,), "upstream_protocol"),
        ((b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17,), "upstream_protocol"),
        ((b"HTTP/1.1 200 OK\r\nContent-Le",), "upstream_closed"),
        ((b"HTTP/1.1 103 Early Hints\r\n\r\n",), "upstream_closed"),
        ((b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",), "upgrade_failed"),
    ],
)
async def test_an_answer_that_breaks_before_the_caller_saw_it_is_502(
    room: Room, upstream: RecordingUpstream, parts: tuple[bytes, ...], code: str
) -> None:
    upstream.script = say(*parts)
    caller = room.call()
    await caller.send(GET % 1)
    seen = await caller.receive(until=b'"code": "%b"' % code.encode())
    assert b"HTTP/1.1 502 Bad Gateway\r\n" in seen
    await caller.hang_up()
    assert room.outcomes() == {code: 1}
    await room.settled()


@pytest.mark.parametrize("minor", [0, 1])
async def test_interim_answers_go_down_in_order_to_1_1_and_not_to_1_0(room: Room, upstream: RecordingUpstream, minor: int) -> None:
    hints = [b"HTTP/1.1 103 Early Hints\r\nLink: %d\r\n\r\n" % number for number in range(3)]
    upstream.script = say(*hints, response(200, b"ok"), end="stay")
    caller = room.call()
    await caller.send(GET % minor)
    seen = await caller.receive(until=b"ok")
    assert seen.startswith(b"".join(hints) + b"HTTP/1.1 200 OK\r\n" if minor else b"HTTP/1.1 200 OK\r\n")
    await caller.hang_up()


@pytest.mark.parametrize(
    ("octets", "kept"),
    [
        (response(200, b"ok"), True),
        (response(200, b"ok") + b"HTTP/1.1 200 OK\r\n", False),
        (response(200, b"ok", ("Connection", "close")), False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nX", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    ],
)
async def test_only_a_clean_connection_is_kept(room: Room, upstream: RecordingUpstream, octets: bytes, kept: bool) -> None:
    upstream.script = say(octets, end="stay")
    caller = room.call()
    await caller.send((GET % 1)[:-2] + b"Connection: close\r\n\r\n")
    assert b"X" not in await caller.receive()
    await caller.hang_up()
    assert room.bucket.count == (1 if kept else 0)
    await room.settled()


async def test_head_has_no_body_whatever_its_length_says_and_the_connection_is_kept(room: Room, upstream: RecordingUpstream) -> None:
    upstream.script = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", response(200, b"ok"))
    caller = room.call()
    await caller.send(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET % 1)
    assert await caller.receive(until=b"ok") == b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + response(200, b"ok")
    assert len(upstream.connections) == 1
    await caller.hang_up()


async def test_trailers_follow_to_1_1_without_those_that_must_not_travel(room: Room, upstream: RecordingUpstream) -> None:
    upstream.script = say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a\r\n\r\n", end="stay")
    caller = room.call()
    await caller.send(GET % 1)
    assert (await caller.receive(until=b"\r\n\r\n0\r\nX-Sum: 1\r\n\r\n")).count(b"Cookie") == 0
    await caller.hang_up()


async def test_a_caller_that_leaves_ends_its_upstream_connection(room: Room, upstream: RecordingUpstream) -> None:
    upstream.script = say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"abc", end="stay")
    caller = room.call()
    await caller.send(GET % 1)
    await caller.receive(until=b"abc")
    await caller.hang_up()
    assert await (await upstream.connection(0)).wait_ended() in {"eof", "reset"}
    assert room.outcomes() == {"client_closed": 1}
    await room.settled()


@pytest.mark.parametrize("minor", [0, 1])
async def test_a_flood_of_small_chunks_leaves_turns_to_others(room: Room, upstream: RecordingUpstream, minor: int) -> None:
    """One read of the loop holds ten thousands of them, and all in one go would keep every other caller waiting."""
    upstream.script = say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
    caller = room.call()
    with Leaps(lambda: room.engine.metrics.body_bytes_out) as leaps:
        await caller.send((GET % minor)[:-2] + b"Connection: close\r\n\r\n")
        _, _, body = (await caller.receive()).partition(b"\r\n\r\n")
    assert (unchunked(body) if minor else body) == b"x" * 100_000
    assert 0 < leaps.largest <= CHUNKS_A_TURN
    await caller.hang_up()
    await room.settled()


async def test_a_caller_that_leaves_amid_a_flood_of_small_chunks_ends_it(room: Room, upstream: RecordingUpstream) -> None:
    upstream.script = say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 400_000, end="stay")
    caller = room.call()
    await caller.send(GET % 1)
    await caller.receive(until=b"\r\n\r\n")
    await caller.hang_up()
    assert room.outcomes() == {"client_closed": 1}
    await room.settled()


async def test_a_caller_that_does_not_read_for_a_while_does_not_switch_the_response_timeout_off(
    room: Room, upstream: RecordingUpstream
) -> None:
    upstream.script = say(b"HTTP/1.1 103 Early Hints\r\nX: " + b"a" * 60_000 + b"\r\n\r\n", end="stay")
    near, far = socket.socketpair()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    for end in (near, far):
        end.setblocking(False)
    serving = room.engine.tasks.start(serve_connection(far, CALLER, room.engine), "caller")
    near.send(GET % 1)
    await eventually(lambda: any(connection.write_blocked for connection in room.engine.drain.connections), what="the caller to be choked")
    (downstream,) = room.engine.drain.connections
    downstream.peer.deadline_at = 0.0  # the response timeout passes while only the caller is waited for
    room.engine.sweeper.sweep()
    heard = b""
    async with asyncio.timeout(10):
        while b"HTTP/1.1 504 " not in heard:
            heard += await room.engine.loop.sock_recv(near, 65536)
    near.close()
    await asyncio.wait([serving])
    assert room.outcomes() == {"response_timeout": 1}
