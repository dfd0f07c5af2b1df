"""The pool against a model of itself: any order of asking, giving back, leaving and dying keeps its counts and its line.

Each step is followed by as many turns of the loop as it takes until nobody can be served who is not; then the two are compared. A rule that
has nothing to do does nothing: what the kernel does when is no reason for hypothesis to draw otherwise.
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
from robin.proxy.pool import Bucket, Pool, Upstream
from robin.telemetry.metrics import Metrics
from robin.testing.waiting import eventually
from robin.transport.deadlines import Sweeper
from robin.transport.dial import Dialer

CHOICE = st.integers(0, 10**6)


class Peer(asyncio.Protocol):
    """The origin's end of one connection, found by the port of ours."""

    def __init__(self, peers: "dict[int, Peer]") -> None:
        self._peers = peers
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._peers[transport.get_extra_info("peername")[1]] = self

    def connection_lost(self, _: Exception | None) -> None:
        self._peers.pop(self.transport.get_extra_info("peername")[1], None)


class PoolMachine(RuleBasedStateMachine):
    """`asking`: who has asked and was not served, in order. `held`: what was handed out and not given back."""

    @initialize(limit=st.integers(1, 3))
    def open(self, limit: int) -> None:
        self.loop = uvloop.new_event_loop()
        self.limit = limit
        self.peers: dict[int, Peer] = {}
        self.server = self.loop.run_until_complete(self.loop.create_server(lambda: Peer(self.peers), "127.0.0.1", 0))
        port = self.server.sockets[0].getsockname()[1]
        self.permit = permit_to(Origin(scheme="http", host="127.0.0.1", port=port, authority=b"127.0.0.1:%d" % port))
        self.metrics = Metrics(version="0", unsafe={})
        self.pool = Pool(
            self.loop,
            dialer=Dialer(self.loop, tls=None, connect_s=5, own=lambda *_: False),
            tls=None,
            sweeper=Sweeper(self.loop),  # not started: nothing grows old by itself
            limits=Limits(upstream_connections=limit),
            deadlines=Deadlines(queue_s=60),
            metrics=self.metrics,
        )
        self.bucket = self.pool._buckets.setdefault(self.permit.endpoint.origin, Bucket(self.metrics))
        self.asking: list[asyncio.Task[Upstream]] = []
        self.held: list[Upstream] = []
        self.served: list[asyncio.Task[Upstream]] = []

    async def _ask(self, fresh: bool) -> Upstream:
        upstream = await self.pool.acquire(self.permit, fresh=fresh)
        assert upstream not in self.held, "one connection was handed to two"
        assert not (fresh and upstream.reused)
        self.held.append(upstream)
        task = asyncio.current_task()
        assert task is not None
        self.served.append(task)
        return upstream

    def _settle(self) -> None:
        """Turn the loop until whoever can be served is, and the origin saw what ended."""

        def quiet() -> bool:
            self.asking = [task for task in self.asking if not task.done()]
            stuck = len(self.held) == self.limit or not self.asking
            return stuck and len(self.peers) == self.bucket.count

        self.loop.run_until_complete(eventually(quiet, what="the pool to settle", every_s=0))

    @rule(fresh=st.lists(st.booleans(), min_size=1, max_size=4))
    def ask(self, fresh: list[bool]) -> None:
        for one in fresh:
            self.asking.append(self.loop.create_task(self._ask(one)))
        self._settle()

    @rule(which=CHOICE, clean=st.booleans())
    def give_back(self, which: int, clean: bool) -> None:
        if not self.held:
            return
        waiting = list(self.asking)
        self._release(which, clean)
        self._settle()
        if waiting:
            assert waiting[0].done(), "the first in the line was passed over"
            assert self.served[-1] is waiting[0]

    def _release(self, which: int, clean: bool) -> None:
        upstream = self.held.pop(which % len(self.held))
        upstream.reusable = clean
        self.pool.release(upstream, None)

    @rule(which=CHOICE)
    def leave_the_line(self, which: int) -> None:
        if not self.asking:
            return
        self.asking[which % len(self.asking)].cancel()
        self._settle()

    @rule(which=CHOICE, clean=st.booleans(), first=st.booleans())
    def leave_in_the_moment_of_ones_turn(self, which: int, clean: bool, first: bool) -> None:
        if not (self.asking and self.held):
            return
        if first:
            self.asking[0].cancel()
        self._release(which, clean)
        if not first:
            self.asking[0].cancel()
        self._settle()

    @rule(which=CHOICE, speaks=st.booleans())
    def an_idle_connection_ends_or_speaks(self, which: int, speaks: bool) -> None:
        if not self.bucket.idle:
            return
        upstream = self.bucket.idle[which % len(self.bucket.idle)]
        peer = self.peers[upstream.transport.get_extra_info("sockname")[1]]
        if speaks:
            peer.transport.write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        else:
            peer.transport.close()
        self.loop.run_until_complete(eventually(lambda: upstream not in self.bucket.idle, what="it to be discarded", every_s=0))
        self._settle()

    @rule(which=CHOICE)
    def a_held_connection_dies_and_is_given_back(self, which: int) -> None:
        if not self.held:
            return
        upstream = self.held[which % len(self.held)]
        self.peers[upstream.transport.get_extra_info("sockname")[1]].transport.abort()
        self.loop.run_until_complete(eventually(lambda: upstream.eof, what="the end to be heard", every_s=0))
        self._release(which, True)
        self._settle()

    @invariant()
    def the_counts_agree(self) -> None:
        bucket = self.bucket
        assert bucket.count <= self.limit
        assert bucket.count == len(self.held) + len(bucket.idle)
        assert (self.metrics.upstream_active, self.metrics.upstream_idle) == (len(self.held), len(bucket.idle))

    @invariant()
    def nobody_waits_while_there_is_something_to_have(self) -> None:
        waiting = [waiter for waiter in self.bucket.waiters if not waiter.done()]
        assert len(waiting) == len(self.asking)
        assert not waiting or len(self.held) == self.limit

    @invariant()
    def what_is_idle_is_nobodys(self) -> None:
        assert not set(self.held) & set(self.bucket.idle)
        assert all(upstream.pooled for upstream in self.bucket.idle)
        assert not any(upstream.pooled for upstream in self.held)

    def teardown(self) -> None:
        for task in self.asking:
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        while self.held:
            self._release(0, False)
        self.pool.begin_drain()
        self.asking = []
        self._settle()
        assert self.bucket.count == 0
        self.server.close()
        for _ in range(5):
            self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
