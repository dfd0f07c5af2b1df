"""Connections to the upstream: kept while certainly alive, waited for in order, and what older upstreams do (J2, J6, J7)."""

import asyncio
from pathlib import Path

import pytest
from tests.corpus.judge import check_problem
from tests.corpus.rig import PONG, Caller, Rig
from tests.journeys.life import GET, exchanges, metric, serving

from robin.testing.connection import ScriptedConnection
from robin.testing.message import ReceivedRequest
from robin.testing.waiting import eventually


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def replying(raw: bytes, *, close: bool = False):
    async def reply(connection: ScriptedConnection, _: ReceivedRequest) -> None:
        await connection.send(raw)
        if close:
            await connection.close()

    return reply


@pytest.mark.parametrize(
    ("announced", "settings", "kept_s"),
    [
        (b"", {}, 4.0),
        (b"Keep-Alive: timeout=3\r\n", {}, 2.0),
        (b"Keep-Alive: timeout=1, max=100\r\n", {}, 1.0),
        (b"Keep-Alive: timeout=30\r\n", {"ROBIN_UPSTREAM_IDLE_TIMEOUT": "500ms"}, 0.5),
    ],
)
async def test_j2_an_idle_connection_is_kept_so_long(tmp_path: Path, announced: bytes, settings: dict[str, str], kept_s: float):
    """29 s for `timeout=30` is in tests/transport/test_pool.py."""
    async with serving(tmp_path, settings=settings) as rig:
        rig.reply = replying(b"HTTP/1.1 200 OK\r\n" + announced + b"Content-Length: 4\r\n\r\npong")
        assert (await rig.ask(GET)).status == 200
        began = asyncio.get_running_loop().time()
        assert await metric(rig.robin, "robin_upstream_connections", state="idle") == 1
        await eventually(lambda: rig.upstream.connections[0].ended, what="the idle connection to be closed")
        assert kept_s - 0.1 < asyncio.get_running_loop().time() - began < kept_s + 3
        assert await metric(rig.robin, "robin_upstream_connections", state="idle") == 0


@pytest.mark.parametrize("stray", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
async def test_j2_an_idle_connection_that_speaks_is_never_used_again(tmp_path: Path, stray: bytes):
    async with serving(tmp_path) as rig:
        assert (await rig.ask(GET)).status == 200
        first = rig.upstream.connections[0]
        await first.send(stray)
        await eventually(lambda: first.ended, what="the connection to be discarded")
        answer = await rig.ask(GET)
        assert (answer.status, answer.body, answer.left) == (200, b"pong", b"")
        assert len(rig.upstream.connections) == 2


async def test_j2_an_idle_connection_that_ended_is_never_used_again(tmp_path: Path):
    post = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
    async with serving(tmp_path) as rig:
        for connections, ending in ((2, ScriptedConnection.close), (3, ScriptedConnection.reset)):
            assert (await rig.ask(GET)).status == 200
            await ending(rig.upstream.connections[-1])
            await eventually(lambda: _idle_is(rig, 0), what="Robin to notice")
            assert (await rig.ask(post, b"POST")).status == 200
            assert len(rig.upstream.connections) == connections
        await eventually(lambda: len(exchanges(rig)) == 4, what="the records")
        assert [record["retries"] for record in exchanges(rig)] == [0] * 4, "no retry was needed"


async def _idle_is(rig: Rig, count: int) -> bool:
    return await metric(rig.robin, "robin_upstream_connections", state="idle") == count


@pytest.mark.parametrize(
    ("raw", "close", "reused"),
    [
        (b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\npong", False, False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\npong", False, True),
        (b"HTTP/1.0 200 OK\r\n\r\npong", True, False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\npong", False, False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\npong", True, False),
        (PONG, False, True),
    ],
)
async def test_j7_old_and_closing_upstreams_work(tmp_path: Path, raw: bytes, close: bool, reused: bool):
    async with serving(tmp_path) as rig:
        rig.reply = replying(raw, close=close)
        caller = await rig.caller()
        for _ in range(3):
            caller.send(GET)
            answer = await caller.answer()
            assert (answer.status, answer.body, answer.whole) == (200, b"pong", True)
        assert len(rig.upstream.connections) == (1 if reused else 3)


class Gate:
    """An upstream that answers a path when told to."""

    def __init__(self) -> None:
        self.open: dict[bytes, asyncio.Event] = {}
        self.order: list[bytes] = []

    async def __call__(self, connection: ScriptedConnection, request: ReceivedRequest) -> None:
        self.order.append(request.target)
        await self.gate(request.target).wait()
        await connection.send(PONG)

    def gate(self, path: bytes) -> asyncio.Event:
        return self.open.setdefault(path, asyncio.Event())


async def asking(rig: Rig, path: str) -> Caller:
    caller = await rig.caller()
    caller.send(get(path))
    return caller


async def test_j6_a_full_pool_is_waited_for_in_order(tmp_path: Path):
    async with serving(tmp_path, settings={"ROBIN_UPSTREAM_MAX_CONNECTIONS": "2"}) as rig:
        gate = rig.reply = Gate()
        callers = []
        for number in range(6):
            callers.append(await asking(rig, f"/{number}"))
            await eventually(lambda want=number + 1: _in_flight_is(rig, want), what="the request to be in the queue")
        assert gate.order == [b"/0", b"/1"]
        await callers[3].leave()
        await eventually(lambda: _in_flight_is(rig, 6), what="the others to wait on")
        for path in (b"/1", b"/0", b"/2"):
            gate.gate(path).set()
        for number in (0, 1, 2):
            assert (await callers[number].answer()).status == 200
        await eventually(lambda: len(gate.order) == 5, what="the rest")
        assert gate.order == [b"/0", b"/1", b"/2", b"/4", b"/5"], "in the order of their coming; who left is passed over"
        for path in (b"/4", b"/5"):
            gate.gate(path).set()
        for number in (4, 5):
            assert (await callers[number].answer()).status == 200
        assert len(rig.upstream.connections) <= 3  # two, and one more where the leaver's place was dialled for


async def _in_flight_is(rig: Rig, count: int) -> bool:
    return await metric(rig.robin, "robin_requests_in_flight") == count


@pytest.mark.parametrize(("timeout", "least_s"), [("700ms", 0.69), ("0", 0)])
async def test_j6_a_wait_that_lasts_too_long_is_503_and_leaves_the_rest_alone(tmp_path: Path, timeout: str, least_s: float):
    settings = {"ROBIN_UPSTREAM_MAX_CONNECTIONS": "1", "ROBIN_UPSTREAM_QUEUE_TIMEOUT": timeout}
    async with serving(tmp_path, settings=settings) as rig:
        gate = rig.reply = Gate()
        first = await asking(rig, "/first")
        await eventually(lambda: gate.order, what="the first request")
        began = asyncio.get_running_loop().time()
        answer = await rig.ask(get("/second"))
        check_problem(answer, "limit_connections", "queue")
        assert answer.value(b"Retry-After") == b"1"
        assert least_s <= asyncio.get_running_loop().time() - began < least_s + 4
        gate.gate(b"/first").set()
        gate.gate(b"/third").set()
        assert (await first.answer()).status == 200
        assert (await rig.ask(get("/third"))).status == 200
        assert gate.order == [b"/first", b"/third"]
        assert len(rig.upstream.connections) == 1


async def test_j6_a_place_is_free_again_after_every_kind_of_end(tmp_path: Path):
    """A pool of one: each way an exchange can end must give its place back."""

    async def broken(connection: ScriptedConnection, _: ReceivedRequest) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await connection.close()

    endings = [replying(b"garbage\r\n\r\n"), replying(b"", close=True), broken, replying(PONG + b"more"), replying(PONG, close=True)]
    async with serving(tmp_path, settings={"ROBIN_UPSTREAM_MAX_CONNECTIONS": "1", "ROBIN_UPSTREAM_QUEUE_TIMEOUT": "20s"}) as rig:
        for ending in endings:
            rig.reply = ending
            await rig.ask(GET)
        gate = rig.reply = Gate()
        leaver = await asking(rig, "/left")
        await eventually(lambda: gate.order, what="the request")
        await leaver.leave()
        await rig.upstream.stop_listening()
        port = rig.upstream.port
        await eventually(lambda: _in_flight_is(rig, 0), what="the leaver to be noticed")
        check_problem(await rig.ask(GET), "connect_refused")
        await rig.upstream.start()
        assert rig.upstream.port == port
        gate.gate(b"/x").set()
        assert (await rig.ask(GET)).status == 200
        assert await metric(rig.robin, "robin_upstream_connections", state="active") == 0


async def test_j6_a_slow_upload_on_a_reused_connection_outlives_its_idle_time(tmp_path: Path):
    async with serving(tmp_path, settings={"ROBIN_UPSTREAM_IDLE_TIMEOUT": "500ms"}) as rig:
        assert (await rig.ask(GET)).status == 200
        caller = await rig.caller()
        caller.send(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\n")
        began = asyncio.get_running_loop().time()

        async def dripped() -> bool:  # a byte each poll, until the idle time is well over
            if asyncio.get_running_loop().time() - began < 1.5:
                return False
            caller.send(b"12345678")
            return True

        await eventually(dripped, every_s=0.1, what="the idle time to pass")
        assert (await caller.answer("POST")).status == 200
        assert len(rig.upstream.connections) == 1
