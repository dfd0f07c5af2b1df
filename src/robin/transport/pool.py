"""Upstream connections by endpoint: reused newest first while certainly alive, bounded per endpoint and in all, waited for in order.

Rules a reader must keep:
- A connection goes back only after a whole, clean exchange. One that receives data, hits EOF or expires while idle is closed with what it
  received, even in the moment of its reuse. One of an older TLS generation is never reused.
- No request waits while there is a place for it: the requests of one endpoint are served in order, and endpoints take turns.
- A bucket without connections and waiters is dropped, so endpoints that callers choose cannot hold memory.
"""

import asyncio
import math
import select
from collections import deque
from collections.abc import Callable
from typing import Final

from robin.model.address import ResolvedAddress
from robin.model.faults import Fault
from robin.model.limits import Deadlines, Limits
from robin.model.route import Endpoint
from robin.model.verdict import Permit
from robin.telemetry.metrics import Metrics
from robin.transport.deadlines import Sweeper
from robin.transport.dial import Dialer
from robin.transport.stream import Stream
from robin.transport.tls import TlsClient
from robin.wire.head_parser import ResponseParser

_IDLE_DEFAULT_S: Final = 4.0  # servers that close after 5 s are common
_IDLE_MIN_S: Final = 1.0
_IDLE_MAX_S: Final = 60.0


class Upstream(Stream):
    """One connection to `address`, which was judged. `reusable` is set at the clean end of an exchange, and only there.

    `reused`: it has carried an exchange before, so that the upstream may have closed it meanwhile (J3). `watch` polls for an EOF, or bytes,
    that the loop has not read yet. `idle_order` counts up with each connection that becomes idle.
    """

    __slots__ = ("address", "bucket", "generation", "idle_order", "parser", "reusable", "reused", "watch")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sweeper: Sweeper, bucket: "Bucket", generation: int, address: ResolvedAddress
    ) -> None:
        super().__init__(loop, sweeper)
        self.bucket = bucket
        self.generation = generation
        self.address = address
        self.reusable = False
        self.reused = False
        self.idle_order = 0
        self.parser = ResponseParser()
        self.watch = select.poll()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is established."""
        super().connection_made(transport)
        self.watch.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)

    def on_unexpected_data(self) -> None:
        """An idle connection received data, hit EOF or expired: it is closed with what it received."""
        self.bucket.pool.discard_idle(self)


class Bucket:
    """The connections of one endpoint. `count` is how many exist or are being dialled; `idle` is oldest first.

    `tls` is the TLS client that verifies them, None for cleartext.
    """

    __slots__ = ("count", "endpoint", "idle", "pool", "tls", "waiters")

    def __init__(self, pool: "Pool", endpoint: Endpoint, tls: TlsClient | None) -> None:
        self.pool = pool
        self.endpoint = endpoint
        self.tls = tls
        self.idle: list[Upstream] = []
        self.waiters: deque[asyncio.Future[Upstream | None]] = deque()
        self.count = 0


class Pool:
    """Every upstream connection of the process. `open_count`: how many exist or are being dialled.

    `buckets`: the endpoints that have a connection or a waiting request; to be read only.
    """

    __slots__ = (
        "_closing",
        "_deadlines",
        "_idle_order",
        "_idle_s",
        "_last_bucket",
        "_last_endpoint",
        "_limit",
        "_loop",
        "_metrics",
        "_sweeper",
        "_total",
        "_turns",
        "buckets",
        "dialer",
        "open_count",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        dialer: Dialer,
        sweeper: Sweeper,
        limits: Limits,
        deadlines: Deadlines,
        metrics: Metrics,
    ) -> None:
        self._loop = loop
        self.dialer = dialer
        self._sweeper = sweeper
        self._limit = limits.upstream_connections
        self._total = limits.upstream_total
        self._deadlines = deadlines
        self._idle_s = _IDLE_DEFAULT_S if deadlines.upstream_idle_s is None else deadlines.upstream_idle_s
        self._idle_order = 0
        self._metrics = metrics
        self.buckets: dict[Endpoint, Bucket] = {}
        self._turns: dict[Bucket, None] = {}  # the buckets with waiters, in the order of their turns
        self._last_endpoint: Endpoint | None = None  # most exchanges go where the last one went
        self._last_bucket: Bucket | None = None
        self._closing = False
        self.open_count = 0

    def use(self, limits: Limits, deadlines: Deadlines) -> None:
        """These bounds hold from now on; what is open beyond them goes on."""
        self._limit, self._total, self._deadlines = limits.upstream_connections, limits.upstream_total, deadlines
        self._idle_s = _IDLE_DEFAULT_S if deadlines.upstream_idle_s is None else deadlines.upstream_idle_s

    # take and acquire

    def take(self, permit: Permit) -> Upstream | None:
        """An idle connection that is not known to be dead, without awaiting; None when one must be acquired."""
        endpoint = permit.endpoint
        if endpoint is not self._last_endpoint:
            self._last_bucket = self.buckets.get(endpoint)
            self._last_endpoint = endpoint
        bucket = self._last_bucket
        if bucket is None:
            return None
        idle = bucket.idle
        while idle:
            upstream = idle.pop()
            upstream.pooled = False
            upstream.deadline_at = math.inf  # its idle time is over
            self._metrics.upstream_idle -= 1
            current = bucket.tls is None or upstream.generation == bucket.tls.generation
            if current and not upstream.watch.poll(0):  # its age is the sweep's business
                self._metrics.upstream_active += 1
                return upstream
            upstream.abort()
            self._vacate(bucket)
        return None

    async def acquire(self, permit: Permit, *, fresh: bool = False) -> Upstream:
        """A connection for this Permit: idle (unless `fresh`), dialled, or waited for in order. Raises Fault."""
        if not fresh and (upstream := self.take(permit)) is not None:
            return upstream
        bucket = self._bucket_of(permit.endpoint)
        if not self._make_room(bucket):
            handed = await self._wait(bucket)
            if handed is not None:
                if not (fresh or handed.eof or handed.received) and not handed.watch.poll(0):
                    self._metrics.upstream_active += 1
                    return handed
                handed.abort()  # its place is ours: dial in it
        return await self._dial(permit, bucket)

    def _bucket_of(self, endpoint: Endpoint) -> Bucket:
        bucket = self.buckets.get(endpoint)
        if bucket is None:
            tls = self.dialer.tls.client(endpoint.tls) if self.dialer.tls is not None and endpoint.origin.tls else None
            bucket = self.buckets[endpoint] = Bucket(self, endpoint, tls)
            self._last_endpoint = None  # `take` remembers that there is none
        return bucket

    def _make_room(self, bucket: Bucket) -> bool:
        """Count a place for a new connection, closing an idle one if there is no other. Returns False if the request must wait."""
        closable: list[Upstream] | None = None
        if bucket.count >= self._limit:
            closable = bucket.idle[:1]
        elif self.open_count >= self._total:
            closable = [other.idle[0] for other in self.buckets.values() if other.idle]
        if closable is not None and not closable:
            return False
        self._occupy(bucket)  # first, so that the bucket is not dropped with its last connection
        if closable:
            self.discard_idle(min(closable, key=lambda upstream: upstream.idle_order))
        return True

    async def _wait(self, bucket: Bucket) -> Upstream | None:
        """Wait in order for a clean connection, or None for leave to dial (the place is counted already)."""
        waiter: asyncio.Future[Upstream | None] = self._loop.create_future()
        bucket.waiters.append(waiter)
        self._turns.setdefault(bucket)
        try:
            async with asyncio.timeout(self._deadlines.queue_s):
                return await waiter
        except BaseException as error:
            if waiter in bucket.waiters:
                bucket.waiters.remove(waiter)  # a pool that stays full must not collect waiters that gave up
                self._prune(bucket)
            elif not waiter.cancelled():  # handed over in the moment in which the request gave up
                if (late := waiter.result()) is not None:
                    late.abort()
                self._vacate(bucket)
            if isinstance(error, TimeoutError):
                raise Fault("limit_connections", "queue: every upstream connection is busy; see {upstream_max_connections}") from None
            raise

    async def _dial(self, permit: Permit, bucket: Bucket) -> Upstream:
        """A new connection in a place that is counted already."""
        began = self._loop.time()
        if bucket.tls is not None:
            bucket.tls.refresh()
        generation = 0 if bucket.tls is None else bucket.tls.generation
        try:
            upstream = await self.dialer.dial(permit, lambda address: Upstream(self._loop, self._sweeper, bucket, generation, address))
        except BaseException as error:
            self._vacate(bucket)
            if isinstance(error, Fault):
                self._metrics.connected(error.code, self._loop.time() - began)
            raise
        self._metrics.connected("ok", self._loop.time() - began)
        self._metrics.upstream_active += 1
        return upstream

    # release

    def release(self, upstream: Upstream, announced_idle_s: int | None) -> None:
        """Give a connection back. It is kept only if its exchange ended clean and nothing is left on it."""
        bucket = upstream.bucket
        self._metrics.upstream_active -= 1
        if (
            not upstream.reusable
            or upstream.eof
            or upstream.received
            or upstream.write_blocked
            or self._closing
            or (bucket.tls is not None and (upstream.generation != bucket.tls.generation or upstream.transport.get_read_buffer_size()))
        ):
            upstream.abort()
            self._vacate(bucket)
            return
        upstream.reusable = False
        upstream.reused = True
        upstream.deadline_at = math.inf
        if upstream.paused:
            upstream.resume_reading()
        if self._turns and self._hand_over(upstream):
            return
        upstream.pooled = True
        self._idle_order = upstream.idle_order = self._idle_order + 1
        upstream.deadline_at = self._loop.time() + (self._idle_s if announced_idle_s is None else self._idle_for_s(announced_idle_s))
        bucket.idle.append(upstream)
        self._metrics.upstream_idle += 1

    def _idle_for_s(self, announced_s: int) -> float:
        """How long to keep a connection that the upstream keeps for `announced_s`: a little less, unless a setting decides."""
        if self._deadlines.upstream_idle_s is not None:
            return self._deadlines.upstream_idle_s
        return max(_IDLE_MIN_S, min(_IDLE_MAX_S, announced_s - 1.0))

    def _hand_over(self, upstream: Upstream) -> bool:
        """Give a clean connection to the request whose turn it is, or close it for a request to another endpoint that may have its place.

        Returns False if no request can make use of either.
        """
        own = upstream.bucket
        bucket = self._next_turn(own)
        if bucket is None:
            return False
        if bucket is own:
            self._pop_waiter(bucket).set_result(upstream)
        else:
            upstream.abort()
            self._vacate(own)
        return True

    def _next_turn(self, freed: Bucket | None = None) -> Bucket | None:
        """The bucket whose first waiter may have the next place, or the connection that `freed` gives back. Passes over who gave up."""
        for bucket in list(self._turns):
            while bucket.waiters and bucket.waiters[0].done():
                bucket.waiters.popleft()
            if not bucket.waiters:
                self._prune(bucket)
            elif bucket is freed or bucket.count < self._limit:
                return bucket
        return None

    def _pop_waiter(self, bucket: Bucket) -> "asyncio.Future[Upstream | None]":
        """Its first waiter; then other endpoints have their turns."""
        waiter = bucket.waiters.popleft()
        del self._turns[bucket]
        if bucket.waiters:
            self._turns[bucket] = None
        return waiter

    # places

    def _occupy(self, bucket: Bucket) -> None:
        bucket.count += 1
        self.open_count += 1

    def _vacate(self, bucket: Bucket) -> None:
        """A connection of `bucket` is gone. Its place goes to the request whose turn it is, with leave to dial."""
        bucket.count -= 1
        self.open_count -= 1
        if self._turns and self.open_count < self._total and (turn := self._next_turn()) is not None:
            self._occupy(turn)
            self._pop_waiter(turn).set_result(None)
        self._prune(bucket)

    def _prune(self, bucket: Bucket) -> None:
        """Drop a bucket that holds nothing."""
        if not bucket.waiters:
            self._turns.pop(bucket, None)
            if not bucket.count and self.buckets.get(bucket.endpoint) is bucket:
                del self.buckets[bucket.endpoint]
                if self._last_bucket is bucket:
                    self._last_endpoint = self._last_bucket = None

    # discarding idle connections

    def discard_idle(self, upstream: Upstream) -> None:
        """Close an idle connection."""
        upstream.bucket.idle.remove(upstream)
        upstream.pooled = False
        self._metrics.upstream_idle -= 1
        upstream.abort()
        self._vacate(upstream.bucket)

    def begin_closing(self) -> None:
        """Close what is idle, and keep nothing from now on."""
        self._closing = True
        self._discard(lambda _: True)

    def retire_generation(self) -> None:
        """The files of a TLS profile changed: close every idle connection that was verified with older ones."""
        self._discard(lambda upstream: upstream.bucket.tls is not None and upstream.generation != upstream.bucket.tls.generation)

    def retire_endpoints(self, generation: int) -> None:
        """Close every idle connection to an endpoint of another generation: no request can have it any more."""
        self._discard(lambda upstream: upstream.bucket.endpoint.generation != generation)

    def _discard(self, chosen: Callable[[Upstream], bool]) -> None:
        for upstream in [upstream for bucket in self.buckets.values() for upstream in bucket.idle]:
            if upstream.pooled and chosen(upstream):
                self.discard_idle(upstream)
