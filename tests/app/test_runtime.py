"""A sidecar's whole life inside this process, where what it leaves behind can be counted; what a user sees of it is in tests/journeys."""

import asyncio
import contextlib
import gc
import inspect
import os
import resource
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import uvloop
from tests.corpus.rig import unsigned_token
from tests.descriptors import no_descriptor_left

from robin.app import activation, plane, runtime, shutdown
from robin.app.runtime import live
from robin.app.sidecar import build_sidecar, runtime_settings, sidecar_runtime
from robin.config.load import Loaded, load
from robin.config.settings import SidecarSettings
from robin.proxy import admission
from robin.testing.waiting import eventually

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def settings(folder: Path, **more: str) -> SidecarSettings:
    (folder / "token").write_bytes(unsigned_token())
    loaded = load(
        {
            "ROBIN_UPSTREAM_URL": "http://127.0.0.1:9",
            "ROBIN_LISTEN_ADDR": "127.0.0.1:0",
            "ROBIN_ADMIN_ADDR": "127.0.0.1:0",
            "ROBIN_TOKEN_FILE": str(folder / "token"),
            **more,
        },
        {},
    )
    assert isinstance(loaded, Loaded), loaded
    return loaded.settings


def held() -> tuple[list[str], set[str]]:
    """Open descriptors by what they are, and threads by name; garbage, of other tests too, holds none."""
    gc.unfreeze()
    gc.collect()
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return sorted(found), {thread.name for thread in threading.enumerate()}


@pytest.fixture(autouse=True)
def _warm() -> None:
    """libuv makes a pipe for signals at its first loop and keeps it for the life of the process."""
    uvloop.new_event_loop().close()


async def respond_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(RESPONSE)
    writer.close()


async def ask(port: int) -> bytes:
    """One request on a connection that stays open and is then left."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GET)
    got = await reader.readexactly(len(RESPONSE))
    writer.transport.abort()
    return got


async def test_a_lack_of_descriptors_while_it_is_built_is_reported_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    chosen = settings(tmp_path)
    with no_descriptor_left():
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        code = await live(runtime_settings(chosen), partial(build_sidecar, chosen), environ)
    assert code == shutdown.EXIT_FAILED
    assert capsys.readouterr().err == "robin: cannot start: Too many open files\n"


def test_a_whole_life_leaves_no_descriptor_thread_or_task_behind(tmp_path: Path):
    async def live(log: int) -> None:
        server = await asyncio.start_server(respond_for_ever, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        life = sidecar_runtime(settings(tmp_path, ROBIN_UPSTREAM_URL=url), {}, log_fd=log)
        serving = asyncio.ensure_future(life.serve())
        await eventually(lambda: life.started, what="the start")
        port = int(life.listening[0].rpartition(":")[2])
        assert (await ask(port))[:12] == RESPONSE[:12]
        half = await asyncio.open_connection("127.0.0.1", port)
        half[1].write(GET[:10])
        life.begin_drain()
        life.begin_drain()
        half[1].write(GET[10:])
        assert await serving == shutdown.EXIT_DRAINED
        await life.close()
        half[1].transport.abort()
        server.close()
        for _ in range(10):
            await asyncio.sleep(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert {task.get_coro().__qualname__ for task in others} <= {"respond_for_ever"}
        for task in others:
            task.cancel()

    before = held()
    with (tmp_path / "log").open("wb") as log, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live(log.fileno()))
    assert held() == before


@pytest.mark.parametrize("taken", ["ROBIN_ADMIN_ADDR", "ROBIN_LISTEN_ADDR"])
def test_a_start_that_fails_half_way_closes_what_it_opened(tmp_path: Path, taken: str, capsys: pytest.CaptureFixture[str]):
    before = held()
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        (tmp_path / "log").open("wb") as log,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        chosen = settings(tmp_path, **{taken: f"127.0.0.1:{other.getsockname()[1]}"})
        code = runner.run(live(runtime_settings(chosen), partial(build_sidecar, chosen), {}, log_fd=log.fileno()))
        assert code == shutdown.EXIT_BIND
    assert capsys.readouterr().err.startswith(f"robin: {taken}: 127.0.0.1:")
    assert held() == before


@pytest.mark.parametrize("module", [activation, admission, plane, runtime, shutdown], ids=lambda module: module.__name__)
def test_what_all_planes_share_names_no_setting_and_no_plane(module: ModuleType):
    source = inspect.getsource(module)
    assert "ROBIN_" not in source
    assert "sidecar" not in source.lower()


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_limit():
    """In a process of its own, since a limit of this one would hold for the other tests too."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    code = (
        "import resource, sys\n"
        "hard = int(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "from robin.app.runtime import raise_descriptor_limit\n"
        "raise_descriptor_limit()\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    for granted in (80, min(hard, 4096) if hard > 0 else 4096):
        printed = subprocess.run([sys.executable, "-c", code, str(granted)], capture_output=True, text=True, check=True).stdout
        assert printed == f"{granted} {granted}\n"
