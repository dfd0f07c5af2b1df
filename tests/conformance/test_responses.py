"""Items E3-E10 of the sidecar spec at socket level: streams, back-pressure, callers that leave, early answers, idle limits."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conformance.parts import half_close, leave, record_of, reset, scripted
from tests.corpus.judge import SENTINEL
from tests.corpus.process_stats import resident_bytes, resident_bytes_at_rest
from tests.corpus.rig import SOON_S, Caller, Rig, running, unsigned_token

from robin.testing.connection import PeerLeft, ScriptedConnection
from robin.testing.process import SidecarProcess
from robin.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
GIB = 1 << 30


FRAMINGS = {
    "chunked": (b"Transfer-Encoding: chunked\r\n\r\n", lambda event: b"%x\r\n%b\r\n" % (len(event), event)),
    "length": (b"Content-Length: 1800\r\n\r\n", lambda event: event),
    "close": (b"\r\n", lambda event: event),
}


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_e4_head_and_each_event_arrive_without_a_further_write(rig: Rig, framing: str) -> None:
    lines, framed = FRAMINGS[framing]
    go: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(STREAM + lines)
        for _ in range(100):
            await connection.send(framed(await go.get()))
        if framing == "chunked":
            await connection.send(b"0\r\n\r\n")

    await rig.flush()
    with scripted(rig, script):
        caller = await rig.caller()
        caller.send(GET)
        head = await caller.peer.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        took_s = []
        for number in range(100):
            event = b"data: event %04d\n\n" % number
            began = time.monotonic()
            go.put_nowait(event)
            await caller.peer.read_until(event)
            took_s.append(time.monotonic() - began)
        await caller.leave()
    assert sorted(took_s)[50] < 0.05, sorted(took_s)


UNENDING = [b"Content-Length: 10000000000\r\n\r\n", b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n2540be400\r\n"]
PER_DIRECTION = 256 << 10
PER_EXCHANGE = 96 << 10  # two connections, their page-wise share of the heap, its holes: 190 to 330 KiB were seen in all


@pytest.mark.parametrize("framing", UNENDING, ids=["length", "close", "chunked"])
async def test_e5_callers_that_stop_reading_hold_little_and_push_the_upstream_back(rig: Rig, framing: bytes) -> None:
    sent: list[ScriptedConnection] = []

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        sent.append(connection)
        connection.transport.set_write_buffer_limits(high=1 << 16)
        await connection.send(STREAM + framing)
        while True:
            await connection.send(b"x" * 65536)

    async def growth(count: int) -> int:
        sent.clear()
        await rig.flush()
        callers = [await rig.caller() for _ in range(count)]
        before = await resident_bytes_at_rest(rig.robin.pid)
        with scripted(rig, script):
            for caller in callers:
                caller.peer.transport.pause_reading()
                caller.send(GET)
            await _stands_still(lambda: sum(connection.sent_count for connection in sent))
            assert len(sent) == count
        grown = resident_bytes(rig.robin.pid) - before
        for caller in callers:
            caller.peer.transport.abort()
        await eventually(lambda: all(connection.ended for connection in sent), what="the upstream connections to end")
        return grown

    few, many = await growth(8), await growth(48)
    assert (many - few) / 40 <= PER_DIRECTION + PER_EXCHANGE, f"{(many - few) // 40} bytes a stalled stream"


async def test_what_stalled_streams_held_goes_back_to_the_system_when_they_end(rig: Rig) -> None:
    before = await resident_bytes_at_rest(rig.robin.pid)
    sent: list[ScriptedConnection] = []

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        sent.append(connection)
        connection.transport.set_write_buffer_limits(high=1 << 16)
        await connection.send(STREAM + b"\r\n")
        while True:
            await connection.send(b"x" * 65536)

    callers = [await rig.caller() for _ in range(48)]
    with scripted(rig, script):
        for caller in callers:
            caller.peer.transport.pause_reading()
            caller.send(GET)
        await _stands_still(lambda: sum(connection.sent_count for connection in sent))
        held = resident_bytes(rig.robin.pid) - before
        for caller in callers[:-1]:
            caller.peer.transport.abort()  # the last one stays: what it holds lies above or amid what the others held
        await eventually(lambda: sum(connection.ended is None for connection in sent) == 1, what="the upstream connections to end")
        left = await resident_bytes_at_rest(rig.robin.pid) - before
        callers[-1].peer.transport.abort()
    assert held > 8 << 20
    assert left < held // 4


async def _stands_still(count: Callable[[], int]) -> int:
    last = -1

    def still() -> bool:
        nonlocal last
        now = count()
        same, last = now == last and now > 0, now
        return same

    await eventually(still, timeout_s=60.0, every_s=0.4, what="the sender to be pushed back")
    return last


def _push(callers: list[socket.socket], block: bytes) -> int:
    """Send to each what its kernel takes now; how many bytes that were."""
    pushed = 0
    for caller in callers:
        with contextlib.suppress(BlockingIOError):
            while True:
                pushed += caller.send(block)
    return pushed


async def test_e5_uploads_that_the_upstream_does_not_read_hold_little_and_push_the_callers_back(rig: Rig) -> None:
    stopped: list[ScriptedConnection] = []

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        connection.transport.pause_reading()
        stopped.append(connection)
        await go_on.wait()

    async def growth(count: int) -> int:
        stopped.clear()
        go_on.clear()
        await rig.flush()
        before, pushed = await resident_bytes_at_rest(rig.robin.pid), 0
        callers = [socket.create_connection(rig.address) for _ in range(count)]
        block = bytes(1 << 16)

        def push() -> int:
            nonlocal pushed
            pushed += _push(callers, block)
            return pushed

        with scripted(rig, script):
            for caller in callers:
                caller.sendall(b"POST /up HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n")
                caller.setblocking(False)
            assert await _stands_still(push) < count * (64 << 20)
            assert len(stopped) == count
        grown = resident_bytes(rig.robin.pid) - before
        for caller in callers:
            caller.close()
        go_on.set()
        await eventually(lambda: all(connection.ended for connection in stopped), what="the upstream connections to end")
        return grown

    go_on = asyncio.Event()
    few, many = await growth(8), await growth(48)
    assert (many - few) / 40 <= PER_DIRECTION + PER_EXCHANGE, f"{(many - few) // 40} bytes a stalled upload"


def _serve_gigabyte(listener: socket.socket, *, upload: bool) -> None:
    peer, _ = listener.accept()
    with peer:
        head = b""
        while b"\r\n\r\n" not in head:
            head += peer.recv(65536)
        if upload:
            got, buffer = len(head.partition(b"\r\n\r\n")[2]), bytearray(1 << 20)
            while got < GIB:
                got += peer.recv_into(buffer)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong")
        else:
            peer.sendall(STREAM + b"Content-Length: %d\r\n\r\n" % GIB)
            block = bytes(1 << 20)
            for _ in range(GIB >> 20):
                peer.sendall(block)


def _ask_gigabyte(address: tuple[str, int], *, upload: bool) -> int:
    with socket.create_connection(address) as caller:
        if upload:
            caller.sendall(b"POST /up HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % GIB)
            block = bytes(1 << 20)
            for _ in range(GIB >> 20):
                caller.sendall(block)
        else:
            caller.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        got, buffer = 0, bytearray(1 << 20)
        while taken := caller.recv_into(buffer):
            got += taken
        return got


@pytest.mark.slow
@pytest.mark.parametrize("upload", [False, True], ids=["down", "up"])
async def test_e5_a_gigabyte_passes_with_less_than_16_mib_of_growth(tmp_path: Path, *, upload: bool) -> None:
    token_file = tmp_path / "token"
    token_file.write_bytes(unsigned_token())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve_gigabyte, args=(listener,), kwargs={"upload": upload})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with SidecarProcess(upstream_url=url, settings={"ROBIN_TOKEN_FILE": str(token_file)}) as robin:
            await robin.started()
            before, most = resident_bytes(robin.pid), 0
            host, _, port = robin.listen[0].rpartition(":")
            asking = asyncio.ensure_future(asyncio.to_thread(_ask_gigabyte, (host, int(port)), upload=upload))
            while not asking.done():
                most = max(most, resident_bytes(robin.pid))
                await asyncio.wait([asking], timeout=0.05)
            got = await asking
        thread.join(10.0)
    assert got > (100 if upload else GIB) - 100
    assert most - before < 16 << 20


@pytest.mark.parametrize("end", [half_close, reset, leave])
@pytest.mark.parametrize(
    "said", [b"", STREAM + b"Content-Length: 100\r\n\r\nhello", STREAM + b"\r\nhello"], ids=["before-the-head", "in-length", "in-close"]
)
async def test_e6_a_caller_that_leaves_ends_the_upstream_connection_within_a_second(rig: Rig, said: bytes, end: object) -> None:
    ended: asyncio.Queue[str] = asyncio.Queue()
    asked = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        if said:
            await connection.send(said)
        asked.set()
        ended.put_nowait(await connection.wait_ended())

    await rig.flush()
    records = len([entry for entry in rig.robin.events if entry.get("path") == "/x"])
    with scripted(rig, script):
        caller = await rig.caller()
        caller.send(GET)
        await asked.wait()
        if said:
            await caller.peer.read_until(b"hello")
        await end(caller)  # type: ignore[operator]
        assert await asyncio.wait_for(ended.get(), SOON_S) in {"eof", "reset"}
        caller.peer.transport.abort()
    assert (await record_of(rig, "/x", records + 1))["outcome"] == "client_closed"


async def _unfinished_upload(rig: Rig, declared: int, sent: int) -> Caller:
    caller = await rig.caller()
    caller.send(b"POST /up HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % declared + b"x" * sent)
    return caller


@pytest.mark.parametrize(("declared", "sent"), [(1000, 10), (100 << 20, 8 << 20)], ids=["waiting", "flooding"])
async def test_e7_a_final_answer_during_the_upload_is_relayed_at_once_and_ends_both_connections(rig: Rig, declared: int, sent: int) -> None:
    ended: asyncio.Queue[ScriptedConnection] = asyncio.Queue()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        with contextlib.suppress(PeerLeft):
            await connection.wait_ended()
        ended.put_nowait(connection)

    await rig.flush()
    with scripted(rig, script):
        began = time.monotonic()
        caller = await _unfinished_upload(rig, declared, sent)
        answer = await caller.answer()
        assert time.monotonic() - began < SOON_S
        assert (answer.status, answer.body, answer.whole) == (413, b"no", True)
        assert answer.value(b"Connection") == b"close"
        await caller.closed()
        upstream = await asyncio.wait_for(ended.get(), SOON_S)
        assert upstream.received_count < 64 << 20
        await caller.leave()
    assert (await rig.ask(SENTINEL)).body == b"pong"


@pytest.mark.parametrize("surplus", [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", b"\r\n", b"x"])
async def test_e8_what_an_idle_upstream_connection_says_is_discarded_with_it(rig: Rig, surplus: bytes) -> None:
    await rig.flush()
    caller = await rig.caller()
    caller.send(GET)
    assert (await caller.answer()).body == b"pong"
    upstream = rig.seen[-1][0]
    await upstream.send(surplus)
    assert await upstream.wait_ended() in {"eof", "reset"}
    caller.send(GET)
    assert (await caller.answer()).body == b"pong"
    assert rig.seen[-1][0] is not upstream
    await caller.leave()


async def test_e10_a_heartbeat_keeps_a_stream_alive_and_silence_ends_it(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"ROBIN_STREAM_IDLE_TIMEOUT": "1s"}) as rig:
        silent = asyncio.Event()

        async def script(connection: ScriptedConnection) -> None:
            await connection.read_request()
            await connection.send(STREAM + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(8):
                await asyncio.sleep(0.3)  # the heartbeat itself is what is tested
                await connection.send(b"1\r\n.\r\n")
            silent.set()
            await connection.wait_ended()

        with scripted(rig, script):
            caller = await rig.caller()
            caller.send(GET)
            answering = asyncio.ensure_future(caller.answer(deadline_s=20.0))
            await silent.wait()
            began = time.monotonic()
            answer = await answering
            took_s = time.monotonic() - began
        assert answer.body == b"." * 8
        assert not answer.whole
        assert 0.8 <= took_s <= SOON_S
        assert (await record_of(rig, "/x"))["outcome"] == "upstream_aborted"


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
async def test_e3_a_reset_inside_a_close_delimited_body_is_never_taken_for_its_end(rig: Rig, version: bytes) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(STREAM + b"\r\nhello")
        await got.wait()
        await connection.reset()

    got = asyncio.Event()
    await rig.flush()
    with scripted(rig, script):
        caller = await rig.caller()
        caller.send(b"GET /x " + version + b"\r\nHost: localhost\r\n\r\n")
        await caller.peer.read_until(b"hello")
        got.set()
        ended = await caller.closed()
    assert ended == "reset" or (version == b"HTTP/1.1" and b"0\r\n\r\n" not in caller.rest)


async def test_e2_answers_without_a_body_leave_the_connection_in_step(rig: Rig) -> None:
    bare = {
        b"/head": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        b"/204": b"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n",
        b"/304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    }

    async def script(connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            await connection.send(bare.get(request.target, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong"))

    await rig.flush()
    with scripted(rig, script):
        caller = await rig.caller()
        for method, target, length in ((b"HEAD", b"/head", b"1000"), (b"GET", b"/204", None), (b"GET", b"/304", b"9")):
            caller.send(method + b" " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET)
            bodiless = await caller.answer(method)
            assert bodiless.body == b""
            assert bodiless.value(b"Content-Length") == length
            assert (await caller.answer()).body == b"pong"
        await caller.leave()
