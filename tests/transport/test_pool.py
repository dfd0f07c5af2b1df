"""The pool by itself: what is kept and how long, who waits and in what order, and that no way of leaving leaks a place (J2, J6)."""

import asyncio
import contextlib
import fcntl
import os
import random
import socket
import ssl
import termios
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.permits import permit_to
from tests.transport.test_dial import dialer, permit

from robin.model.faults import Fault
from robin.model.limits import Deadlines, Limits
from robin.model.origin import Origin
from robin.model.verdict import Permit
from robin.telemetry.metrics import Metrics
from robin.testing.certificates import CertificateAuthority
from robin.testing.recording_upstream import RecordingUpstream, hold
from robin.testing.waiting import eventually
from robin.transport.deadlines import Sweeper
from robin.transport.pool import Pool, Upstream


class Stand:
    """A pool on a real upstream that holds its connections."""

    def __init__(
        self,
        upstream: RecordingUpstream,
        *,
        limit: int,
        total: int,
        queue_s: float,
        idle_s: float | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.upstream = upstream
        self.sweeper = Sweeper(loop)
        self.metrics = Metrics(version="0", unsafe={})
        self.pool = Pool(
            loop,
            dialer=dialer("127.0.0.1"),
            sweeper=self.sweeper,
            limits=Limits(upstream_connections=limit, upstream_total=total),
            deadlines=Deadlines(queue_s=queue_s, upstream_idle_s=idle_s),
            metrics=self.metrics,
        )
        self.permit = self.permit_for(upstream.port)
        self.made: list[Upstream] = []

    def permit_for(self, port: int) -> Permit:
        origin = Origin(scheme="http", host="127.0.0.1", port=port, authority=f"127.0.0.1:{port}".encode())
        return permit_to(origin)

    async def acquire(self, leave: Permit | None = None, *, fresh: bool = False) -> Upstream:
        upstream = await self.pool.acquire(leave or self.permit, fresh=fresh)
        self.made.append(upstream)
        if leave is not None:
            await eventually(lambda: not upstream.write_blocked, what="the handshake to be written")
        return upstream

    def give_back(self, upstream: Upstream, *, clean: bool = True, announced_s: int | None = None) -> None:
        upstream.reusable = clean
        self.pool.release(upstream, announced_s)

    @property
    def counts(self) -> tuple[int, int]:
        """(active, idle) as the metrics say."""
        return self.metrics.upstream_active, self.metrics.upstream_idle


def context(certificates: CertificateAuthority) -> ssl.SSLContext:
    """The server's, without the session tickets that follow a handshake: what comes while a connection is idle ends it."""
    made = certificates.issue("broker.test").server_context()
    made.num_tickets = 0
    return made


@contextlib.asynccontextmanager
async def standing(
    *,
    limit: int = 2,
    total: int = 256,
    queue_s: float = 5.0,
    idle_s: float | None = None,
    certificates: CertificateAuthority | None = None,
) -> AsyncIterator[Stand]:
    async with RecordingUpstream(hold, tls=None if certificates is None else context(certificates)) as upstream:
        stand = Stand(upstream, limit=limit, total=total, queue_s=queue_s, idle_s=idle_s)
        if certificates is not None:
            stand.permit = permit(upstream.port, ca_file=certificates.ca_file)
        stand.sweeper.start()
        try:
            yield stand
        finally:
            stand.pool.begin_closing()
            for made in stand.made:
                made.abort()
            stand.sweeper.close()
            await eventually(lambda: all(made.closed for made in stand.made), what="every connection to be gone")
            for _ in range(5):
                await asyncio.sleep(0)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_clean_connection_is_kept_and_taken_again_without_waiting():
    async with standing() as stand:
        assert stand.pool.take(stand.permit) is None
        first = await stand.acquire()
        assert (first.reused, stand.counts) == (False, (1, 0))
        stand.give_back(first)
        assert stand.counts == (0, 1)
        assert stand.pool.take(stand.permit) is first
        assert (first.reused, stand.counts) == (True, (1, 0))


async def test_the_newest_idle_connection_is_taken_first():
    async with standing() as stand:
        first, second = await stand.acquire(), await stand.acquire()
        stand.give_back(first)
        stand.give_back(second)
        assert [stand.pool.take(stand.permit), stand.pool.take(stand.permit)] == [second, first]


@pytest.mark.parametrize("does", ["surplus", "fin"])
@pytest.mark.parametrize("waiting", [False, True], ids=["idle", "handed-over"])
async def test_what_came_but_was_not_read_yet_keeps_a_connection_from_being_used_again(does: str, waiting: bool):
    async with standing(limit=1) as stand:
        upstream = await stand.acquire()
        origin = (await stand.upstream.connection(0)).transport.get_extra_info("socket")
        waiter = asyncio.ensure_future(stand.acquire()) if waiting else None
        await asyncio.sleep(0)
        stand.give_back(upstream)  # from here on no turn of the loop in which it could be read
        if does == "surplus":
            os.write(origin.fileno(), b"HTTP/1.1 200 OK\r\n")
        else:
            with socket.socket(fileno=os.dup(origin.fileno())) as duplicate:
                duplicate.shutdown(socket.SHUT_WR)
        if waiter is None:
            assert stand.pool.take(stand.permit) is None
            assert stand.counts == (0, 0)
        else:
            assert await waiter is not upstream
            assert stand.counts == (1, 0)
        await eventually(lambda: upstream.closed, what="it to be closed")


@pytest.mark.parametrize("waiting", [False, True], ids=["idle", "handed-over"])
async def test_what_came_over_tls_while_paused_keeps_a_connection_from_being_used_again(certificates: CertificateAuthority, waiting: bool):
    async with standing(limit=1, certificates=certificates) as stand:
        upstream = await stand.acquire()
        origin = await stand.upstream.connection(0)
        upstream.pause_reading()  # as after a piece of an answer that the caller did not take at once
        await origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray")
        await eventually(upstream.has_unread, what="it to arrive")
        waiter = asyncio.ensure_future(stand.acquire()) if waiting else None
        await asyncio.sleep(0)
        stand.give_back(upstream)
        if waiter is None:
            assert stand.pool.take(stand.permit) is None
        else:
            assert await waiter is not upstream
        await eventually(lambda: upstream.closed, what="it to be closed")


async def test_what_tls_has_not_decrypted_yet_keeps_a_connection_from_being_used_again(certificates: CertificateAuthority):
    async with standing(limit=1, certificates=certificates) as stand:
        upstream = await stand.acquire()
        origin = await stand.upstream.connection(0)
        upstream.pause_reading()
        for _ in range(4000):
            origin.transport.write(b"x")  # a record each: more than is decrypted in one turn
        kernel = upstream.transport.get_extra_info("socket").fileno()
        await eventually(lambda: array("i", fcntl.ioctl(kernel, termios.FIONREAD, bytes(4)))[0] >= 80_000, what="all of it to arrive")
        await upstream.fill()
        assert 0 < len(upstream.take(len(upstream.received))) < 4000
        stand.give_back(upstream)
        assert stand.pool.take(stand.permit) is None


@pytest.mark.parametrize("spoil", ["unclean", "ended", "bytes left", "choked"])
async def test_a_connection_that_is_not_certainly_clean_is_closed(spoil: str):
    async with standing() as stand:
        upstream = await stand.acquire()
        origin = await stand.upstream.connection(0)
        if spoil == "ended":
            upstream.eof = True
        elif spoil == "bytes left":
            upstream.received = b"x"
        elif spoil == "choked":
            upstream.write_blocked = True
        stand.give_back(upstream, clean=spoil != "unclean")
        assert stand.counts == (0, 0)
        assert await origin.wait_ended() in ("eof", "reset")
        assert stand.pool.take(stand.permit) is None


@pytest.mark.parametrize(
    ("announced_s", "setting_s", "kept_s"),
    [
        (None, None, 4),
        (30, None, 29),
        (5, None, 4),
        (2, None, 1),
        (1, None, 1),
        (0, None, 1),
        (61, None, 60),
        (3600, None, 60),
        (30, 7.5, 7.5),
    ],
)
async def test_how_long_an_idle_connection_is_kept(announced_s: int | None, setting_s: float | None, kept_s: float):
    async with standing(idle_s=setting_s) as stand:
        upstream = await stand.acquire()
        stand.give_back(upstream, announced_s=announced_s)
        assert upstream.deadline_at == pytest.approx(now() + kept_s, abs=0.2)


async def test_what_grew_old_speaks_or_ends_while_idle_is_discarded():
    async with standing(limit=3) as stand:
        connections = [await stand.acquire() for _ in range(3)]
        origins = [await stand.upstream.connection(at) for at in range(3)]
        ports = [one.transport.get_extra_info("sockname")[1] for one in connections]
        by_port = {origin.transport.get_extra_info("peername")[1]: origin for origin in origins}
        for one in connections:
            stand.give_back(one)
        connections[0].deadline_at = now()
        await by_port[ports[1]].send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        await by_port[ports[2]].reset()
        await eventually(lambda: stand.counts == (0, 0), what="all three to be discarded")
        assert stand.pool.take(stand.permit) is None
        assert all([await by_port[port].wait_ended() for port in ports])


async def test_the_limit_counts_connections_in_use_idle_and_being_made():
    async with standing(limit=2, queue_s=0.05) as stand:
        first, _ = await stand.acquire(), await stand.acquire()
        with pytest.raises(Fault) as refused:
            await stand.acquire()
        assert (refused.value.code, refused.value.detail.partition(":")[0]) == ("limit_connections", "queue")
        stand.give_back(first)
        assert await stand.acquire() is first


async def test_waiters_are_served_in_order_and_none_overtakes():
    async with standing(limit=1) as stand:
        first = await stand.acquire()
        served: list[int] = []

        async def wait(number: int) -> None:
            upstream = await stand.acquire()
            served.append(number)
            stand.give_back(upstream)

        waiting = [asyncio.ensure_future(wait(number)) for number in range(5)]
        await asyncio.sleep(0)
        stand.give_back(first)
        assert stand.pool.take(stand.permit) is None, "it went to the first in the line, not to the next who asks"
        await asyncio.gather(*waiting)
        assert served == [0, 1, 2, 3, 4]
        assert len(stand.upstream.connections) == 1


async def test_a_waiter_takes_the_place_of_a_connection_that_was_not_clean():
    async with standing(limit=1) as stand:
        first = await stand.acquire()
        waiting = asyncio.ensure_future(stand.acquire())
        await asyncio.sleep(0)
        stand.give_back(first, clean=False)
        second = await waiting
        assert second is not first
        assert stand.counts == (1, 0)


async def test_who_leaves_the_line_is_passed_over_and_forgotten():
    async with standing(limit=1, queue_s=0.05) as stand:
        first = await stand.acquire()
        for _ in range(50):
            with pytest.raises(Fault):
                await stand.acquire()
        assert len(first.bucket.waiters) == 0, "a pool that stays full must not gather who gave up"
        leaver = asyncio.ensure_future(stand.acquire())
        await asyncio.sleep(0)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        stand.give_back(first)
        assert stand.counts == (0, 1)


@pytest.mark.parametrize("clean", [True, False])
async def test_leaving_in_the_very_moment_of_ones_turn_gives_the_place_on(clean: bool):
    async with standing(limit=1) as stand:
        first = await stand.acquire()
        leaver = asyncio.ensure_future(stand.acquire())
        next_one = asyncio.ensure_future(stand.acquire())
        await asyncio.sleep(0)
        stand.give_back(first, clean=clean)  # the leaver has it, but does not know yet
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        async with asyncio.timeout(30):
            second = await next_one
        stand.give_back(second)
        assert stand.counts == (0, 1)
        assert second.bucket.count == 1


async def test_leaving_during_the_dial_gives_the_place_back():
    async with standing(limit=1, queue_s=1) as stand:
        leaver = asyncio.ensure_future(stand.acquire())
        await asyncio.sleep(0)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        assert (await stand.acquire()).bucket.count == 1


async def test_a_dial_that_fails_gives_the_place_to_the_next_in_line():
    async with standing(limit=1) as stand:
        first = await stand.acquire()
        await stand.upstream.stop_listening()
        waiting = [asyncio.ensure_future(stand.acquire()) for _ in range(3)]
        await asyncio.sleep(0)
        stand.give_back(first, clean=False)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [outcome.code for outcome in outcomes if isinstance(outcome, Fault)] == ["connect_refused"] * 3
        assert stand.counts == (0, 0)
        await stand.upstream.start()
        assert (await stand.acquire()).bucket.count == 1


async def test_fresh_is_fresh_even_when_the_pool_is_full():
    """The second try of J3 must not meet another connection that may be dead."""
    async with standing(limit=1) as stand:
        first = await stand.acquire()
        stand.give_back(first)
        second = await stand.acquire(fresh=True)
        assert (second is first, second.reused) == (False, False)
        waiting = asyncio.ensure_future(stand.acquire(fresh=True))
        await asyncio.sleep(0)
        stand.give_back(second)
        third = await waiting
        assert (third is second, third.reused, third.bucket.count) == (False, False, 1)


async def test_a_connection_handed_over_that_ended_meanwhile_is_replaced():
    async with standing(limit=1) as stand:
        first = await stand.acquire()
        waiting = asyncio.ensure_future(stand.acquire())
        await asyncio.sleep(0)
        stand.give_back(first)
        first.eof = True
        second = await waiting
        assert (second is first, second.bucket.count) == (False, 1)


async def test_connections_of_an_older_generation_are_never_used_again(certificates: CertificateAuthority, tmp_path: Path):
    ca_file = tmp_path / "roots.pem"
    ca_file.write_bytes(certificates.ca_pem)
    async with standing(limit=3, certificates=certificates) as stand:
        stand.permit = permit(stand.upstream.port, ca_file=ca_file)
        kept, busy, idle = await stand.acquire(), await stand.acquire(), await stand.acquire()
        stand.give_back(idle)
        stand.give_back(kept)
        ca_file.write_bytes(certificates.ca_pem + b"# changed")
        kept.bucket.tls.refresh()
        assert stand.pool.take(stand.permit) is None
        stand.give_back(busy)
        assert stand.counts == (0, 0)
        ca_file.write_bytes(certificates.ca_pem + b"# changed again")
        new = await stand.acquire(stand.permit)
        assert (new.generation, new.bucket.count) == (2, 1), "the file is looked at for each new connection"
        stand.give_back(new)
        stand.pool.retire_generation()
        assert stand.counts == (0, 1), "it is of the present generation"
        new.bucket.tls.reload()
        stand.pool.retire_generation()
        assert stand.counts == (0, 0)


async def test_two_profiles_at_one_place_never_share_a_connection(certificates: CertificateAuthority, tmp_path: Path):
    """The same host and port, twice: one route trusts the CA that signed, the other one trusts another."""
    other = CertificateAuthority(tmp_path, name="other")
    async with standing(certificates=certificates) as stand:
        trusted, distrusted = stand.permit, permit(stand.upstream.port, ca_file=other.ca_file)
        first = await stand.acquire(trusted)
        stand.give_back(first)
        assert stand.pool.take(distrusted) is None
        with pytest.raises(Fault, match="unknown_ca"):
            await stand.acquire(distrusted)
        assert stand.pool.take(trusted) is first
        stand.upstream.tls = context(other)
        await stand.upstream.stop_listening()
        await stand.upstream.start()
        second = await stand.acquire(distrusted)
        assert (second.bucket.tls.profile, second is first) == (distrusted.endpoint.tls, False)
        with pytest.raises(Fault, match="unknown_ca"):
            await stand.acquire(trusted)
        stand.give_back(first)
        stand.give_back(second)
        assert [stand.pool.take(one) for one in (trusted, distrusted)] == [first, second]


async def test_closing_keeps_nothing_from_then_on():
    async with standing() as stand:
        idle, busy = await stand.acquire(), await stand.acquire()
        stand.give_back(idle)
        stand.pool.begin_closing()
        assert stand.counts == (1, 0)
        stand.give_back(busy)
        assert stand.counts == (0, 0)


async def test_origins_do_not_share_connections_or_places():
    async with standing(limit=1) as stand, RecordingUpstream(hold) as other:
        first = await stand.acquire()
        second = await stand.pool.acquire(stand.permit_for(other.port))
        stand.made.append(second)
        assert first.bucket is not second.bucket
        assert (second.address.host, second.address.port) == ("127.0.0.1", other.port)
        stand.give_back(second)
        assert stand.pool.take(stand.permit) is None
        assert stand.pool.take(stand.permit_for(other.port)) is second


async def test_a_thousand_random_steps_leave_no_place_behind():
    """Acquire, leave, fail, give back, clean or not, in any order: at the end the bucket holds what is idle and nothing else."""
    chance = random.Random(7)
    async with standing(limit=4, queue_s=0.02) as stand:

        async def visit() -> None:
            try:
                async with asyncio.timeout(chance.choice([0.0, 0.001, 0.01, 1])):
                    upstream = await stand.acquire(fresh=chance.random() < 0.2)
            except (Fault, TimeoutError):
                return
            await asyncio.sleep(chance.choice([0, 0, 0.001]))
            stand.give_back(upstream, clean=chance.random() < 0.7)

        for _ in range(50):
            await asyncio.gather(*(visit() for _ in range(20)))
        assert stand.counts == (0, stand.pool.open_count)
        assert stand.pool.open_count <= 4
        assert not any(bucket.waiters for bucket in stand.pool.buckets.values())


# the limit in all


def names(stand: Stand, count: int) -> list[Permit]:
    """Permits to so many origins at one place."""
    hosts = (f"127.0.1.{number}" for number in range(1, count + 1))
    return [permit(stand.upstream.port, host=host) for host in hosts]


@contextlib.asynccontextmanager
async def many_origins(**rest: Any) -> AsyncIterator[tuple[Stand, list[Permit]]]:
    async with standing(**rest) as stand, RecordingUpstream(hold, host="0.0.0.0") as upstream:
        stand.upstream = upstream
        yield stand, names(stand, 200)


async def test_origins_that_callers_choose_hold_no_memory():
    async with many_origins() as (stand, permits):
        for leave in permits[:50]:
            stand.give_back(await stand.acquire(leave), clean=False)
            assert stand.pool.take(leave) is None
        assert (stand.pool.open_count, len(stand.pool.buckets)) == (0, 0)
        stand.give_back(await stand.acquire(permits[0]))
        assert len(stand.pool.buckets) == 1
        stand.pool.begin_closing()
        assert len(stand.pool.buckets) == 0


async def test_a_full_pool_closes_the_idle_connection_that_was_used_longest_ago():
    async with many_origins(total=3, queue_s=0.05) as (stand, permits):
        first, second, third = [await stand.acquire(leave) for leave in permits[:3]]
        for upstream in (second, first, third):
            stand.give_back(upstream)
        fourth = await stand.acquire(permits[3])
        assert stand.counts == (1, 2)
        assert [stand.pool.take(leave) for leave in permits[:3]] == [first, None, third]
        with pytest.raises(Fault, match="queue"):
            await stand.acquire(permits[4])
        assert len(stand.pool.buckets) == 3, "the bucket of a request that gave up is dropped"
        stand.give_back(fourth)


async def test_endpoints_take_turns_for_a_full_pool_and_each_is_served_in_order():
    async with many_origins(total=2) as (stand, permits):
        held = [await stand.acquire(permits[0]) for _ in range(2)]
        served: list[str] = []

        async def visit(leave: Permit, name: str) -> None:
            upstream = await stand.acquire(leave)
            served.append(name)
            await asyncio.sleep(0)
            stand.give_back(upstream)

        visits = [asyncio.ensure_future(visit(permits["abc".index(name[0])], name)) for name in "a1 a2 a3 b1 b2 c1".split()]
        await asyncio.sleep(0)
        stand.give_back(held[0], clean=False)  # one place, so that the order of dials is that of turns
        await asyncio.gather(*visits)
        assert sorted(served[:3]) == ["a1", "b1", "c1"]
        assert [name for name in served if name[0] == "a"] == ["a1", "a2", "a3"]
        stand.give_back(held[1])
        assert stand.pool.open_count <= 2


async def test_a_place_given_up_goes_to_another_endpoint_if_its_own_cannot_use_it():
    async with many_origins(limit=1, total=1) as (stand, permits):
        first = await stand.acquire(permits[0])
        waiting = asyncio.ensure_future(stand.acquire(permits[1]))
        await asyncio.sleep(0)
        stand.give_back(first)
        second = await waiting
        await eventually(lambda: first.closed, what="the clean connection to be closed for the other endpoint")
        assert (second.bucket.count, stand.pool.open_count, len(stand.pool.buckets)) == (1, 1, 1)
