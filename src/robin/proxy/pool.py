"""Upstream connections: kept while certainly alive, reused newest first, never beyond the limit, waited for in order.

Rules a reader must keep: a connection goes back only after a whole, clean exchange; one that becomes readable or ends while idle is
discarded with what it said, be it in the very moment of its reuse; one of an older CA generation is never reused; no Permit, no connection.
"""

import asyncio
import math
import select
from collections import deque
from typing import Final, Protocol

from robin.model.faults import Fault
from robin.model.limits import Deadlines, Limits
from robin.model.origin import Origin
from robin.model.verdict import Permit
from robin.telemetry.metrics import Metrics
from robin.transport.deadlines import Sweeper
from robin.transport.dial import Dialer
from robin.transport.stream import Stream
from robin.wire.head_parser import ResponseParser

_IDLE_DEFAULT_S: Final = 4.0  # servers that close after 5 s are common
_IDLE_MIN_S: Final = 1.0
_IDLE_MAX_S: Final = 60.0


class Generation(Protocol):
    """Tells which roots a new connection would be verified with."""

    generation: int

    def refresh(self) -> None:
        """Look whether they changed."""
        ...


class Upstream(Stream):
    """One connection to an origin. `reusable` is set by the relay at the clean end of an exchange, and only there.

    `reused`: it has carried an exchange before, so that the upstream may have closed it meanwhile (J3). `watch` tells at once whether an
    end, or bytes, came that the loop has not read yet.
    """

    __slots__ = ("bucket", "generation", "parser", "reusable", "reused", "watch")

    def __init__(self, loop: asyncio.AbstractEventLoop, sweeper: Sweeper, bucket: "Bucket", generation: int) -> None:
        super().__init__(loop, sweeper)
        self.bucket = bucket
        self.generation = generation
        self.reusable = False
        self.reused = False
        self.parser = ResponseParser()
        self.watch = select.poll()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        super().connection_made(transport)
        self.watch.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)

    def on_unexpected_data(self) -> None:
        """Idle, and it spoke, ended or grew old: the connection is discarded with what it said."""
        self.bucket.discard_idle(self)


class Bucket:
    """The connections of one origin. `count` is all that exist or are being dialled."""

    __slots__ = ("count", "idle", "metrics", "waiters")

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.idle: list[Upstream] = []
        self.waiters: deque[asyncio.Future[Upstream | None]] = deque()
        self.count = 0

    def discard_idle(self, upstream: Upstream) -> None:
        """An idle connection ended, spoke or grew old."""
        self.idle.remove(upstream)
        upstream.pooled = False
        self.metrics.upstream_idle -= 1
        upstream.abort()
        self.vacate()

    def vacate(self) -> None:
        """A place is free: the first waiter may dial."""
        self.count -= 1
        self.hand_over(None)

    def hand_over(self, upstream: Upstream | None) -> bool:
        """Give the first waiter a clean connection, or (None) leave to dial in a place counted for it. Whether anybody waited."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(upstream)
                if upstream is None:
                    self.count += 1  # the waiter's place is taken for it
                return True
        return False


class Pool:
    """All buckets. `tls` None where no origin is TLS."""

    __slots__ = (
        "_buckets",
        "_closing",
        "_deadlines",
        "_dialer",
        "_idle_s",
        "_last_bucket",
        "_last_origin",
        "_limit",
        "_loop",
        "_metrics",
        "_sweeper",
        "_tls",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        dialer: Dialer,
        tls: Generation | None,
        sweeper: Sweeper,
        limits: Limits,
        deadlines: Deadlines,
        metrics: Metrics,
    ) -> None:
        self._loop = loop
        self._dialer = dialer
        self._tls = tls
        self._sweeper = sweeper
        self._limit = limits.upstream_connections
        self._deadlines = deadlines
        self._idle_s = _IDLE_DEFAULT_S if deadlines.upstream_idle_s is None else deadlines.upstream_idle_s
        self._metrics = metrics
        self._buckets: dict[Origin, Bucket] = {}
        self._last_origin: Origin | None = None  # most exchanges go where the last one went
        self._last_bucket = Bucket(metrics)
        self._closing = False

    def take(self, permit: Permit) -> Upstream | None:
        """An idle connection that is certainly not known dead, without awaiting; None when one must be acquired."""
        if permit.endpoint.origin is not self._last_origin:
            self._last_origin = permit.endpoint.origin
            self._last_bucket = self._buckets.setdefault(permit.endpoint.origin, Bucket(self._metrics))
        bucket = self._last_bucket
        idle = bucket.idle
        while idle:
            upstream = idle.pop()
            upstream.pooled = False
            upstream.deadline_at = math.inf  # its idle time is over
            self._metrics.upstream_idle -= 1
            current = self._tls is None or upstream.generation == self._tls.generation
            if current and not upstream.watch.poll(0):  # its age is the sweep's business
                self._metrics.upstream_active += 1
                return upstream
            upstream.abort()
            bucket.vacate()
        return None

    async def acquire(self, permit: Permit, *, fresh: bool = False) -> Upstream:
        """A connection for this Permit: idle (unless `fresh`), dialled, or waited for in order. Raises Fault."""
        if not fresh and (upstream := self.take(permit)) is not None:
            return upstream
        bucket = self._buckets.setdefault(permit.endpoint.origin, Bucket(self._metrics))
        if bucket.count >= self._limit and bucket.idle:
            bucket.discard_idle(bucket.idle[0])
        if bucket.count < self._limit:
            bucket.count += 1
        elif (handed := await self._wait(bucket)) is not None:
            if not (fresh or handed.eof or handed.received) and not handed.watch.poll(0):
                self._metrics.upstream_active += 1
                return handed
            handed.abort()  # its place is ours: dial in it
        return await self._dial(permit, bucket)

    async def _wait(self, bucket: Bucket) -> Upstream | None:
        """Stand in line: a clean connection, or None for leave to dial (the place is counted already)."""
        waiter: asyncio.Future[Upstream | None] = self._loop.create_future()
        bucket.waiters.append(waiter)
        try:
            async with asyncio.timeout(self._deadlines.queue_s):
                return await waiter
        except BaseException as error:
            if waiter in bucket.waiters:
                bucket.waiters.remove(waiter)  # a pool that stays full must not gather who gave up
            elif not waiter.cancelled():  # handed over in the very moment we left
                if (late := waiter.result()) is not None:
                    late.abort()
                bucket.vacate()
            if isinstance(error, TimeoutError):
                raise Fault("limit_connections", "queue: every upstream connection is busy; see ROBIN_UPSTREAM_MAX_CONNECTIONS") from None
            raise

    async def _dial(self, permit: Permit, bucket: Bucket) -> Upstream:
        began = self._loop.time()
        if self._tls is not None:
            self._tls.refresh()
        generation = 0 if self._tls is None else self._tls.generation
        try:
            upstream = await self._dialer.dial(permit, lambda: Upstream(self._loop, self._sweeper, bucket, generation))
        except BaseException as error:
            bucket.vacate()
            if isinstance(error, Fault):
                self._metrics.connected(error.code, self._loop.time() - began)
            raise
        self._metrics.connected("ok", self._loop.time() - began)
        self._metrics.upstream_active += 1
        return upstream

    def release(self, upstream: Upstream, announced_idle_s: int | None) -> None:
        """Give a connection back. It is kept only if its exchange ended clean and nothing is left on it."""
        bucket = upstream.bucket
        self._metrics.upstream_active -= 1
        if (
            not upstream.reusable
            or upstream.eof
            or upstream.received
            or upstream.write_blocked
            or (upstream.paused and upstream.holds_unread())
            or self._closing
            or (self._tls is not None and upstream.generation != self._tls.generation)
        ):
            upstream.abort()
            bucket.vacate()
            return
        upstream.reusable = False
        upstream.reused = True
        if upstream.paused:
            upstream.resume_reading()
        if bucket.waiters and bucket.hand_over(upstream):
            return
        upstream.pooled = True
        upstream.deadline_at = self._loop.time() + (self._idle_s if announced_idle_s is None else self._idle_for_s(announced_idle_s))
        bucket.idle.append(upstream)
        self._metrics.upstream_idle += 1

    def _idle_for_s(self, announced_s: int) -> float:
        """How long to keep what the upstream says it keeps that long: a little less, unless a setting says otherwise."""
        if self._deadlines.upstream_idle_s is not None:
            return self._deadlines.upstream_idle_s
        return max(_IDLE_MIN_S, min(_IDLE_MAX_S, announced_s - 1.0))

    def begin_drain(self) -> None:
        """Close what is idle, and keep nothing from now on."""
        self._closing = True
        self._discard_idle()

    def retire_generation(self) -> None:
        """The roots changed: every idle connection was verified with older ones, and is closed."""
        self._discard_idle()

    def _discard_idle(self) -> None:
        for bucket in self._buckets.values():
            for upstream in list(bucket.idle):
                bucket.discard_idle(upstream)
