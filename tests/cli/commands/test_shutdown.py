"""`robin shutdown` (item O1) beside a real sidecar: it ends it, a second time is a success, a refusal names the setting."""

import asyncio
from pathlib import Path

import pytest
from tests.cli.conftest import RunRobin

from robin.testing.process import SidecarProcess, free_port
from robin.testing.recording_upstream import RecordingUpstream, answer, response

UPSTREAM = "http://127.0.0.1:9"


async def test_it_ends_the_sidecar_and_again_is_no_failure(run_robin: RunRobin, token_file: Path) -> None:
    settings = {"ROBIN_TOKEN_FILE": str(token_file), "ROBIN_ADMIN_QUIT": "true"}
    async with SidecarProcess(upstream_url=UPSTREAM, settings=settings) as sidecar:
        await sidecar.started()
        first = await run_robin("shutdown", "--admin", sidecar.admin[0])
        assert (first.code, first.out, first.err) == (0, "the sidecar has ended", "")
        assert await sidecar.returned() == 0
        second = await run_robin("shutdown", "--admin", sidecar.admin[0])
    assert second.code == 0
    assert second.out == f"the sidecar has ended already: no answer from {sidecar.admin[0]}: Connection refused"


async def test_two_at_once_both_succeed(run_robin: RunRobin, token_file: Path) -> None:
    settings = {"ROBIN_TOKEN_FILE": str(token_file), "ROBIN_ADMIN_QUIT": "true"}
    async with SidecarProcess(upstream_url=UPSTREAM, settings=settings) as sidecar:
        await sidecar.started()
        both = await asyncio.gather(*(run_robin("shutdown", "--admin", sidecar.admin[0]) for _ in range(2)))
    assert [one.code for one in both] == [0, 0]


async def test_without_waiting_it_says_draining(run_robin: RunRobin, token_file: Path) -> None:
    settings = {"ROBIN_TOKEN_FILE": str(token_file), "ROBIN_ADMIN_QUIT": "true"}
    async with SidecarProcess(upstream_url=UPSTREAM, settings=settings) as sidecar:
        await sidecar.started()
        ended = await run_robin("shutdown", "--wait", "0", "--admin", sidecar.admin[0])
        assert (ended.code, ended.out) == (0, "draining")
        assert await sidecar.returned() == 0


async def test_where_it_is_not_enabled_it_says_how(run_robin: RunRobin, token_file: Path) -> None:
    async with SidecarProcess(upstream_url=UPSTREAM, settings={"ROBIN_TOKEN_FILE": str(token_file)}) as sidecar:
        await sidecar.started()
        ended = await run_robin("shutdown", "--admin", sidecar.admin[0])
        assert sidecar.returncode is None
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "robin: the sidecar does not offer POST /quitquitquit; set ROBIN_ADMIN_QUIT=true where the sidecar runs"


@pytest.mark.parametrize(("status", "part"), [(403, "only over loopback or a Unix socket"), (500, "unexpected answer 500")])
async def test_other_refusals_are_told(run_robin: RunRobin, status: int, part: str) -> None:
    async with RecordingUpstream(answer(response(status, b""), close=True)) as admin:
        ended = await run_robin("shutdown", "--admin", f"127.0.0.1:{admin.port}")
    assert ended.code == 1
    assert part in ended.err


async def test_an_admin_plane_that_stays_is_a_failure(run_robin: RunRobin) -> None:
    async with RecordingUpstream(answer(response(200, b'{"status":"draining"}'), close=True)) as admin:
        ended = await run_robin("shutdown", "--wait", "200ms", "--admin", f"127.0.0.1:{admin.port}")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "robin: the sidecar has not ended after 0.2 s: still draining; wait longer with --wait, or lower ROBIN_DRAIN_MAX"


async def test_without_a_sidecar_it_is_already_gone(run_robin: RunRobin) -> None:
    ended = await run_robin("shutdown", ROBIN_ADMIN_ADDR=f"127.0.0.1:{free_port()}")
    assert ended.code == 0
    assert ended.out.startswith("the sidecar has ended already: ")
