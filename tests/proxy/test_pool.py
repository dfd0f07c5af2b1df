"""The pool by itself: what is kept and how long, who waits and in what order, and that no way of leaving leaks a place (J2, J6)."""

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator

import pytest
from tests.permits import permit_to
from tests.transport.test_dial import dialer, permit

from robin.model.faults import Fault
from robin.model.limits import Deadlines, Limits
from robin.model.origin import Origin
from robin.model.verdict import Permit
from robin.proxy.pool import Pool, Upstream
from robin.telemetry.metrics import Metrics
from robin.testing.certificates import CertificateAuthority
from robin.testing.recording_upstream import RecordingUpstream, hold
from robin.testing.waiting import eventually
from robin.transport.deadlines import Sweeper
from robin.transport.dial import Dialer
from robin.transport.tls import UpstreamTls


class Roots:
    """A generation that the test turns."""

    def __init__(self) -> None:
        self.generation = 0
        self.looks = 0

    def refresh(self) -> None:
        self.looks += 1


class Stand:
    """A pool on a real upstream that holds its connections."""

    def __init__(
        self,
        upstream: RecordingUpstream,
        *,
        limit: int,
        queue_s: float,
        idle_s: float | None,
        roots: Roots | None,
        dialer: Dialer | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.upstream = upstream
        self.sweeper = Sweeper(loop)
        self.metrics = Metrics(version="0", unsafe={})
        self.pool = Pool(
            loop,
            dialer=dialer or Dialer(loop, tls=None, connect_s=5, own=lambda *_: False),
            tls=roots,
            sweeper=self.sweeper,
            limits=Limits(upstream_connections=limit),
            deadlines=Deadlines(queue_s=queue_s, upstream_idle_s=idle_s),
            metrics=self.metrics,
        )
        self.permit = self.permit_for(upstream.port)
        self.made: list[Upstream] = []

    def permit_for(self, port: int) -> Permit:
        origin = Origin(scheme="http", host="127.0.0.1", port=port, authority=f"127.0.0.1:{port}".encode())
        return permit_to(origin)

    async def acquire(self, *, fresh: bool = False) -> Upstream:
        upstream = await self.pool.acquire(self.permit, fresh=fresh)
        self.made.append(upstream)
        return upstream

    def give_back(self, upstream: Upstream, *, clean: bool = True, announced_s: int | None = None) -> None:
        upstream.reusable = clean
        self.pool.release(upstream, announced_s)

    @property
    def counts(self) -> tuple[int, int]:
        """(active, idle) as the metrics say."""
        return self.metrics.upstream_active, self.metrics.upstream_idle


@contextlib.asynccontextmanager
async def standing(
    *,
    limit: int = 2,
    queue_s: float = 5.0,
    idle_s: float | None = None,
    roots: Roots | None = None,
    certificates: CertificateAuthority | None = None,
) -> AsyncIterator[Stand]:
    tls = None if certificates is None else certificates.issue("broker.test").server_context()
    async with RecordingUpstream(hold, tls=tls) as upstream:
        secure = None if certificates is None else dialer("127.0.0.1", tls=UpstreamTls(str(certificates.ca_file), lambda _: None))
        stand = Stand(upstream, limit=limit, queue_s=queue_s, idle_s=idle_s, roots=roots, dialer=secure)
        if certificates is not None:
            stand.permit = permit(upstream.port, scheme="https")
        stand.sweeper.start()
        try:
            yield stand
        finally:
            stand.pool.begin_drain()
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
async def test_what_tls_holds_keeps_a_connection_from_being_used_again(certificates: CertificateAuthority, waiting: bool):
    async with standing(limit=1, certificates=certificates) as stand:
        upstream = await stand.acquire()
        origin = await stand.upstream.connection(0)
        upstream.pause_reading()  # as after a piece of an answer that the caller did not take at once
        await origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray")
        await eventually(upstream.holds_unread, what="TLS to hold it")
        waiter = asyncio.ensure_future(stand.acquire()) if waiting else None
        await asyncio.sleep(0)
        stand.give_back(upstream)
        if waiter is None:
            assert stand.pool.take(stand.permit) is None
        else:
            assert await waiter is not upstream
        await eventually(lambda: upstream.closed, what="it to be closed")


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


async def test_waiters_are_served_in_order_and_nobody_overtakes():
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
        async with asyncio.timeout(5):
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


async def test_connections_of_an_older_generation_are_never_used_again():
    roots = Roots()
    async with standing(limit=3, roots=roots) as stand:
        kept, busy = await stand.acquire(), await stand.acquire()
        stand.give_back(kept)
        roots.generation = 1
        assert stand.pool.take(stand.permit) is None
        stand.give_back(busy)
        assert stand.counts == (0, 0)
        new = await stand.acquire()
        assert (new.generation, new.bucket.count) == (1, 1)
        stand.give_back(new)
        stand.pool.retire_generation()
        assert stand.counts == (0, 0)
        assert roots.looks == 3, "a look at the file for each new connection"


async def test_closing_keeps_nothing_from_then_on():
    async with standing() as stand:
        idle, busy = await stand.acquire(), await stand.acquire()
        stand.give_back(idle)
        stand.pool.begin_drain()
        assert stand.counts == (1, 0)
        stand.give_back(busy)
        assert stand.counts == (0, 0)


async def test_origins_do_not_share_connections_or_places():
    async with standing(limit=1) as stand, RecordingUpstream(hold) as other:
        first = await stand.acquire()
        second = await stand.pool.acquire(stand.permit_for(other.port))
        stand.made.append(second)
        assert first.bucket is not second.bucket
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
        bucket = stand.made[0].bucket
        assert bucket.count == len(bucket.idle) <= 4
        assert stand.counts == (0, len(bucket.idle))
        assert len(bucket.waiters) == 0
