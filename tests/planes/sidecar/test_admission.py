"""Who may open a connection, shown by a real process, since the kernel gives the peer's credentials (L2, L3)."""

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest
from tests.corpus.judge import check_problem
from tests.corpus.rig import Caller, Rig
from tests.journeys.life import GET, activated, exchanges, metric, serving

from robin.testing.connection import ScriptedConnection
from robin.testing.waiting import eventually


def outer_address() -> str:
    """An address of this machine that is not loopback; the test is skipped, and says so, where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # no packet is sent
        except OSError:
            pytest.skip("NOT TESTED: this machine has no address beyond loopback")
        address: str = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("NOT TESTED: this machine has no address beyond loopback")
    return address


async def from_outside(rig: Rig, port: int) -> Caller:
    """A connection to Robin on 127.0.0.1 whose source is not loopback."""

    def build() -> ScriptedConnection:
        return ScriptedConnection(lambda _: None)

    local = (outer_address(), 0)
    _, peer = await asyncio.get_running_loop().create_connection(build, "127.0.0.1", port, local_addr=local)
    rig.callers.append(Caller(peer))
    return rig.callers[-1]


async def test_l3_a_peer_beyond_loopback_is_denied_though_the_listener_is_loopback(tmp_path: Path):
    async with serving(tmp_path) as rig:
        caller = await from_outside(rig, rig.address[1])
        refusal = await caller.answer()
        check_problem(refusal, "peer_denied", "not_loopback")
        assert json.loads(refusal.body)["detail"] == "not_loopback: this listener serves loopback only; see ROBIN_UNSAFE_LISTEN"
        assert rig.bytes_seen == 0
        assert await metric(rig.robin, "robin_peer_denied_total", reason="not_loopback") == 1
        await eventually(lambda: exchanges(rig), what="the record")
        assert (exchanges(rig)[0]["outcome"], exchanges(rig)[0]["peer_uid"]) == ("peer_denied", None)


async def test_l2_a_user_that_is_not_listed_is_denied_with_the_name_of_the_list(tmp_path: Path):
    path = tmp_path / "robin.sock"
    settings = {"ROBIN_LISTEN_UDS": str(path), "ROBIN_PEERCRED_ALLOW_UIDS": str(os.getuid() + 1)}
    async with serving(tmp_path, settings=settings) as rig:
        _, peer = await asyncio.get_running_loop().create_unix_connection(lambda: ScriptedConnection(lambda _: None), str(path))
        rig.callers.append(Caller(peer))
        refusal = await rig.callers[-1].answer()
        check_problem(refusal, "peer_denied", "uid")
        assert json.loads(refusal.body)["detail"] == "uid: this peer may not use the socket; see ROBIN_PEERCRED_ALLOW_UIDS"


async def from_within_ipv6(rig: Rig, listener: socket.socket, source: str) -> Caller:
    """An IPv4 connection to a dual-stack listener: the kernel reports both of its ends as IPv4 within IPv6."""
    _, peer = await asyncio.get_running_loop().create_connection(
        lambda: ScriptedConnection(lambda _: None), "127.0.0.1", listener.getsockname()[1], local_addr=(source, 0)
    )
    rig.callers.append(Caller(peer))
    return rig.callers[-1]


async def test_l3_ipv4_peers_of_an_ipv6_socket_are_judged_as_ipv4(tmp_path: Path):
    with socket.socket(socket.AF_INET6) as passed:
        passed.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        passed.bind(("::ffff:127.0.0.1", 0))
        passed.listen()
        program, fds = activated(passed, names="web")
        async with serving(tmp_path, settings={"ROBIN_LISTEN_ADDR": "systemd:web"}, program=program, pass_fds=fds) as rig:
            caller = await from_within_ipv6(rig, passed, "127.0.0.1")
            caller.send(GET)
            assert (await caller.answer()).status == 200
            seen = rig.bytes_seen
            outside = await from_within_ipv6(rig, passed, outer_address())
            check_problem(await outside.answer(), "peer_denied", "not_loopback")
            assert rig.bytes_seen == seen


async def test_l3_the_switch_admits_such_peers(tmp_path: Path):
    async with serving(tmp_path, settings={"ROBIN_UNSAFE_LISTEN": "true"}) as rig:
        caller = await from_outside(rig, rig.address[1])
        caller.send(GET)
        assert (await caller.answer()).status == 200


async def test_of_many_refused_callers_at_once_some_are_closed_without_a_response(tmp_path: Path):
    """At most 64 refusals are written at a time; more connections are just closed."""
    async with serving(tmp_path, settings={"ROBIN_MAX_CONNECTIONS": "1"}) as rig:
        kept = await rig.caller()
        kept.send(GET)
        assert (await kept.answer()).status == 200
        crowd = [socket.create_connection(rig.address) for _ in range(300)]
        for sock in crowd:
            sock.setblocking(False)
        refused = [0]

        def count() -> bool:
            refused[0] = sum(_was_refused(sock) for sock in crowd)
            return len(exchanges(rig)) == 301

        await eventually(count, what="a record for each of them")
        assert 0 < refused[0] <= 300
        kept.send(GET)
        assert (await kept.answer()).status == 200, "the admitted connection is still served"
        for sock in crowd:
            sock.close()
        assert len([record for record in exchanges(rig) if record["outcome"] == "limit_connections"]) == 300


def _was_refused(sock: socket.socket) -> bool:
    try:
        return sock.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 503"
    except (BlockingIOError, ConnectionResetError):
        return False
