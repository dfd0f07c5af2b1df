"""Every timeout fires with its code, and none of them cuts a stream that moves (J6; the queue's is in test_upstream_pool.py)."""

import asyncio
import socket
from pathlib import Path

import pytest
from tests.corpus.judge import check_problem
from tests.corpus.rig import Rig
from tests.journeys.life import GET, exchanges, launched, serving
from tests.journeys.test_drain_websocket import switched

from robin.testing.connection import PeerLeft, ScriptedConnection
from robin.testing.message import ReceivedRequest
from robin.testing.recording_upstream import RecordingUpstream
from robin.testing.waiting import eventually

SHORT_S = 0.4
LATEST_S = 9  # less than most of these timeouts are by default; the sweep's grain is a quarter second, the rest is for a busy machine


class Stopwatch:
    """Checks that something took a short timeout's time: not less, not much more."""

    def __enter__(self) -> None:
        self._began = asyncio.get_running_loop().time()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            took_s = asyncio.get_running_loop().time() - self._began
            assert SHORT_S - 0.02 < took_s < LATEST_S, took_s


def short(name: str) -> dict[str, str]:
    return {f"ROBIN_{name}": f"{int(SHORT_S * 1000)}ms"}


async def outcomes(rig: Rig, count: int) -> list[str]:
    await eventually(lambda: len(exchanges(rig)) >= count, what="the records")
    return [record["outcome"] for record in exchanges(rig)]


async def silent(connection: ScriptedConnection, _: ReceivedRequest) -> None:
    await connection.wait_ended()


async def test_header_timeout_is_408(tmp_path: Path):
    async with serving(tmp_path, settings=short("HEADER_TIMEOUT")) as rig:
        caller = await rig.caller()
        caller.send(b"GET / HT")
        with Stopwatch():
            check_problem(await caller.answer(), "request_timeout", "head")
        assert await caller.closed() == "eof"
        assert await outcomes(rig, 1) == ["request_timeout"]


async def test_keepalive_timeout_closes_without_a_word_or_a_record(tmp_path: Path):
    async with serving(tmp_path, settings=short("KEEPALIVE_TIMEOUT")) as rig:
        silent_one, kept = await rig.caller(), await rig.caller()
        with Stopwatch():
            assert await silent_one.closed() == "eof"
        assert silent_one.peer.received_count == 0
        kept = await rig.caller()
        kept.send(GET)
        assert (await kept.answer()).status == 200
        with Stopwatch():
            assert await kept.closed() == "eof"
        assert kept.rest == b""
        assert await outcomes(rig, 1) == ["forwarded"]


async def test_connect_timeout_counts_the_tls_handshake_too(tmp_path: Path):
    """A listener that takes connections and says nothing."""
    async with RecordingUpstream() as upstream:
        settings = short("UPSTREAM_CONNECT_TIMEOUT")
        async with serving(tmp_path, upstream=upstream, url=upstream.url.replace("http:", "https:"), settings=settings) as rig:
            upstream.script = lambda connection: connection.wait_ended()
            with Stopwatch():
                check_problem(await rig.ask(GET), "connect_timeout")
            assert await outcomes(rig, 1) == ["connect_timeout"]
            assert upstream.connections[0].received[:1] == b"\x16", "the handshake had begun"
            await eventually(lambda: upstream.connections[0].ended, what="the half-open connection to be closed")


async def test_response_timeout_is_504_and_the_connection_goes(tmp_path: Path):
    async with serving(tmp_path, settings=short("UPSTREAM_RESPONSE_TIMEOUT")) as rig:
        rig.reply = silent
        for body in (b"", b"x" * 100_000):
            caller = await rig.caller()
            with Stopwatch():
                caller.send(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                check_problem(await caller.answer(b"POST"), "response_timeout", "response_timeout")
        assert await outcomes(rig, 2) == ["response_timeout"] * 2
        await eventually(lambda: all(connection.ended for connection in rig.upstream.connections), what="both connections to go")


async def test_response_timeout_counts_from_the_end_of_the_request(tmp_path: Path):
    """An upload may take as long as it likes; an interim response is no answer."""
    async with serving(tmp_path, settings=short("UPSTREAM_RESPONSE_TIMEOUT")) as rig:

        async def hints(connection: ScriptedConnection, _: ReceivedRequest) -> None:
            await connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await connection.wait_ended()

        rig.reply = hints
        caller = await rig.caller()
        caller.send(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(SHORT_S / 4)
            caller.send(b"x")
        with Stopwatch():
            answer = await caller.answer(b"POST")
        check_problem(answer, "response_timeout")
        assert answer.interim == (103,)


@pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked", b"Connection: close"])
async def test_stream_idle_timeout_of_an_answer_aborts_it(tmp_path: Path, framing: bytes):
    async with serving(tmp_path, settings=short("STREAM_IDLE_TIMEOUT")) as rig:

        async def stalls(connection: ScriptedConnection, _: ReceivedRequest) -> None:
            await connection.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + (b"4\r\nhalf\r\n" if b"chunked" in framing else b"half"))
            await connection.wait_ended()

        rig.reply = stalls
        caller = await rig.caller()
        caller.send(GET)
        await caller.peer.read_until(b"half")
        with Stopwatch():
            assert await caller.closed() == "reset"
        assert await outcomes(rig, 1) == ["upstream_aborted"]
        assert rig.upstream.connections[0].ended in ("eof", "reset")


async def test_stream_idle_timeout_of_a_request_body_is_408(tmp_path: Path):
    async with serving(tmp_path, settings=short("STREAM_IDLE_TIMEOUT")) as rig:
        caller = await rig.caller()
        with Stopwatch():
            caller.send(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\nhalf")
            check_problem(await caller.answer(b"POST"), "request_timeout", "body")
        assert rig.seen == []
        assert await outcomes(rig, 1) == ["request_timeout"]
        await eventually(lambda: rig.upstream.connections[0].ended, what="the upstream to see an abort")


async def test_an_interim_response_takes_nothing_from_the_idle_timeout_of_a_request_body(tmp_path: Path):
    async with serving(tmp_path, settings=short("STREAM_IDLE_TIMEOUT")) as rig:

        async def hinting(connection: ScriptedConnection) -> None:
            await connection.read_until(b"some")
            await connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await connection.wait_ended()

        rig.upstream.script = hinting
        caller = await rig.caller()
        caller.send(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nsome")
        with Stopwatch():
            answer = await caller.answer(b"POST")
        assert answer.interim == (103,)
        check_problem(answer, "request_timeout", "body")


async def test_stream_idle_timeout_of_a_caller_that_does_not_read(tmp_path: Path):
    async with serving(tmp_path, settings=short("STREAM_IDLE_TIMEOUT")) as rig:

        async def endless(connection: ScriptedConnection, _: ReceivedRequest) -> None:
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            while True:
                await connection.send(bytes(65536))

        rig.reply = endless
        caller = await rig.caller()
        caller.peer.transport.pause_reading()
        caller.send(GET)
        assert await outcomes(rig, 1) == ["client_closed"]
        await eventually(lambda: rig.upstream.connections[0].ended, what="the upstream to be let go")
        caller.peer.transport.resume_reading()
        assert await caller.closed() == "reset"


async def test_stream_idle_timeout_of_a_tunnel_ends_it(tmp_path: Path):
    async with switched(tmp_path, b"echo", ROBIN_UPGRADE_PROTOCOLS="echo", **short("STREAM_IDLE_TIMEOUT")) as both:
        for _ in range(8):
            await asyncio.sleep(SHORT_S / 4)
            await both.origin.send(b".")
        await both.caller.read_exactly(8)
        with Stopwatch(), pytest.raises(PeerLeft):
            await both.caller.read_exactly(1)
        assert both.origin.ended in ("eof", "reset") or await both.origin.wait_ended()


async def test_a_tunnel_that_is_silent_from_its_start_is_not_cut_by_the_response_timeout(tmp_path: Path):
    async with switched(tmp_path, b"echo", ROBIN_UPGRADE_PROTOCOLS="echo", **short("UPSTREAM_RESPONSE_TIMEOUT")) as both:
        both.rig.reply = silent
        for _ in range(2):  # begun later, and over by the same timeout: the tunnel's answer came long ago
            check_problem(await both.rig.ask(GET), "response_timeout", "response_timeout")
        await both.origin.send(b".")
        assert await both.caller.read_exactly(1) == b"."


async def test_stream_idle_timeout_of_a_tunnel_that_never_moved_ends_it(tmp_path: Path):
    settings = {"ROBIN_UPSTREAM_RESPONSE_TIMEOUT": "0", **short("STREAM_IDLE_TIMEOUT")}
    async with switched(tmp_path, b"echo", ROBIN_UPGRADE_PROTOCOLS="echo", **settings) as both:
        with Stopwatch(), pytest.raises(PeerLeft):
            await both.caller.read_exactly(1)
        assert both.origin.ended in ("eof", "reset") or await both.origin.wait_ended()


async def test_none_of_them_cuts_an_answer_or_an_upload_that_moves(tmp_path: Path):
    """Every timeout at a second; both streams move each 0.1 s and last more than twice as long, at once."""
    names = (
        "HEADER_TIMEOUT KEEPALIVE_TIMEOUT UPSTREAM_CONNECT_TIMEOUT UPSTREAM_RESPONSE_TIMEOUT UPSTREAM_IDLE_TIMEOUT UPSTREAM_QUEUE_TIMEOUT"
    )
    settings = {f"ROBIN_{name}": "1s" for name in (names + " STREAM_IDLE_TIMEOUT IDENTITY_WAIT").split()}
    settings["ROBIN_UPSTREAM_MAX_CONNECTIONS"] = "2"
    pieces = 24
    async with serving(tmp_path, settings=settings) as rig:

        async def stream(connection: ScriptedConnection, request: ReceivedRequest) -> None:
            if request.method == b"POST":
                await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong")
                return
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(pieces):
                await asyncio.sleep(SHORT_S / 4)
                await connection.send(b"8\r\ndata: x\n\r\n")
            await connection.send(b"0\r\n\r\n")

        rig.reply = stream
        down, up = await rig.caller(), await rig.caller()
        down.send(GET)
        up.send(b"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(pieces):
            await asyncio.sleep(SHORT_S / 4)
            up.send(b"1\r\nx\r\n")
        up.send(b"0\r\n\r\n")
        answer = await up.answer(b"POST")
        assert (answer.status, answer.whole) == (200, True)
        answer = await down.answer()
        assert (answer.status, answer.body, answer.whole) == (200, b"data: x\n" * pieces, True)
        assert await outcomes(rig, 2) == ["forwarded", "forwarded"]


async def test_identity_wait_is_the_longest_a_request_waits(tmp_path: Path):
    """The agent takes the question and does not answer it."""
    with socket.socket(socket.AF_UNIX) as agent:
        path = tmp_path / "agent.sock"
        agent.bind(str(path))
        agent.listen()
        settings = {"ROBIN_TOKEN_SOURCE": "jwtsvid", "ROBIN_AUDIENCE": "broker.example", "ROBIN_SPIFFE_SOCKET": f"unix://{path}"}
        async with launched(tmp_path, settings={**settings, **short("IDENTITY_WAIT")}) as rig:
            await rig.robin.listening()
            with Stopwatch():
                check_problem(await rig.ask(GET), "identity_unavailable")
            assert rig.bytes_seen == 0
