"""The one way out: which addresses are tried, in what time, and what each failure is called (J5; the process itself is in journeys)."""

import asyncio
import contextlib
import os
import resource
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.permits import permit_to

from robin.model.address import ResolvedAddress
from robin.model.faults import Fault
from robin.model.limits import StepDeadlines
from robin.model.origin import Origin
from robin.model.route import TlsProfile
from robin.model.verdict import Permit
from robin.policy.address_guard import refuse_self
from robin.policy.addresses import refuse_own_listeners
from robin.testing.certificates import CertificateAuthority
from robin.testing.recording_upstream import RecordingUpstream, hold
from robin.testing.server import black_hole
from robin.testing.waiting import eventually
from robin.transport.deadlines import Sweeper
from robin.transport.dial import Dialer, Judge
from robin.transport.resolve import Resolver
from robin.transport.stream import Stream
from robin.transport.tls import UpstreamTls

GetAddrInfo = Callable[..., list[tuple[int, int, int, str, tuple[str, int]]]]


def permit(port: int, *, host: str = "broker.test", ca_file: Path | None = None) -> Permit:
    """To an https origin with these roots, or in cleartext."""
    origin = Origin(scheme="https" if ca_file else "http", host=host, port=port, authority=f"{host}:{port}".encode())
    return permit_to(origin, tls=TlsProfile(ca_file=str(ca_file)) if ca_file else None)


def dialer_on(
    getaddrinfo: GetAddrInfo,
    *,
    connect_s: float = 5.0,
    own: frozenset[str] = frozenset(),
    steps: StepDeadlines | None = None,
    judge: Judge = refuse_own_listeners,
    refuse_self: Callable[[], Fault] | None = None,
) -> Dialer:
    loop = asyncio.get_running_loop()
    resolver = Resolver(loop, is_own_listener=lambda host, _: host in own, getaddrinfo=getaddrinfo)
    tls = UpstreamTls(lambda *_: None)
    sweeper = Sweeper(loop)
    sweeper.start()
    return Dialer(loop, sweeper, resolver=resolver, judge=judge, tls=tls, connect_s=connect_s, steps=steps, refuse_self=refuse_self)


def dialer(*addresses: str, **how: Any) -> Dialer:
    """One whose name `broker.test` has these addresses."""

    def known(host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        assert host == "broker.test"
        return [(socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

    return dialer_on(known, **how)


def stream(_: ResolvedAddress | None = None) -> Stream:
    loop = asyncio.get_running_loop()
    return Stream(loop, Sweeper(loop))


async def peer_of(dialled: Stream) -> str:
    host: str = dialled.transport.get_extra_info("peername")[0]
    dialled.abort()
    return host


async def test_the_first_address_that_accepts_is_taken():
    async with RecordingUpstream(hold) as upstream:
        for at, addresses in enumerate((("127.0.0.1", "127.0.0.2"), ("127.0.0.8", "127.0.0.9", "127.0.0.1"))):
            assert await peer_of(await dialer(*addresses).dial(permit(upstream.port), stream)) == "127.0.0.1"
            await upstream.connection(at)


async def test_a_silent_address_costs_one_stagger_and_its_attempt_is_given_up():
    loop = asyncio.get_running_loop()
    async with RecordingUpstream(hold) as upstream:
        with black_hole("127.0.0.2", upstream.port):
            before = len(os.listdir("/proc/self/fd"))
            began = loop.time()
            dialled = await dialer("127.0.0.2", "127.0.0.1").dial(permit(upstream.port), stream)
            assert 0.24 <= loop.time() - began < 2
            await upstream.connection(0)
            assert len(os.listdir("/proc/self/fd")) <= before + 2, "only the winner and its other end are open"
            assert await peer_of(dialled) == "127.0.0.1"


async def test_both_families_of_one_name_are_tried():
    async with RecordingUpstream(hold) as upstream:
        assert await peer_of(await dialer("::1", "127.0.0.1").dial(permit(upstream.port), stream)) == "127.0.0.1"
        await upstream.connection(0)


async def test_two_winners_leave_one_connection():
    """The slower of two attempts that both succeed is closed, unsaid."""
    async with RecordingUpstream(hold, host="0.0.0.0") as upstream:
        dialled = await dialer("127.0.0.1", "127.0.0.2", "127.0.0.3").dial(permit(upstream.port), stream)
        await eventually(lambda: sum(one.ended is None for one in upstream.connections) == 1, what="one connection to be left")
        dialled.abort()


async def refused_by(dialling: Dialer, leave: Permit) -> Fault:
    with pytest.raises(Fault) as refused:
        await dialling.dial(leave, stream)
    return refused.value


async def refusal(dialling: Dialer, leave: Permit) -> tuple[str, str]:
    refused = await refused_by(dialling, leave)
    return refused.code, refused.detail.partition(":")[0]


async def test_each_failure_has_its_code():
    async with RecordingUpstream(hold) as upstream:
        port = upstream.port
    assert await refusal(dialer("127.0.0.1"), permit(port)) == ("connect_refused", "connect_refused")
    assert await refusal(dialer("127.0.0.1", "127.0.0.2"), permit(port)) == ("connect_refused", "connect_refused")
    assert await refusal(dialer(), permit(port)) == ("dns_failed", "dns_failed")
    assert await refusal(dialer("255.255.255.255"), permit(port)) == ("unroutable", "unroutable")
    with black_hole("127.0.0.2", port):
        assert await refusal(dialer("127.0.0.2", "127.0.0.2", connect_s=0.1), permit(port)) == ("connect_timeout", "connect_timeout")


async def test_a_name_that_takes_too_long_is_a_dns_timeout():
    loop = asyncio.get_running_loop()
    release = loop.create_future()

    def hang(*_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        asyncio.run_coroutine_threadsafe(_wait(release), loop).result(10)
        return []

    assert await refusal(dialer_on(hang, connect_s=0.05), permit(9)) == ("dns_timeout", "dns_timeout")
    release.set_result(None)


async def test_each_step_may_have_a_bound_of_its_own(certificates: CertificateAuthority):
    def bounds(step: str) -> StepDeadlines:
        return StepDeadlines(**{"dns_s": 60.0, "connect_s": 60.0, "tls_s": 60.0, step: 0.05})

    release = threading.Event()

    def hang(*_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        release.wait(60)
        return []

    async with RecordingUpstream(hold) as upstream, asyncio.timeout(30):
        leave = permit(upstream.port, ca_file=certificates.ca_file)
        try:
            assert (await refused_by(dialer_on(hang, steps=bounds("dns_s")), leave)).code == "dns_timeout"
        finally:
            release.set()
        with black_hole("127.0.0.2", upstream.port):
            refused = await refused_by(dialer("127.0.0.2", steps=bounds("connect_s")), leave)
            assert (refused.code, refused.detail) == ("connect_timeout", "connect_timeout: no connection within {upstream_connect_timeout}")
        refused = await refused_by(dialer("127.0.0.1", steps=bounds("tls_s")), leave)  # it accepts, and is silent
        assert (refused.code, refused.detail) == ("connect_timeout", "connect_timeout: no TLS handshake within {upstream_tls_timeout}")
        reached = await dialer("127.0.0.1", connect_s=0.0001, steps=bounds("tls_s")).dial(permit(upstream.port), stream)
        reached.abort()


async def _wait(release: "asyncio.Future[None]") -> None:
    await release


async def test_our_own_listener_among_the_addresses_is_a_loop_and_nothing_is_dialled():
    async with RecordingUpstream(hold) as upstream:
        dialling = dialer("127.0.0.1", "127.0.0.2", own=frozenset({"127.0.0.2"}))
        assert await refusal(dialling, permit(upstream.port)) == ("loop", "own_address")
        assert await refusal(dialling, permit(upstream.port, host="127.0.0.2")) == ("loop", "own_address")
        assert upstream.connections == []


@pytest.mark.parametrize("tls", [False, True])
async def test_a_connection_that_turns_out_to_be_with_this_host_is_reset(certificates: CertificateAuthority, tls: bool):
    """Its address was another host's when it was judged. One that was judged as this host's is what the settings permit."""

    def as_own(_: Permit, found: Sequence[ResolvedAddress]) -> Sequence[ResolvedAddress]:
        return [replace(address, own_host=True) for address in found]

    issued = certificates.issue("broker.test") if tls else None
    async with RecordingUpstream(hold, tls=None if issued is None else issued.server_context()) as upstream:
        leave = permit(upstream.port, ca_file=certificates.ca_file if tls else None)
        assert await refusal(dialer("127.0.0.1", refuse_self=refuse_self), leave) == ("address_refused", "self")
        connection = await upstream.connection()
        assert await connection.wait_ended() == "reset"
        reached = await dialer("127.0.0.1", refuse_self=refuse_self, judge=as_own).dial(leave, stream)
        reached.abort()


async def test_localhost_is_this_machine_whatever_a_name_server_says():
    """Cleartext is allowed to `localhost`: an answer from elsewhere would carry the token out of the machine."""
    asked: list[tuple[str, int]] = []

    def elsewhere(host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        asked.append((host, port))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in ("192.0.2.1", "0.0.0.0")]

    with pytest.raises(Fault, match="dns_failed"):
        await dialer_on(elsewhere).dial(permit(9, host="localhost"), stream)
    assert asked == [("localhost", 9)]


async def test_localhost_may_be_ipv4_within_ipv6():
    def mapped(_: str, port: int, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::ffff:127.0.0.1", port))]

    async with RecordingUpstream(hold) as upstream:
        reached = await dialer_on(mapped).dial(permit(upstream.port, host="localhost"), stream)
        await upstream.connection()
        reached.transport.abort()


async def test_no_descriptor_left_is_our_limit():
    async with RecordingUpstream(hold) as upstream:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
        with contextlib.ExitStack() as held:
            resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
            held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
            with contextlib.suppress(OSError):
                while True:
                    held.enter_context(open("/dev/null", "rb"))
            with pytest.raises(Fault) as refused:
                await dialer().dial(permit(upstream.port, host="127.0.0.1"), stream)
        assert (refused.value.code, refused.value.detail.partition(":")[0]) == ("limit_connections", "descriptors")


async def test_tls_that_fails_says_why(certificates: CertificateAuthority, tmp_path):
    stranger = CertificateAuthority(tmp_path)
    async with RecordingUpstream(hold, tls=certificates.issue("broker.test").server_context()) as upstream:
        leave = permit(upstream.port, ca_file=stranger.ca_file)
        assert await refusal(dialer("127.0.0.1"), leave) == ("upstream_certificate", "unknown_ca")


async def test_sni_and_verification_are_for_the_name_of_the_url(certificates: CertificateAuthority):
    context = certificates.issue("broker.test").server_context()
    names: list[str | None] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    async with RecordingUpstream(hold, tls=context) as upstream:
        dialled = await dialer("127.0.0.1").dial(permit(upstream.port, ca_file=certificates.ca_file), stream)
        assert names == ["broker.test"]
        assert dialled.transport.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
        dialled.abort()


async def test_a_peer_that_leaves_in_the_handshake_is_a_tls_failure(certificates: CertificateAuthority):
    async def leaves(connection) -> None:
        await connection.read_exactly(5)
        await connection.reset()

    async with RecordingUpstream(leaves) as upstream:
        assert await refusal(dialer("127.0.0.1"), permit(upstream.port, ca_file=certificates.ca_file)) == ("upstream_tls", "alert")


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.3])
async def test_leaving_at_any_moment_of_the_dial_leaks_nothing(after_s: float):
    async with RecordingUpstream(hold) as upstream:
        with black_hole("127.0.0.2", upstream.port), black_hole("127.0.0.3", upstream.port):
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(after_s):
                    await dialer("127.0.0.2", "127.0.0.3").dial(permit(upstream.port), stream)
            await eventually(lambda: len(os.listdir("/proc/self/fd")) == before, what="every descriptor to be closed")
