"""A permitted upgrade after its 101: bytes both ways until either side ends; a drain closes WebSockets (RFC 6455, RFC 9110 7.8)."""

import asyncio
import math
from typing import Final

from robin.model.faults import Fault
from robin.model.message import RequestHead, ResponseHead
from robin.model.route import Route
from robin.proxy.downstream import Downstream
from robin.proxy.engine import Engine, Policy
from robin.proxy.open_tunnels import WITHDRAWN_S
from robin.proxy.splice import Splice, SpliceEnd, Way
from robin.telemetry.metrics import Metrics
from robin.telemetry.record import ExchangeRecord
from robin.transport.pool import Upstream
from robin.transport.stream import Stream
from robin.wire.forwarding import forward_switch
from robin.wire.shape import ParsedResponse
from robin.wire.websocket import FrameTracker, accept_value, close_frame

_FRAMES_BYTES: Final = 32768  # of a WebSocket per turn: they may be 16384 empty frames, and each is parsed
_CLOSE_GRACE_S: Final = 5.0  # how long the peers may take to end after both Close frames


def check_switch(head: RequestHead, protocol: bytes | None, response: ResponseHead, metrics: Metrics) -> None:
    """A 101 must be asked for, name the protocol asked for, and prove that it understood the key. Raises Fault `upgrade_failed`."""
    if protocol is None or response.upgrade != protocol or b"upgrade" not in response.connection_options:
        metrics.upgrades["failed"] += 1
        raise Fault("upgrade_failed", "upgrade: the upstream switched to a protocol that was not asked for")
    if protocol == b"websocket":
        key = head.websocket_key
        if key is None or response.websocket_accept != accept_value(key):
            metrics.upgrades["failed"] += 1
            raise Fault("upgrade_failed", "upgrade: Sec-WebSocket-Accept does not match the key")


class WebSocketWay(Way):
    """One direction of a WebSocket. `close_sent`: our Close frame was written, nothing may follow it."""

    __slots__ = ("_going_away", "_mask", "_tracker", "close_sent")

    def __init__(self, source: Stream, sink: Stream, end: SpliceEnd, mask: bytes | None) -> None:
        super().__init__(source, sink, end, at_once=_FRAMES_BYTES)
        self._tracker = FrameTracker()
        self._mask = mask
        self._going_away = False
        self.close_sent = False

    def pass_on(self, octets: bytes) -> None:
        """Write what arrived, and our Close frame at the first frame boundary once we are going away."""
        if self.close_sent:
            return
        if not self._going_away:
            self._tracker.feed(octets)
            self.sink.write(octets)
            return
        taken = self._tracker.feed(octets, stop_at_boundary=True)
        self.sink.write(octets[:taken])
        self.send_close()

    def send_close(self) -> None:
        """Insert a Close frame if this is a frame boundary; else at the next one."""
        self._going_away = True
        if self._tracker.at_boundary and not self.close_sent:
            self.close_sent = True
            if not self._tracker.closed:
                self.sink.write(close_frame(self._mask))


class Tunnel(Splice):
    """Both directions, of which either ends both. A `proxy.open_tunnels.OpenTunnel`."""

    __slots__ = ("_timer", "_websockets", "head")

    def __init__(
        self,
        downstream: Stream,
        upstream: Stream,
        engine: Engine,
        *,
        head: RequestHead,
        record: ExchangeRecord,
        idle_s: float,
        websocket: bool,
    ) -> None:
        self.head = head
        self._timer: asyncio.TimerHandle | None = None
        self._websockets: tuple[WebSocketWay, ...] = ()
        up, down = Way(downstream, upstream, SpliceEnd.CLIENT_CLOSED), Way(upstream, downstream, SpliceEnd.UPSTREAM_CLOSED)
        if websocket:
            up = WebSocketWay(downstream, upstream, SpliceEnd.CLIENT_CLOSED, bytes.fromhex(engine.entropy.token_hex(4)))
            down = WebSocketWay(upstream, downstream, SpliceEnd.UPSTREAM_CLOSED, None)
            self._websockets = (up, down)
        super().__init__(up, down, record, engine, idle_s=idle_s, max_s=math.inf, half_close=False)

    def begin_closing(self) -> None:
        """Send Close on both sides of a WebSocket; other protocols continue until the drain ends."""
        self.record.notes.setdefault("reason", "drain")
        for way in self._websockets:
            way.send_close()
        self.touch()

    @property
    def policy(self) -> Policy:
        """What judges it now."""
        return self.engine.policy

    def withdraw(self, _: Fault) -> None:
        """Send Close on both sides of a WebSocket, and end soon; other protocols end now."""
        if self._timer is None:
            self.record.notes["reason"] = "policy_reload"
            self._timer = self.engine.loop.call_later(WITHDRAWN_S if self._websockets else 0.0, self._cut)
            self.begin_closing()

    def _cut(self) -> None:
        for way in (self.up, self.down):
            if self._websockets:
                way.source.abort()  # a reset could take the Close frame from it; and frames show by themselves where one was cut
            else:
                way.source.reset()

    def close(self) -> None:
        """It has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def touch(self) -> None:
        """The same, but once both Close frames are sent the peers have a moment to end."""
        super().touch()
        if self._websockets and all(way.close_sent for way in self._websockets):
            deadline_at = min(self.up.source.deadline_at, self.engine.now() + _CLOSE_GRACE_S)
            self.up.source.deadline_at = self.up.sink.deadline_at = deadline_at


async def tunnel(
    downstream: Downstream,
    upstream: Upstream,
    head: RequestHead,
    response: ParsedResponse,
    route: Route,
    record: ExchangeRecord,
    engine: Engine,
    *,
    protocol: bytes,
) -> None:
    """Relay the 101, then bytes until either side ends; both are closed then."""
    record.status = 101
    record.ttfb_s = engine.clock() - record.started_at
    record.outcome = "forwarded"
    downstream.write(forward_switch(response, route.header_rules, route.response_fields))
    both = Tunnel(
        downstream,
        upstream,
        engine,
        head=head,
        record=record,
        idle_s=route.deadlines.stream_idle_s,
        websocket=protocol == b"websocket",
    )
    engine.metrics.upgrades["switched"] += 1
    engine.metrics.upgrades_active += 1
    engine.drain.add_tunnel(both)
    engine.open_tunnels.add(both)
    try:
        if await both.run() is SpliceEnd.IDLE:
            record.notes.setdefault("reason", "idle")
    finally:
        engine.drain.remove(both)
        engine.open_tunnels.discard(both)
        both.close()
        engine.metrics.upgrades_active -= 1
