"""Limits of one caller, by its id: connections, requests at the same time, requests in a second. One table for all listeners.

A connection counts for the caller that its evidence names, or else for that of its latest request; the requests inside of a CONNECT count
as requests, the TLS inside of it is no connection of its own. A CONNECT is no request in flight: tunnels have limits of their own.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from robin.model.faults import Fault
from robin.model.message import RequestHead
from robin.planes.gateway.settings import CallerLimitSettings
from robin.proxy.downstream import Downstream
from robin.telemetry.record import ExchangeRecord

_IN_FLIGHT: Final = "in_flight"
_LONGEST_S: Final = 1.0  # after which a bucket is full again, and is forgotten


class GatewayCallerLimits:
    """A `proxy.engine.CallerLimits`; the recorder calls `leave`.

    Nothing is kept of a caller that has no connection and no request, and made none within a second.
    """

    __slots__ = ("_body_bytes", "_buckets", "_connections", "_in_flight", "_limits", "_now")

    def __init__(self, limits: CallerLimitSettings, now: Callable[[], float], *, body_bytes: int = 0) -> None:
        """`body_bytes`: of one request body, 0: no limit."""
        self._body_bytes = body_bytes
        self._limits = limits
        self._now = now
        self._connections: dict[str, int] = {}
        self._in_flight: dict[str, int] = {}
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # by caller: what is left, and when; the latest last

    def use(self, limits: CallerLimitSettings, *, body_bytes: int) -> None:
        """These are the limits from now on; what was counted stays counted."""
        self._limits = limits
        self._body_bytes = body_bytes

    @property
    def remembered(self) -> int:
        """How many callers something is kept of, counted once for each limit."""
        return len(self._connections) + len(self._in_flight) + len(self._buckets)

    def connect(self, downstream: Downstream) -> None:
        """Count a new connection, if its caller is known already. Raises Fault `limit_connections`."""
        if downstream.caller.id:
            self._count_connection(downstream, downstream.caller.id)

    def disconnect(self, downstream: Downstream) -> None:
        """The connection has ended."""
        if downstream.counted_for:
            _less(self._connections, downstream.counted_for)
            downstream.counted_for = ""

    def enter(self, downstream: Downstream, head: RequestHead, record: ExchangeRecord) -> None:
        """Count a request whose caller is known. Raises Fault `limit_connections`, `limit_rate`, `limit_inflight`, `limit_body`."""
        caller = record.caller
        if not caller.id:
            return  # it will be refused
        if caller.connect is None and downstream.counted_for != caller.id:
            try:
                self._count_connection(downstream, caller.id)
            except Fault:
                downstream.expires_at = 0.0  # it serves no more
                raise
        if self._limits.requests_per_s:
            self._take(caller.id)
        if self._body_bytes and head.length > self._body_bytes:  # of unknown length it is counted as it arrives
            raise Fault("limit_body", "limit_body: the request body is larger than gateway.limits.body_bytes")
        if record.method == "CONNECT":
            return
        limit, counts = self._limits.in_flight, self._in_flight
        if limit and counts.get(caller.id, 0) >= limit:
            raise Fault("limit_inflight", "inflight_per_caller: gateway.limits.inflight_per_caller is reached")
        counts[caller.id] = counts.get(caller.id, 0) + 1
        record.notes[_IN_FLIGHT] = caller.id

    def leave(self, record: ExchangeRecord) -> None:
        """The exchange has ended, whether it was counted or not."""
        if (caller := record.notes.pop(_IN_FLIGHT, None)) is not None:
            _less(self._in_flight, str(caller))

    def _count_connection(self, downstream: Downstream, caller: str) -> None:
        limit, counts = self._limits.connections, self._connections
        if limit and counts.get(caller, 0) >= limit:
            raise Fault("limit_connections", "connections_per_caller: gateway.limits.connections_per_caller is reached")
        self.disconnect(downstream)
        counts[caller] = counts.get(caller, 0) + 1
        downstream.counted_for = caller

    def _take(self, caller: str) -> None:
        """One request of this second. Raises Fault `limit_rate`."""
        rate = self._limits.requests_per_s
        now, buckets = self._now(), self._buckets
        left, at = buckets.pop(caller, (float(rate), now))
        left = min(float(rate), left + (now - at) * rate)
        allowed = left >= 1.0
        buckets[caller] = left - allowed, now
        while next(iter(buckets.values()))[1] < now - _LONGEST_S:
            buckets.popitem(last=False)
        if not allowed:
            raise Fault("limit_rate", "rps_per_caller: gateway.limits.rps_per_caller is reached")


def _less(counts: dict[str, int], caller: str) -> None:
    counts[caller] -= 1
    if not counts[caller]:
        del counts[caller]
