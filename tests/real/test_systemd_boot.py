"""The shipped unit under a real systemd that is process 1: readiness, reload, watchdog, socket activation, drain, confinement.

The systemd is Debian's own (parts/systemd_root.py), the machine is made of namespaces (parts/systemd_machine.py). Units and settings are
those of deploy/systemd, but for the upstream's address; the Workload API is ours, at the path that robin.env names.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h11
import pytest
from tests.deploy.unit import SYSTEMD
from tests.real.parts.guarded import AUDIENCE, Exchange, GuardedServer
from tests.real.parts.load import Answer, ask
from tests.real.parts.systemd_machine import UNITS, SystemdMachine, systemd_machine

from robin.model.secret import Secret
from robin.testing.authority import IdentityAuthority
from robin.testing.waiting import eventually
from robin.testing.workload_api import Outcome, WorkloadApi, answer_never
from robin.wire.workload_api import JwtSvid, JwtSvidRequest

pytestmark = pytest.mark.real

ROBIN, SOCKET = "robin.service", "robin.socket"
URL = "http://127.0.0.1:4000"  # a machine has its own loopback, so the shipped ports are free
AGENT = "/run/spire/sockets/agent.sock"
RESTORED_S = 60.0
CALLERS = 8
ACTIVE = {"ActiveState": "active", "SubState": "running"}
DYNAMIC_UIDS = range(61184, 65520)  # systemd's own range
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "run-with-systemd.md"
APPLICATION = """
[Unit]
Requires=robin.service
After=robin.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/true
"""
ASK_UNIX = (
    "import socket, sys\n"
    "with socket.socket(socket.AF_UNIX) as caller:\n"
    "    caller.settimeout(20)\n"
    "    caller.connect(sys.argv[1])\n"
    "    caller.sendall(b'GET /unix HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n')\n"
    "    print(caller.makefile('rb').readline().split()[1].decode())\n"
)


@dataclass(slots=True, kw_only=True)
class Host:
    """A machine with Robin installed and not yet started, an agent that knows it, and an upstream that verifies every token."""

    machine: SystemdMachine
    agent: WorkloadApi
    upstream: GuardedServer
    authority: IdentityAuthority
    held: asyncio.Event = field(default_factory=asyncio.Event)
    known: asyncio.Event = field(default_factory=asyncio.Event)

    async def identify(self, _request: JwtSvidRequest) -> Outcome:
        """The agent's answer, once it knows Robin."""
        await self.known.wait()
        svid = self.authority.jwt_svid(audience=AUDIENCE, path="/host/robin")
        return (JwtSvid(spiffe_id="spiffe://robin.test/host/robin", svid=Secret(svid)),)

    def settle(self, settings: Mapping[str, str]) -> None:
        """The shipped robin.env with these lines changed, or added."""
        text = (SYSTEMD / "robin.env").read_text()
        for name, value in settings.items():
            text = re.sub(rf"^{name}=.*\n", "", text, flags=re.MULTILINE) + f"{name}={value}\n"
        self.machine.write("/etc/robin/robin.env", text, mode=0o600)

    async def drop_in(self, unit: str, text: str) -> None:
        """What `systemctl edit` does."""
        self.machine.write(UNITS / f"{unit}.d" / "override.conf", text)
        await self.machine.systemctl("daemon-reload")

    async def main_pid(self) -> int:
        """Robin, as the machine numbers it."""
        return int((await self.machine.show(ROBIN, "MainPID"))["MainPID"])

    async def route(self, exchange: Exchange) -> None:
        """Say what came; /held waits for the test."""
        body = await exchange.hash_body()
        if exchange.path == "/held":
            await self.held.wait()
        await exchange.tell({"target": exchange.seen.target, "body": body["sha256"]})


async def _nothing(_exchange: Exchange) -> None:
    raise AssertionError("no route was given")


@contextlib.asynccontextmanager
async def installed(machine: SystemdMachine, *, known: bool = True, **settings: str) -> AsyncIterator[Host]:
    """Robin as the how-to installs it; `known`: the agent gives an identity at once. This thread is in the machine's network meanwhile."""
    authority = IdentityAuthority()
    agent = WorkloadApi(answer_never)
    path = machine.path(AGENT)
    path.parent.mkdir(parents=True)
    with machine.network():
        try:
            await agent.start_unix(str(path))
            path.chmod(0o777)
            upstream = GuardedServer(authority, _nothing)
            host = Host(machine=machine, agent=agent, upstream=upstream, authority=authority)
            upstream.route, agent.answer = host.route, host.identify
            if known:
                host.known.set()
            async with upstream:
                host.settle({"ROBIN_UPSTREAM_URL": upstream.url, "ROBIN_AUDIENCE": AUDIENCE, **settings})
                for unit in (ROBIN, SOCKET):
                    machine.write(UNITS / unit, (SYSTEMD / unit).read_text())
                await machine.systemctl("enable", ROBIN)
                try:
                    yield host
                except Exception as failure:
                    told = await machine.command("journalctl", "--quiet", "--no-hostname", "--lines=60", codes=(0, 1))
                    failure.add_note(told.stdout.decode(errors="replace"))
                    raise
                finally:
                    host.held.set()
                    if machine.server.running:
                        await machine.systemctl("stop", ROBIN, SOCKET)
        finally:
            await agent.close()


@pytest.fixture
def machine() -> Iterator[SystemdMachine]:
    """A systemd that knows `Type=notify-reload`."""
    with systemd_machine("trixie") as booted:
        yield booted


@pytest.fixture
def older_machine() -> Iterator[SystemdMachine]:
    """A systemd from before `Type=notify-reload`."""
    with systemd_machine("bookworm") as booted:
        yield booted


async def test_systemd_itself_is_up_and_alone(machine: SystemdMachine):
    """What the other tests stand on: process 1 is systemd 257, nothing failed, and its network is not ours."""
    assert (await machine.systemctl("--version")).startswith("systemd 257 ")
    assert await machine.systemctl("is-system-running") == "running\n"
    assert (await machine.command("cat", "/proc/1/comm")).stdout == b"systemd\n"
    assert os.readlink(f"/proc/{machine.pid}/ns/net") != os.readlink("/proc/self/ns/net")


async def test_ready_comes_with_the_first_identity_and_what_is_ordered_behind_robin_waits_for_it(machine: SystemdMachine):
    async with installed(machine, known=False, ROBIN_IDENTITY_WAIT="100ms") as host:
        after = (
            "[Unit]\nRequires=robin.service\nAfter=robin.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/true\n"
        )
        machine.write(UNITS / "application.service", after)
        await machine.systemctl("daemon-reload")
        await machine.systemctl("start", "--no-block", "application.service")
        await eventually(lambda: _refused(URL), what="Robin to listen and refuse")
        assert await machine.reads(ROBIN, ActiveState="activating", SubState="start")
        assert await machine.reads("application.service", ActiveState="inactive")
        host.known.set()
        await eventually(lambda: machine.reads("application.service", ActiveState="active"), timeout_s=RESTORED_S, what="the application")
        robin = await machine.show(ROBIN, "ActiveState", "StatusText", "ActiveEnterTimestampMonotonic")
        began = await machine.show("application.service", "ExecMainStartTimestampMonotonic")
        assert robin["ActiveState"] == "active"
        assert robin["StatusText"] == "serving on 127.0.0.1:4000, [::1]:4000"
        assert int(robin["ActiveEnterTimestampMonotonic"]) <= int(began["ExecMainStartTimestampMonotonic"])
        assert (await ask(URL, "/ready")).status == 200
        assert (await machine.events(ROBIN)).count("started") == 1


async def _refused(url: str) -> Answer | None:
    """Robin's own 503, once it listens."""
    with contextlib.suppress(OSError):
        answer = await ask(url, "/early")
        assert (answer.status, answer.code != "") == (503, True), answer
        return answer
    return None


async def test_robin_runs_confined_as_the_unit_says(machine: SystemdMachine):
    async with installed(machine) as host:
        await machine.systemctl("start", ROBIN)
        pid = await host.main_pid()
        lines = (await machine.command("cat", f"/proc/{pid}/status")).stdout.decode().splitlines()
        status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
        assert {int(uid) for uid in status["Uid"]} <= set(DYNAMIC_UIDS), status["Uid"]
        assert [status[name] for name in ("NoNewPrivs", "Seccomp", "CapEff", "CapBnd")] == [["1"], ["2"], ["0" * 16], ["0" * 16]]
        mounts = [line.split() for line in (await machine.command("cat", f"/proc/{pid}/mounts")).stdout.decode().splitlines()]
        options = {words[1]: set(words[3].split(",")) for words in mounts}
        assert "ro" in options["/"]
        assert "ro" in options["/sys/fs/cgroup"]
        limits = (await machine.command("cat", f"/proc/{pid}/limits")).stdout.decode()
        assert re.search(r"Max open files +8192 +8192 ", limits), limits
        folder = machine.path("/run/robin").stat()
        assert str(folder.st_uid) == status["Uid"][0]
        assert (await ask(URL, "/confined", method="POST", body=b"x" * 300_000)).status == 200
        assert [one.target for one in host.upstream.seen] == ["/confined"]


async def test_systemd_finds_nothing_to_say_of_the_shipped_units_and_little_exposed(machine: SystemdMachine):
    async with installed(machine):
        told = await machine.command("systemd-analyze", "verify", "--man=no", str(UNITS / ROBIN), str(UNITS / SOCKET))
        assert (told.stdout, told.stderr) == (b"", "")
        told = await machine.command("systemd-analyze", "security", "--no-pager", ROBIN)
        (level,) = re.findall(rb"Overall exposure level for robin.service: ([0-9.]+)", told.stdout)
        assert float(level) <= 1.5, told.stdout.decode()


async def test_a_reload_returns_when_robin_has_reloaded_and_cuts_nothing(machine: SystemdMachine):
    async with installed(machine) as host:
        await machine.systemctl("start", ROBIN)
        pid = await host.main_pid()
        running = asyncio.create_task(ask(URL, "/held"))
        await eventually(lambda: host.upstream.of("/held"), what="the request at the upstream")
        for _ in (1, 2):
            await machine.systemctl("reload", ROBIN)  # fails when Robin does not say that it reloads, and then that it is ready
            assert await machine.show(ROBIN, *ACTIVE) == ACTIVE

        async def logged() -> bool:
            return (await machine.events(ROBIN)).count("reload") == 2

        await eventually(logged, what="both in the log")
        assert await host.main_pid() == pid
        assert not running.done()
        host.held.set()
        assert (await running).status == 200


async def test_the_watchdog_is_content_while_robin_lives_and_ends_and_replaces_it_when_it_hangs(machine: SystemdMachine):
    async with installed(machine) as host:
        await host.drop_in(ROBIN, "[Service]\nWatchdogSec=2s\n")  # the shipped 30 s would be long to wait for
        await machine.systemctl("start", ROBIN)
        pid = await host.main_pid()
        shown = await machine.show(ROBIN, "WatchdogUSec", "ActiveEnterTimestampMonotonic")
        assert shown["WatchdogUSec"] == "2s"
        beyond_usec = int(shown["ActiveEnterTimestampMonotonic"]) + 5_000_000

        async def fed() -> bool:
            return int((await machine.show(ROBIN, "WatchdogTimestampMonotonic"))["WatchdogTimestampMonotonic"]) > beyond_usec

        await eventually(fed, timeout_s=RESTORED_S, every_s=0.2, what="signs of life for more than twice the watchdog's time")
        assert await machine.reads(ROBIN, MainPID=str(pid), NRestarts="0", ActiveState="active")
        await machine.systemctl("kill", "--kill-whom=main", "--signal=STOP", ROBIN)

        async def replaced() -> bool:
            return await machine.reads(ROBIN, NRestarts="1", **ACTIVE)

        await eventually(replaced, timeout_s=RESTORED_S, every_s=0.1, what="the watchdog to end Robin and systemd to start it again")
        assert await host.main_pid() != pid
        assert (await ask(URL, "/again")).status == 200
        words = "\n".join(await machine.journal(ROBIN))
        assert "Watchdog timeout (limit 2s)!" in words
        assert "Failed with result 'watchdog'" in words


async def test_callers_that_came_before_robin_are_served_once_it_is_there(machine: SystemdMachine):
    async with installed(machine, known=False, ROBIN_IDENTITY_WAIT="20s", ROBIN_LISTEN_ADDR="systemd:robin") as host:
        await machine.systemctl("start", SOCKET)
        assert await machine.reads(ROBIN, ActiveState="inactive")
        early = [asyncio.create_task(ask(url, "/early")) for url in (URL, "http://[::1]:4000")]
        await eventually(lambda: machine.reads(ROBIN, ActiveState="activating"), what="the connection to start the service")
        await eventually(lambda: host.agent.requests, what="Robin to ask for its identity")
        assert not any(one.done() for one in early)
        host.known.set()
        answers = [await one for one in early]
        assert [one.status for one in answers] == [200, 200]
        await eventually(lambda: machine.reads(ROBIN, **ACTIVE), what="ready")
        assert [one.target for one in host.upstream.seen] == ["/early", "/early"]


async def test_restarts_behind_systemds_socket_refuse_nobody_and_lose_or_repeat_no_post(machine: SystemdMachine):
    """A request that comes while the drain begins may get 503 draining, or no answer: nothing of it went upstream, so ask again."""
    async with installed(machine, ROBIN_LISTEN_ADDR="systemd:robin") as host:
        await machine.systemctl("start", SOCKET)
        asked: list[str] = []
        answers: list[Answer] = []
        unanswered: list[str] = []
        enough = asyncio.Event()

        async def call() -> None:
            while not enough.is_set():
                asked.append(f"/{len(asked)}")
                target = asked[-1]
                while True:
                    with contextlib.suppress(h11.RemoteProtocolError, ConnectionResetError):  # not ConnectionRefusedError
                        answer = await ask(URL, target, method="POST", body=b"once")
                        if answer.code != "draining":
                            answers.append(answer)
                            break
                    unanswered.append(target)

        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(call())
            pids = set()
            for restart in range(1, 4):
                await machine.systemctl("restart", ROBIN)
                pids.add(await host.main_pid())
                await eventually(lambda: len(answers) >= 100 * restart, timeout_s=RESTORED_S, what="a hundred answers")  # noqa: B023
            enough.set()
        assert len(pids) == 3
        assert {one.status for one in answers} == {200}
        assert sorted(one.target for one in host.upstream.seen) == sorted(asked), "each came once, whoever had to ask again"
        assert len(unanswered) <= CALLERS * len(pids), "at most one connection of each caller for each restart"


async def test_a_stop_drains_and_ends_with_0(machine: SystemdMachine):
    async with installed(machine) as host:
        await machine.systemctl("start", ROBIN)
        running = asyncio.create_task(ask(URL, "/held"))
        await eventually(lambda: host.upstream.of("/held"), what="the request at the upstream")
        await machine.systemctl("stop", "--no-block", ROBIN)
        await eventually(lambda: machine.reads(ROBIN, ActiveState="deactivating", SubState="stop-sigterm"), what="the drain")

        async def closed() -> bool:
            try:
                with contextlib.suppress(h11.RemoteProtocolError):  # accepted a moment before
                    await ask(URL, "/late")
            except ConnectionRefusedError:
                return True
            return False

        await eventually(closed, what="the listener to close")
        assert not running.done()
        host.held.set()
        answer = await running
        assert (answer.status, answer.document["target"]) == (200, "/held")
        await eventually(lambda: machine.reads(ROBIN, ActiveState="inactive"), what="the end")
        ended = {"Result": "success", "ExecMainCode": "1", "ExecMainStatus": "0", "NRestarts": "0"}  # 1: CLD_EXITED
        assert await machine.show(ROBIN, *ended) == ended
        assert not machine.path("/run/robin").exists()
        assert (await machine.events(ROBIN))[-1] in {"drained"}


async def test_a_host_that_shuts_down_lets_robin_drain_first(machine: SystemdMachine):
    async with installed(machine) as host:
        await machine.systemctl("start", ROBIN)
        running = asyncio.create_task(ask(URL, "/held"))
        await eventually(lambda: host.upstream.of("/held"), what="the request at the upstream")
        await machine.systemctl("poweroff", "--no-block")
        await eventually(lambda: machine.reads(ROBIN, ActiveState="deactivating"), what="the drain")
        assert not running.done()
        host.held.set()
        assert (await running).status == 200
        await eventually(lambda: not machine.server.running, timeout_s=RESTORED_S, what="the machine to be off")


async def test_wrong_settings_are_not_tried_again_and_the_journal_names_the_variable(machine: SystemdMachine):
    async with installed(machine, ROBIN_DRAIN_MAX="soon") as host:
        await machine.systemctl("start", ROBIN, codes=(1,))
        failed = {"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "2", "NRestarts": "0"}
        assert await machine.show(ROBIN, *failed) == failed
        assert any(line.startswith("robin: ") and "ROBIN_DRAIN_MAX" in line for line in await machine.journal(ROBIN))
        assert host.agent.requests == []


async def test_robin_comes_back_however_often_it_is_killed(machine: SystemdMachine):
    """systemd's own limit, five starts in ten seconds, would give it up for good, and take the socket down with it."""
    async with installed(machine, ROBIN_LISTEN_ADDR="systemd:robin") as host:
        await machine.systemctl("start", SOCKET, ROBIN)
        for count in range(1, 8):
            pid = await host.main_pid()
            await machine.systemctl("kill", "--kill-whom=main", "--signal=KILL", ROBIN)
            await eventually(lambda: _replaced(host, pid), timeout_s=RESTORED_S, what=f"Robin to come back after death {count}")  # noqa: B023
            assert (await ask(URL, f"/after/{count}")).status == 200
        assert await machine.reads(SOCKET, ActiveState="active")


async def test_robin_comes_up_once_its_port_is_free(machine: SystemdMachine):
    async with installed(machine):
        with socket.create_server(("127.0.0.1", 4000)):
            await machine.systemctl("start", "--no-block", ROBIN)

            async def tried() -> bool:
                return int((await machine.show(ROBIN, "NRestarts"))["NRestarts"]) >= 6

            await eventually(tried, timeout_s=RESTORED_S, every_s=0.1, what="more starts than systemd's own limit")
        await eventually(lambda: machine.reads(ROBIN, **ACTIVE), timeout_s=RESTORED_S, what="Robin")
        assert (await ask(URL, "/free")).status == 200


async def _replaced(host: Host, pid: int) -> bool:
    """Whether another process is the service now, and ready."""
    return await host.machine.reads(ROBIN, **ACTIVE) and await host.main_pid() != pid


async def test_a_socket_does_not_start_wrong_settings_for_ever(machine: SystemdMachine):
    """A connection in the queue starts the service again and again: a limit must end that, and the socket say so."""
    async with installed(machine, ROBIN_LISTEN_ADDR="systemd:robin", ROBIN_DRAIN_MAX="soon"):
        await machine.systemctl("start", SOCKET)
        with socket.create_connection(("127.0.0.1", 4000)):
            await eventually(lambda: machine.reads(SOCKET, ActiveState="failed"), timeout_s=180.0, what="systemd to give up")
        result = (await machine.show(SOCKET, "Result"))["Result"]
        assert result in {"trigger-limit-hit", "service-start-limit-hit"}  # the first where a start takes less than a tenth of a second


@pytest.mark.parametrize("held_by", ["robin", "systemd"])
async def test_a_unix_socket_lets_in_the_users_that_are_named_and_nobody_else(machine: SystemdMachine, held_by: str):
    path, settings = "/run/robin/robin.sock", {"ROBIN_PEERCRED_ALLOW_UIDS": "1000"}
    settings["ROBIN_LISTEN_UDS"] = path if held_by == "robin" else "systemd:robin"
    async with installed(machine, **settings) as host:
        if held_by == "systemd":
            path = "/run/robin.sock"
            await host.drop_in(SOCKET, f"[Socket]\nListenStream=\nListenStream={path}\nSocketMode=0666\n")
            await machine.systemctl("start", SOCKET)
        await machine.systemctl("start", ROBIN)
        for uid, status in ((1000, "200"), (1001, "403"), (0, "403")):
            told = await machine.command("python3", "-c", ASK_UNIX, path, uid=uid)
            assert told.stdout.decode().strip() == status, uid
        assert [one.target for one in host.upstream.seen] == ["/unix"]


async def test_a_token_file_is_read_by_its_group_as_the_how_to_says(machine: SystemdMachine):
    async with installed(machine) as host:
        machine.write("/etc/group", machine.path("/etc/group").read_text() + "robin-tokens:x:1234:\n")
        machine.write("/etc/token", host.authority.jwt_svid(audience=AUDIENCE).decode(), mode=0o640)
        os.chown(machine.path("/etc/token"), 0, 1234)
        host.settle(
            {
                "ROBIN_UPSTREAM_URL": host.upstream.url,
                "ROBIN_AUDIENCE": AUDIENCE,
                "ROBIN_TOKEN_SOURCE": "file",
                "ROBIN_TOKEN_FILE": "/etc/token",
            }
        )
        await host.drop_in(ROBIN, _shown("SupplementaryGroups="))
        await machine.systemctl("start", ROBIN)
        assert (await ask(URL, "/file")).status == 200


async def test_on_a_systemd_before_253_the_drop_in_of_the_how_to_gives_ready_reload_watchdog_and_drain(older_machine: SystemdMachine):
    machine = older_machine
    async with installed(machine, ROBIN_LISTEN_ADDR="systemd:robin") as host:
        assert (await machine.systemctl("--version")).startswith("systemd 252 ")
        await host.drop_in(ROBIN, _shown("Type=notify\n") + "WatchdogSec=2s\n")
        await machine.systemctl("start", SOCKET)
        assert (await ask(URL, "/first")).status == 200
        await eventually(lambda: machine.reads(ROBIN, **ACTIVE), what="ready")
        pid = await host.main_pid()
        await machine.systemctl("reload", ROBIN)

        async def reloaded() -> bool:
            return "reload" in await machine.events(ROBIN)

        await eventually(reloaded, what="the reload")
        assert await host.main_pid() == pid
        await machine.systemctl("kill", "--kill-who=main", "--signal=STOP", ROBIN)
        assert (await ask(URL, "/second")).status == 200, "waited in systemd's queue for the next Robin"
        assert await machine.reads(ROBIN, NRestarts="1")
        await machine.systemctl("stop", ROBIN)
        ended = {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}
        assert await machine.show(ROBIN, *ended) == ended


def _shown(words: str) -> str:
    """The one `ini` block of the how-to that has these words, without its indentation."""
    blocks = re.findall(r"^( *)```ini\n(.*?)^ *```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    (found,) = (re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in blocks if f"  {words}" in text)
    return found
