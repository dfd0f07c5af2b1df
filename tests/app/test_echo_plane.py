"""A second plane runs in the same runtime, as a real process: what it shares with the sidecar it did not have to write."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.journeys.life import short_folder

from robin.app.shutdown import EXIT_BIND, EXIT_CUT, EXIT_DRAINED
from robin.testing.process import RobinProcess
from robin.testing.waiting import eventually

ECHO_PLANE = Path(__file__).with_name("echo_plane.py")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class EchoProcess(RobinProcess):
    """The echo plane, `listening()` on TCP and on a Unix socket."""

    def __init__(self, path: str, *, drain_max_s: float = 30.0) -> None:
        super().__init__(str(drain_max_s), path, program=(sys.executable, str(ECHO_PLANE)))
        self._connections: list[asyncio.StreamWriter] = []

    async def connect(self, kind: str = "tcp") -> Streams:
        tcp, unix = (await self.event("listening"))["listen"]
        opened = asyncio.open_connection("127.0.0.1", port_of(tcp)) if kind == "tcp" else asyncio.open_unix_connection(unix[5:])
        reader, writer = await opened
        self._connections.append(writer)
        return reader, writer

    async def page(self, path: str) -> tuple[int, bytes]:
        (admin,) = (await self.event("listening"))["admin"]
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(admin))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body

    def disconnect(self) -> None:
        for writer in self._connections:
            writer.transport.abort()


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


async def echo(streams: Streams, line: bytes = b"hello\n") -> bytes:
    reader, writer = streams
    writer.write(line)
    return await reader.readline()


@asynccontextmanager
async def echo_process(*, drain_max_s: float = 30.0) -> AsyncIterator[EchoProcess]:
    with short_folder() as folder:
        async with EchoProcess(f"{folder}/echo", drain_max_s=drain_max_s) as process:
            await process.event("started")
            yield process
            process.disconnect()


def test_the_plane_takes_fewer_than_sixty_lines():
    assert len(ECHO_PLANE.read_text().splitlines()) < 60


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_it_admits_and_serves(kind: str):
    async with echo_process() as process:
        assert await echo(await process.connect(kind)) == b"hello\n"


async def test_it_answers_probes_and_scrapes():
    async with echo_process() as process:
        await echo(await process.connect())
        assert await process.page("/healthz") == (200, b"ok\n")
        assert await process.page("/startupz") == await process.page("/readyz") == (200, b'{"status":"ready","reasons":[]}\n')
        status, metrics = await process.page("/metrics")
        assert status == 200
        assert b'robin_requests_in_flight{plane="echo"} 1\n' in metrics
        assert b'robin_drain_state{plane="echo"} 0\n' in metrics


async def test_it_refuses_a_connection_beyond_the_limit_and_serves_again_once_one_left():
    async with echo_process() as process:
        first, second = await process.connect("tcp"), await process.connect("unix")
        assert await echo(first) == await echo(second) == b"hello\n"
        reader, _ = await process.connect()
        assert await reader.read(-1) == b"connections: the limit of connections is reached"
        first[1].close()

        async def served() -> bool:
            try:
                return await echo(await process.connect()) == b"hello\n"
            except ConnectionError:
                return False

        await eventually(served, what="a connection after one left")


async def test_a_drain_ends_idle_connections_finishes_a_line_that_began_and_exits_with_0():
    async with echo_process() as process:
        idle, busy = await process.connect(), await process.connect("unix")
        assert await echo(idle) == await echo(busy) == b"hello\n"
        busy[1].write(b"hal")
        assert await echo(idle) == b"hello\n"  # so the process read the first bytes of the line
        process.send_signal(signal.SIGTERM)
        assert await idle[0].read(-1) == b""
        status, body = await process.page("/readyz")
        assert (status, json.loads(body)["reasons"]) == (503, ["draining"])
        assert await echo(busy, b"f\n") == b"half\n"
        assert await process.returned() == EXIT_DRAINED
        assert [entry["cut"] for entry in process.events if entry["event"] == "drained"] == [0]


async def test_a_line_that_does_not_end_is_cut_at_the_deadline_of_the_drain():
    async with echo_process(drain_max_s=0.2) as process:
        busy = await process.connect()
        assert await echo(busy) == b"hello\n"
        busy[1].write(b"hal")
        assert await echo(await process.connect()) == b"hello\n"
        process.send_signal(signal.SIGTERM)
        assert await process.returned() == EXIT_CUT


async def test_a_second_signal_ends_it_at_once():
    async with echo_process() as process:
        busy = await process.connect()
        assert await echo(busy) == b"hello\n"
        busy[1].write(b"hal")
        assert await echo(await process.connect()) == b"hello\n"
        process.send_signal(signal.SIGTERM)
        await process.event("draining")
        process.send_signal(signal.SIGINT)
        assert await process.returned() == 128 + signal.SIGINT


async def test_an_address_that_is_taken_ends_the_start():
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{folder}/echo")
        other.listen()
        async with EchoProcess(f"{folder}/echo") as process:
            assert await process.returned() == EXIT_BIND
        assert process.stderr[0].startswith("robin: listen: unix:")
