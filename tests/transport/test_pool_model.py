"""The pool against a model of itself: any order of asking, giving back, leaving and dying, for several endpoints, keeps counts and turns.

Each step is followed by as many turns of the loop as it takes until no request can be served that is not; then the two are compared. A rule
that has nothing to do does nothing: when the kernel does what is no reason for hypothesis to draw otherwise.
"""

import asyncio
from typing import Any

import uvloop
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.permits import permit_to

from robin.model.limits import Deadlines, Limits
from robin.model.origin import Origin
from robin.policy.addresses import refuse_own_listeners
from robin.telemetry.metrics import Metrics
from robin.testing.waiting import eventually
from robin.transport.deadlines import Sweeper
from robin.transport.dial import Dialer
from robin.transport.pool import Bucket, Pool, Upstream
from robin.transport.resolve import Resolver

CHOICE = st.integers(0, 10**6)
ENDPOINTS = 3
Task = asyncio.Task[Upstream]


Ends = tuple[str, int]
"""The origin's address, and the port of our end: two connections to different addresses may have one port here."""


class Peer(asyncio.Protocol):
    """The origin's end of one connection."""

    def __init__(self, peers: "dict[Ends, Peer]") -> None:
        self._peers = peers
        self._ends: Ends = ("", 0)
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._ends = transport.get_extra_info("sockname")[0], transport.get_extra_info("peername")[1]
        self._peers[self._ends] = self

    def connection_lost(self, _: Exception | None) -> None:
        self._peers.pop(self._ends, None)


def ends(upstream: Upstream) -> Ends:
    return upstream.transport.get_extra_info("peername")[0], upstream.transport.get_extra_info("sockname")[1]


class PoolMachine(RuleBasedStateMachine):
    """`held`: what was handed out and not given back. `lines`: by endpoint, the requests that wait, in order.

    `turns`: the endpoints with a line, in the order in which they are served.
    """

    @initialize(limit=st.integers(1, 3), total=st.integers(1, 5))
    def open(self, limit: int, total: int) -> None:
        self.loop = uvloop.new_event_loop()
        self.limit, self.total = limit, total
        self.peers: dict[Ends, Peer] = {}
        self.server = self.loop.run_until_complete(self.loop.create_server(lambda: Peer(self.peers), "0.0.0.0", 0))
        port = self.server.sockets[0].getsockname()[1]
        origins = [Origin(scheme="http", host=f"127.0.0.{at + 1}", port=port, authority=b"%d.test" % at) for at in range(ENDPOINTS)]
        self.permits = [permit_to(origin) for origin in origins]
        self.metrics = Metrics(version="0", unsafe={})
        resolver = Resolver(self.loop, is_own_listener=lambda *_: False)
        sweeper = Sweeper(self.loop)  # not started: nothing expires by itself
        self.pool = Pool(
            self.loop,
            dialer=Dialer(self.loop, sweeper, resolver=resolver, judge=refuse_own_listeners, tls=None, connect_s=5),
            sweeper=sweeper,
            limits=Limits(upstream_connections=limit, upstream_total=total),
            deadlines=Deadlines(queue_s=60),
            metrics=self.metrics,
        )
        self.held: list[Upstream] = []
        self.lines: list[list[Task]] = [[] for _ in range(ENDPOINTS)]
        self.turns: list[int] = []

    async def _ask(self, at: int, fresh: bool) -> Upstream:
        upstream = await self.pool.acquire(self.permits[at], fresh=fresh)
        assert upstream not in self.held, "one connection was handed to two"
        assert upstream.bucket.endpoint is self.permits[at].endpoint
        assert not (fresh and upstream.reused)
        self.held.append(upstream)
        return upstream

    def _bucket(self, at: int) -> Bucket:
        endpoint = self.permits[at].endpoint
        return self.pool.buckets.get(endpoint) or Bucket(self.pool, endpoint, None)

    @property
    def idle(self) -> list[Upstream]:
        return [upstream for bucket in self.pool.buckets.values() for upstream in bucket.idle]

    def _settle(self) -> None:
        """Run the loop until each place that is counted is a connection, and the origin saw what ended."""

        def quiet() -> bool:
            return len(self.held) + len(self.idle) == self.pool.open_count == len(self.peers)

        for _ in range(2):  # a request that is to leave has left
            self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(eventually(quiet, what="the pool to settle", every_s=0))

    @rule(asked=st.lists(st.tuples(st.integers(0, ENDPOINTS - 1), st.booleans()), min_size=1, max_size=4))
    def ask(self, asked: list[tuple[int, bool]]) -> None:
        tasks = [(at, self.loop.create_task(self._ask(at, fresh))) for at, fresh in asked]
        self._settle()
        for at, task in tasks:
            if not task.done():
                self.lines[at].append(task)
                if at not in self.turns:
                    self.turns.append(at)

    def _expect_service(self, freed: int) -> Task | None:
        """Whose turn it is when an endpoint gives up a place; it is taken out of its line."""
        for at in self.turns:
            if at == freed or self._bucket(at).count < self.limit:
                self.turns.remove(at)
                task = self.lines[at].pop(0)
                if self.lines[at]:
                    self.turns.append(at)
                return task
        return None

    def _forget(self, at: int, task: Task) -> None:
        self.lines[at].remove(task)
        if not self.lines[at]:
            self.turns.remove(at)

    def _endpoint_of(self, upstream: Upstream) -> int:
        return next(at for at, permit in enumerate(self.permits) if permit.endpoint is upstream.bucket.endpoint)

    def _check_served(self, expected: Task | None) -> None:
        self._settle()
        assert expected is None or expected.done(), "the request whose turn it was is passed over"
        assert not any(task.done() for line in self.lines for task in line), "a request was served before its turn"

    @rule(which=CHOICE, clean=st.booleans())
    def give_back(self, which: int, clean: bool) -> None:
        if self.held:
            upstream = self.held[which % len(self.held)]
            expected = self._expect_service(self._endpoint_of(upstream))
            self._release(upstream, clean)
            self._check_served(expected)

    def _release(self, upstream: Upstream, clean: bool) -> None:
        self.held.remove(upstream)
        upstream.reusable = clean
        self.pool.release(upstream, None)

    @rule(which=CHOICE)
    def leave_the_line(self, which: int) -> None:
        waiting = [(at, task) for at, line in enumerate(self.lines) for task in line]
        if waiting:
            at, task = waiting[which % len(waiting)]
            task.cancel()
            self._forget(at, task)
            self._settle()

    @rule(which=CHOICE, clean=st.booleans(), first=st.booleans())
    def leave_in_the_moment_of_ones_turn(self, which: int, clean: bool, first: bool) -> None:
        if not (self.turns and self.held):
            return
        upstream = self.held[which % len(self.held)]
        freed = self._endpoint_of(upstream)
        leaver_at = next((at for at in self.turns if at == freed or self._bucket(at).count < self.limit), None)
        if leaver_at is None:
            return
        leaver = self.lines[leaver_at][0]
        if first:
            leaver.cancel()
            self._forget(leaver_at, leaver)
            expected = self._expect_service(freed)
            self._release(upstream, clean)
        else:
            assert self._expect_service(freed) is leaver
            self._release(upstream, clean)
            leaver.cancel()
            expected = self._expect_service(leaver_at)
        self._check_served(expected)

    @rule(which=CHOICE, speaks=st.booleans())
    def an_idle_connection_ends_or_speaks(self, which: int, speaks: bool) -> None:
        if not self.idle:
            return
        upstream = self.idle[which % len(self.idle)]
        peer = self.peers[ends(upstream)]
        if speaks:
            peer.transport.write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        else:
            peer.transport.close()
        self.loop.run_until_complete(eventually(lambda: upstream not in self.idle, what="it to be discarded", every_s=0))
        self._check_served(None)

    @rule(which=CHOICE)
    def a_held_connection_dies_and_is_given_back(self, which: int) -> None:
        if not self.held:
            return
        upstream = self.held[which % len(self.held)]
        self.peers[ends(upstream)].transport.abort()
        self.loop.run_until_complete(eventually(lambda: upstream.eof, what="the end to be noticed", every_s=0))
        expected = self._expect_service(self._endpoint_of(upstream))
        self._release(upstream, True)
        self._check_served(expected)

    @invariant()
    def the_counts_agree(self) -> None:
        assert self.pool.open_count == len(self.held) + len(self.idle) <= self.total
        assert all(bucket.count <= self.limit for bucket in self.pool.buckets.values())
        assert self.pool.open_count == sum(bucket.count for bucket in self.pool.buckets.values())
        assert (self.metrics.upstream_active, self.metrics.upstream_idle) == (len(self.held), len(self.idle))

    @invariant()
    def no_request_waits_while_there_is_a_place_for_it(self) -> None:
        for at, line in enumerate(self.lines):
            bucket = self._bucket(at)
            assert len([waiter for waiter in bucket.waiters if not waiter.done()]) == len(line)
            assert not line or bucket.count == self.limit or self.pool.open_count == self.total
            assert not line or not bucket.idle
            assert not line or bucket.count == self.limit or not self.idle

    @invariant()
    def a_bucket_without_connections_and_waiters_is_gone(self) -> None:
        assert all(bucket.count or bucket.waiters for bucket in self.pool.buckets.values())

    @invariant()
    def an_idle_connection_is_not_in_use(self) -> None:
        assert not set(self.held) & set(self.idle)
        assert all(upstream.pooled for upstream in self.idle)
        assert not any(upstream.pooled for upstream in self.held)

    def teardown(self) -> None:
        for line in self.lines:
            for task in line:
                task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        while self.held:
            self._release(self.held[0], False)
        self.pool.begin_closing()
        self._settle()
        assert (self.pool.open_count, self.pool.buckets) == (0, {})
        self.server.close()
        for _ in range(5):
            self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
