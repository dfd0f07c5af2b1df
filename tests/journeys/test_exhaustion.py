"""Descriptors run out, and listeners die: the process rests, says so once, recovers; or it ends (K7, K9)."""

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import pytest
from tests.corpus.judge import check_problem
from tests.corpus.rig import Rig
from tests.descriptors import open_descriptors
from tests.journeys.life import GET, activated, launched, metric, probe, serving, shell

from robin.testing.recording_upstream import RecordingUpstream
from robin.testing.waiting import eventually

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
FEW = 40


def cpu_s(pid: int) -> float:
    """Processor time that the process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def descriptors(pid: int) -> int:
    return len(open_descriptors(pid))


@contextlib.asynccontextmanager
async def occupied(rig: Rig):
    """So many idle callers that Robin has no descriptor left, and some more that it cannot accept."""
    held = [socket.create_connection(rig.address) for _ in range(FEW + 20)]
    try:
        await rig.robin.event("accept_failed")
        yield held
    finally:
        for peer in held:
            peer.close()


async def test_k7_no_descriptor_left_costs_little_is_told_once_and_ends_when_some_are_free(tmp_path: Path):
    async with serving(tmp_path, program=shell(f"ulimit -n {FEW}"), settings={"ROBIN_ADMIN_ADDR": "off"}) as rig:
        async with occupied(rig):
            assert descriptors(rig.robin.pid) == FEW
            used_s, began = cpu_s(rig.robin.pid), asyncio.get_running_loop().time()
            await asyncio.sleep(3)  # the measure is one of time: how much is used in a while of nothing to do
            lasted_s = asyncio.get_running_loop().time() - began
            assert (cpu_s(rig.robin.pid) - used_s) / lasted_s < 0.05
            told = [event for event in rig.robin.events if event["event"] == "accept_failed"]
            assert 1 <= len(told) <= lasted_s + 1
            assert (told[0]["level"], told[0]["code"]) == ("error", "accept_exhausted")
            assert "ulimit -n" in told[0]["detail"]
            waiting = await rig.caller()
            waiting.send(GET)
        assert (await waiting.answer()).status == 200, "who waited in the queue of the kernel is served"
        assert (await rig.ask(GET)).status == 200
        assert await rig.robin.stop() == 0


async def test_k7_a_connection_upstream_that_cannot_be_opened_is_our_limit_not_the_upstreams_fault(tmp_path: Path):
    async with serving(tmp_path, program=shell(f"ulimit -n {FEW}"), settings={"ROBIN_ADMIN_ADDR": "off"}) as rig:
        callers = [await rig.caller() for _ in range(FEW - descriptors(rig.robin.pid))]
        await eventually(lambda: descriptors(rig.robin.pid) == FEW, what="the descriptors to run out")
        callers[0].send(GET)
        answer = await callers[0].answer()
        check_problem(answer, "limit_connections", "descriptors")
        assert rig.bytes_seen == 0
        await callers[1].leave()
        await callers[2].leave()
        await eventually(lambda: descriptors(rig.robin.pid) < FEW - 1, what="one to be free, and one for the look at the token file")
        callers[0].send(GET)
        assert (await callers[0].answer()).status == 200


async def test_no_descriptor_left_to_read_the_token_with_costs_no_kept_connection_its_identity(tmp_path: Path):
    settings = {"ROBIN_ADMIN_ADDR": "off", "ROBIN_TOKEN_FILE_GRACE": "0s"}
    async with serving(tmp_path, program=shell(f"ulimit -n {FEW}"), settings=settings) as rig:
        kept = await rig.caller()
        kept.send(GET)
        assert (await kept.answer()).status == 200
        async with occupied(rig):
            os.utime(rig.token_file)  # another file as far as anyone can see: it has to be read
            failed = await rig.robin.event("identity_refresh_failed")
            assert failed["detail"].startswith("exhausted: ")
            kept.send(GET)
            assert (await kept.answer()).status == 200
        assert [event for event in rig.robin.events if event["event"] == "identity_lost"] == []


async def test_one_too_many_callers_get_503_and_a_place_is_free_again(tmp_path: Path):
    async with serving(tmp_path, settings={"ROBIN_MAX_CONNECTIONS": "3"}) as rig:
        held = [await rig.caller() for _ in range(3)]
        for caller in held:
            caller.send(GET)
            assert (await caller.answer()).status == 200
        for _ in range(2):
            refused = await rig.caller()
            check_problem(await refused.answer(), "limit_connections", "connections")
            assert await refused.closed() == "eof"
        assert await metric(rig.robin, "robin_downstream_connections") == 3
        await held[0].leave()
        await eventually(lambda: _served(rig), what="a free place")


async def _served(rig: Rig) -> bool:
    caller = await rig.caller()
    caller.send(GET)
    try:
        return (await caller.answer()).status == 200
    finally:
        await caller.leave()


async def test_the_limit_of_callers_holds_when_all_come_at_once(tmp_path: Path):
    """Many are accepted in one turn of the loop, before the first of them is served."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
        connect = lambda: stack.enter_context(socket.create_connection(listener.getsockname()))  # noqa: E731
        held = [connect() for _ in range(60)]  # they wait before Robin is there
        program, fds = activated(listener, names="web")
        settings = {"ROBIN_LISTEN_ADDR": "systemd:web", "ROBIN_MAX_CONNECTIONS": "3"}
        async with serving(tmp_path, settings=settings, program=program, pass_fds=fds) as rig:
            assert rig.robin.listen == ("systemd:web",)
            await eventually(lambda: _count_refused(held) == 57, what="the surplus to be refused")
            assert await metric(rig.robin, "robin_downstream_connections") == 3


def _count_refused(peers: list[socket.socket]) -> int:
    refused = 0
    for peer in peers:
        peer.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            refused += peer.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 503"
    return refused


@pytest.mark.parametrize("key", ["ROBIN_LISTEN_ADDR", "ROBIN_ADMIN_ADDR"])
async def test_k9_a_dying_listener_ends_the_process_with_1(tmp_path: Path, key: str):
    """Shutting a shared listening socket down makes every accept on it fail for good."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        program, fds = activated(listener, names="web")
        async with RecordingUpstream() as upstream:
            settings = {key: "systemd:web"}
            async with launched(tmp_path, upstream=upstream, settings=settings, program=program, pass_fds=fds) as rig:
                await rig.robin.started()
                if key == "ROBIN_LISTEN_ADDR":
                    assert (await probe(rig.robin, "/readyz"))[0] == 200
                listener.shutdown(socket.SHUT_RDWR)
                assert await rig.robin.returned() == 1
                (died,) = [event for event in rig.robin.events if event["event"] == "listener_died"]
                assert (died["level"], died["listener"]) == ("error", "systemd:web")
