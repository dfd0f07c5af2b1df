"""`robin wait` (item O1) beside a real sidecar: 0 when it has started, 1 with the last reasons when it does not start."""

import argparse
import asyncio
from pathlib import Path

import pytest
from tests.cli.conftest import RunRobin

from robin.cli.commands import wait
from robin.testing.authority import IdentityAuthority
from robin.testing.connection import ScriptedConnection
from robin.testing.manual_clock import ManualClock
from robin.testing.process import RobinProcess, SidecarProcess, free_port
from robin.testing.server import ScriptedServer

UPSTREAM = "http://127.0.0.1:9"


async def test_it_returns_when_the_sidecar_has_started(tmp_path: Path, authority: IdentityAuthority) -> None:
    token = tmp_path / "token"
    async with SidecarProcess(upstream_url=UPSTREAM, settings={"ROBIN_TOKEN_FILE": str(token)}) as sidecar:
        await sidecar.listening()
        async with RobinProcess("wait", "--admin", sidecar.admin[0]) as waiting:
            await sidecar.line("identity")  # it has looked for the token once and said that there is none
            token.write_bytes(authority.service_account_token(audience="a"))
            await sidecar.started()
            assert await waiting.returned() == 0


@pytest.mark.parametrize(("timeout", "answers", "code", "pauses"), [("60s", 4, 0, [0.25] * 3), ("600ms", 9, 1, [0.25, 0.25, 0.1])])
async def test_it_asks_four_times_a_second_until_the_first_200_or_the_last_moment(
    timeout: str, answers: int, code: int, pauses: list[float]
) -> None:
    clock, paused = ManualClock(), list[float]()

    def pause(seconds: float) -> None:
        paused.append(round(seconds, 6))
        clock.advance(seconds)

    async def answer(connection: ScriptedConnection) -> None:
        await connection.read_request()
        nonlocal answers
        answers -= 1
        await connection.send(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % (503 if answers else 200))

    async with ScriptedServer(answer) as admin:
        parser = argparse.ArgumentParser()
        wait.configure(parser)
        args = parser.parse_args(["--timeout", timeout, "--admin", f"127.0.0.1:{admin.port}"])
        assert await asyncio.to_thread(wait.run, args, clock, pause) == code
    assert paused == pauses


async def test_without_identity_it_gives_up_with_the_reasons(run_robin: RunRobin, tmp_path: Path) -> None:
    async with SidecarProcess(upstream_url=UPSTREAM, settings={"ROBIN_TOKEN_FILE": str(tmp_path / "none")}) as sidecar:
        await sidecar.listening()
        ended = await run_robin("wait", "--timeout", "2s", "--admin", sidecar.admin[0])
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("robin: not started within 2 s: answer 503: starting (")
    assert "identity_unavailable" in ended.err


async def test_without_a_sidecar_it_says_where_it_asked(run_robin: RunRobin) -> None:
    place = f"127.0.0.1:{free_port()}"
    ended = await run_robin("wait", "--timeout", "0", ROBIN_ADMIN_ADDR=place)
    assert ended.code == 1
    assert ended.err == (
        f"robin: not started within 0 s: no answer from {place}: Connection refused; "
        "is it running, and is this its admin address? See --admin"
    )
