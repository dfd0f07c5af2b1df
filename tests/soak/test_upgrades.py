"""G6: ten thousand upgrades, opened and closed from either side in every way, leave no task, no socket and no memory behind.

The sidecar runs in this process, so that its tasks can be counted; callers and upstream are bare connections.
"""

import asyncio
import base64
import gc
import hashlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.soak.frames import BINARY, CLOSE, frame, read_frame
from tests.soak.wire import Wire, connect

from robin.app.sidecar import sidecar_runtime
from robin.config.load import Loaded, load
from robin.testing.authority import IdentityAuthority
from robin.testing.connection import PeerLeft
from robin.testing.waiting import eventually
from robin.transport.tasks import TaskOwner

WARM_UP = 600
AT_ONCE = 20
BLOCKS_PER_CYCLE = 0.02
BLOCKS_OF_NOISE = 1000
KEY = base64.b64encode(b"sixteen bytes...")
ACCEPT = base64.b64encode(hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %b\r\n\r\n" % ACCEPT
WAYS = (b"caller-fin", b"caller-reset", b"caller-close", b"upstream-fin", b"upstream-reset", b"upstream-close")


class Echo:
    """An upstream that switches, echoes one message, and then ends the connection as its target says."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.served = 0
        self._tasks = TaskOwner(lambda _, error: self.failures.append(error))

    @property
    def busy(self) -> int:
        return len(self._tasks)

    def connection(self) -> Wire:
        return Wire(self._accept, keep_bytes=0)

    def _accept(self, wire: object) -> None:
        assert isinstance(wire, Wire)
        self._tasks.start(self._serve(wire), "echo")

    async def _serve(self, wire: Wire) -> None:
        try:
            head = await wire.read_until(b"\r\n\r\n")
            way = bytes(head).split(b" ", 2)[1].lstrip(b"/")
            await wire.send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %b\r\n\r\n"
                % ACCEPT
            )
            opcode, payload = await read_frame(wire)
            await wire.send(frame(opcode, payload))
            self.served += 1
            await self._end(wire, way)
        except PeerLeft:
            pass
        finally:
            wire.transport.close()

    async def _end(self, wire: Wire, way: bytes) -> None:
        if way == b"upstream-reset":
            await read_frame(wire)  # the caller has its echo
            await wire.reset()
        elif way == b"upstream-close":
            await wire.send(frame(CLOSE, b""))
            assert (await read_frame(wire))[0] == CLOSE
        elif way == b"caller-close":
            assert (await read_frame(wire))[0] == CLOSE
            await wire.send(frame(CLOSE, b""))
        elif way != b"upstream-fin":
            await wire.wait_ended()


async def cycle(port: int, way: bytes) -> None:
    """One upgrade, one message there and back, and the end."""
    wire = await connect("127.0.0.1", port)
    await wire.send(
        b"GET /%b HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: %b\r\n\r\n" % (way, KEY)
    )
    assert (await wire.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    await wire.send(frame(BINARY, way, b"mask"))
    assert await read_frame(wire) == (BINARY, way)
    if way == b"caller-reset":
        await wire.reset()
    elif way == b"caller-fin":
        await wire.close()
    elif way == b"upstream-reset":
        await wire.send(frame(BINARY, b"", b"mask"))
        await wire.wait_ended()
    else:
        if way == b"caller-close":
            await wire.send(frame(CLOSE, b"", b"mask"))
        if way != b"upstream-fin":
            assert (await read_frame(wire))[0] == CLOSE
        if way == b"upstream-close":
            await wire.send(frame(CLOSE, b"", b"mask"))
        await wire.wait_ended()
    wire.transport.close()


async def cycles(port: int, count: int) -> None:
    """So many of them, some at a time, every way in turn."""
    turns = iter(range(count))

    async def worker() -> None:
        for turn in turns:
            await cycle(port, WAYS[turn % len(WAYS)])

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())


@asynccontextmanager
async def upgrading_sidecar(tmp_path: Path) -> AsyncIterator[tuple[int, Echo]]:
    """A sidecar in this process, in front of an Echo; its port."""
    token = tmp_path / "token"
    token.write_bytes(IdentityAuthority().service_account_token(audience="a"))
    echo = Echo()
    server = await asyncio.get_running_loop().create_server(echo.connection, "127.0.0.1", 0)
    loaded = load(
        {
            "ROBIN_UPSTREAM_URL": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
            "ROBIN_LISTEN_ADDR": "127.0.0.1:0",
            "ROBIN_ADMIN_ADDR": "off",
            "ROBIN_TOKEN_FILE": str(token),
        },
        {},
    )
    assert isinstance(loaded, Loaded)
    with (tmp_path / "log").open("wb") as log:
        runtime = sidecar_runtime(loaded.settings, {}, log_fd=log.fileno())
        serving = asyncio.create_task(runtime.serve())
        await eventually(lambda: runtime.started, what="the sidecar")
        yield int(runtime.listening[0].rpartition(":")[2]), echo
        runtime.begin_drain()
        assert await serving == 0
        await runtime.close()
    server.close()
    assert echo.failures == []


def left_over(look: Callable[[], int], before: int) -> Callable[[], bool]:
    """Whether no more is there than before."""
    return lambda: look() <= before


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def tasks() -> int:
    return len(asyncio.all_tasks())


def blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(400)
async def test_g6_upgrades_that_open_and_close_leave_no_task_no_socket_and_no_memory(tmp_path: Path, count: int) -> None:
    async with upgrading_sidecar(tmp_path) as (port, echo):
        at_ease = tasks(), descriptors()
        await cycles(port, WARM_UP)
        await eventually(lambda: echo.busy == 0, what="the upstream's connections to end")
        held = blocks()
        await cycles(port, count)
        await eventually(lambda: echo.busy == 0, what="the upstream's connections to end")
        await eventually(left_over(tasks, at_ease[0]), what="tasks to be as few as before")
        await eventually(left_over(descriptors, at_ease[1]), what="descriptors to be as few as before")
        assert echo.served == WARM_UP + count
        assert blocks() - held <= count * BLOCKS_PER_CYCLE + BLOCKS_OF_NOISE
    records = (tmp_path / "log").read_text().count('"event":"exchange"')
    assert records == WARM_UP + count
