"""systemd's two protocols at a real notify socket and with really inherited sockets: notices in order, watchdog, activation (K8)."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.corpus.rig import unsigned_token
from tests.journeys.life import GET, activated, ask_unix, launched, probe, serving, shell, short_folder

from robin.testing.process import ROBIN
from robin.testing.waiting import eventually


class NotifySocket:
    """What the service manager would be told: each datagram, in order, as its lines."""

    def __init__(self, address: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self.notices: list[list[str]] = []

    def read(self) -> list[list[str]]:
        """All that came so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.notices.append(self._sock.recv(4096).decode().split("\n"))
        return self.notices

    def words(self) -> list[str]:
        """The first word of each notice."""
        return [lines[0] for lines in self.read()]

    def count(self, word: str) -> int:
        return self.words().count(word)

    def close(self) -> None:
        self._sock.close()


@pytest.fixture(params=["path", "abstract"])
def notify(request: pytest.FixtureRequest) -> Iterator[tuple[NotifySocket, dict[str, str]]]:
    with short_folder() as folder:
        address = f"{folder}/notify" if request.param == "path" else f"@robin-test-{os.getpid()}-{time.monotonic_ns()}"
        heard = NotifySocket(address)
        yield heard, {"NOTIFY_SOCKET": address}
        heard.close()


async def test_k8_ready_reloading_ready_stopping_in_order(tmp_path: Path, notify: tuple[NotifySocket, dict[str, str]]):
    heard, environ = notify
    async with launched(tmp_path, token=b"", settings=environ) as rig:
        await rig.robin.listening()
        rig.robin.send_signal(signal.SIGHUP)
        await rig.robin.event("reload")
        assert heard.read() == [], "not ready without an identity, and a reload says nothing of it"
        rig.token_file.write_bytes(unsigned_token())
        await rig.robin.event("started")
        await eventually(lambda: heard.count("READY=1") == 1, what="READY")
        assert heard.notices[0] == ["READY=1", f"STATUS=serving on {rig.robin.listen[0]}"]
        asked_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        rig.robin.send_signal(signal.SIGHUP)
        await eventually(lambda: heard.count("READY=1") == 2, what="the end of the reload")
        told_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        reloading, ready = heard.notices[1:3]
        assert reloading[0] == "RELOADING=1"
        assert ready == ["READY=1"]
        name, _, value = reloading[1].partition("=")
        assert name == "MONOTONIC_USEC"
        assert asked_usec <= int(value) <= told_usec, "systemd ignores a reload that claims to be older than its signal"
        assert await rig.robin.stop() == 0
        assert heard.words() == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]


async def test_k8_the_watchdog_is_fed_by_the_loop_at_half_its_time_and_a_blocked_loop_feeds_it_no_more(
    tmp_path: Path, notify: tuple[NotifySocket, dict[str, str]]
):
    heard, environ = notify
    async with launched(tmp_path, settings={**environ, "WATCHDOG_USEC": "400000"}, program=_blocking_on_usr1(tmp_path)) as rig:
        await rig.robin.started()
        first = heard.count("WATCHDOG=1")
        began = asyncio.get_running_loop().time()
        await eventually(lambda: heard.count("WATCHDOG=1") >= first + 5, what="five signs of life")
        lasted_s = asyncio.get_running_loop().time() - began
        assert lasted_s > 0.7, "each 0.2 s, not more often"
        os.kill(rig.robin.pid, signal.SIGUSR1)
        await rig.robin.line("blocked")
        seen = heard.count("WATCHDOG=1")
        await asyncio.sleep(1)  # two and a half times the watchdog's time: nothing may come
        assert heard.count("WATCHDOG=1") == seen
        (tmp_path / "go-on").touch()
        await eventually(lambda: heard.count("WATCHDOG=1") > seen, what="a sign of life when the loop turns again")
        assert await rig.robin.stop() == 0


def _blocking_on_usr1(folder: Path) -> tuple[str, ...]:
    """Robin whose event loop stands still after SIGUSR1 until a file is there: a signal handler of Python runs in the loop's thread."""
    code = (
        "import os, signal, sys, time\n"
        "def block(*_):\n"
        "    print('blocked', flush=True)\n"
        f"    while not os.path.exists({str(folder / 'go-on')!r}): time.sleep(0.01)\n"
        "signal.signal(signal.SIGUSR1, block)\n"
        "from robin.cli.main import main\n"
        "sys.exit(main())\n"
    )
    return (ROBIN[0], "-c", code)


async def test_k8_the_watchdog_of_another_process_is_not_fed(tmp_path: Path, notify: tuple[NotifySocket, dict[str, str]]):
    heard, environ = notify
    async with serving(tmp_path, settings={**environ, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}) as rig:
        assert await rig.robin.stop() == 0
        assert heard.words() == ["READY=1", "STOPPING=1"]


async def test_k8_a_manager_that_does_not_listen_is_no_failure(tmp_path: Path):
    async with serving(tmp_path, settings={"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "100000"}) as rig:
        assert (await rig.ask(GET)).status == 200
        assert await rig.robin.stop() == 0


async def test_k8_activated_sockets_by_name_work_and_stay(tmp_path: Path):
    """A TCP and an admin socket in the wrong order: the names decide. After the exit both still stand, for the next start."""
    with short_folder() as folder, contextlib.ExitStack() as stack:
        admin = stack.enter_context(socket.socket(socket.AF_UNIX))
        admin.bind(f"{folder}/admin.sock")
        admin.listen()
        web = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        program, fds = activated(admin, web, names="robin-admin:robin-web")
        settings = {"ROBIN_LISTEN_ADDR": "systemd:robin-web", "ROBIN_ADMIN_ADDR": "systemd:robin-admin"}
        for _ in range(2):
            async with serving(tmp_path, settings=settings, program=program, pass_fds=fds) as rig:
                assert (rig.robin.listen, rig.robin.admin) == (("systemd:robin-web",), ("systemd:robin-admin",))
                rig.robin.listen = ("{}:{}".format(*web.getsockname()),)
                assert (await rig.ask(GET)).status == 200
                reader, writer = await asyncio.open_unix_connection(f"{folder}/admin.sock")
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
                writer.close()
                await writer.wait_closed()
                assert await rig.robin.stop() == 0
            assert stat.S_ISSOCK(os.lstat(f"{folder}/admin.sock").st_mode)
            with socket.create_connection(web.getsockname()):
                pass  # the kernel still queues callers


async def test_k8_an_activated_unix_socket_is_guarded_and_not_unlinked(tmp_path: Path):
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/robin.sock")
        listener.listen()
        program, fds = activated(listener, names="robin")
        settings = {"ROBIN_LISTEN_UDS": "systemd:robin", "ROBIN_PEERCRED_ALLOW_UIDS": str(os.getuid() + 1)}
        async with serving(tmp_path, settings=settings, program=program, pass_fds=fds) as rig:
            assert (await ask_unix(rig, folder / "robin.sock")).status == 403
        settings["ROBIN_PEERCRED_ALLOW_UIDS"] = str(os.getuid())
        async with serving(tmp_path, settings=settings, program=program, pass_fds=fds) as rig:
            assert (await ask_unix(rig, folder / "robin.sock")).status == 200
            rig.robin.send_signal(signal.SIGTERM)
            assert await rig.robin.returned() == 0
        assert (folder / "robin.sock").exists()


@pytest.mark.parametrize(
    ("settings", "names", "words"),
    [
        ({"ROBIN_LISTEN_ADDR": "systemd:web"}, "other", ("systemd:web was not passed", "FileDescriptorName=web")),
        ({}, "web", ("the passed socket web is not claimed", "ROBIN_LISTEN_ADDR=systemd:web")),
        ({"ROBIN_LISTEN_ADDR": "systemd:web"}, "web:more", ("LISTEN_FDNAMES does not name each socket",)),
        (
            {"ROBIN_LISTEN_UDS": "systemd:web", "ROBIN_PEERCRED_ALLOW_UIDS": "0"},
            "web",
            ("ROBIN_LISTEN_UDS: systemd:web is no Unix",),
        ),
    ],
)
async def test_k8_a_missing_unclaimed_or_misused_socket_is_exit_2(
    tmp_path: Path, settings: dict[str, str], names: str, words: tuple[str, ...]
):
    with socket.create_server(("127.0.0.1", 0)) as web:
        program, fds = activated(web, names=names)
        async with launched(tmp_path, settings=settings, program=program, pass_fds=fds) as rig:
            assert await rig.robin.returned() == 2
            (line,) = rig.robin.stderr
            assert all(word in line for word in words), line
            assert rig.robin.stdout == []


async def test_k8_a_unix_socket_for_the_tcp_listener_is_exit_2(tmp_path: Path):
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/robin.sock")
        listener.listen()
        program, fds = activated(listener, names="web")
        async with launched(tmp_path, settings={"ROBIN_LISTEN_ADDR": "systemd:web"}, program=program, pass_fds=fds) as rig:
            assert await rig.robin.returned() == 2
            assert "set ROBIN_LISTEN_UDS=systemd:web instead" in rig.robin.stderr[0]


async def test_k8_a_passed_socket_beyond_loopback_is_exit_2_without_the_switch(tmp_path: Path):
    with socket.create_server(("0.0.0.0", 0)) as web:
        program, fds = activated(web, names="web")
        settings = {"ROBIN_LISTEN_ADDR": "systemd:web"}
        async with launched(tmp_path, settings=settings, program=program, pass_fds=fds) as rig:
            assert await rig.robin.returned() == 2
            assert "listens on 0.0.0.0, which is not loopback" in rig.robin.stderr[0]
        async with serving(tmp_path, settings={**settings, "ROBIN_UNSAFE_LISTEN": "1"}, program=program, pass_fds=fds) as rig:
            rig.robin.listen = (f"127.0.0.1:{web.getsockname()[1]}",)
            assert (await rig.ask(GET)).status == 200


async def test_k8_sockets_for_another_process_are_not_ours(tmp_path: Path):
    settings = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}
    async with serving(tmp_path, settings=settings, program=shell("true")) as rig:
        assert (await probe(rig.robin, "/readyz"))[0] == 200
