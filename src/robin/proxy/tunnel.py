"""A permitted upgrade after its 101: bytes both ways until either side ends; a drain closes WebSockets (RFC 6455, RFC 9110 7.8)."""

import asyncio
from typing import Final

from robin.model.faults import Fault
from robin.model.message import RequestHead, ResponseHead
from robin.model.route import Route
from robin.proxy.downstream import Downstream
from robin.proxy.engine import Engine, Policy
from robin.proxy.open_tunnels import WITHDRAWN_S
from robin.telemetry.metrics import Metrics
from robin.telemetry.record import ExchangeRecord
from robin.transport.pool import Upstream
from robin.transport.stream import Stream, StreamClosed
from robin.wire.forwarding import forward_switch
from robin.wire.shape import ParsedResponse
from robin.wire.websocket import FrameTracker, accept_value, close_frame

_LAST_BYTES_S: Final = 1.0  # how long the last bytes of a caller that disconnected may take to reach the origin
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


class _Direction:
    """One direction of the tunnel. `close_sent`: our Close frame was written, nothing may follow it."""

    __slots__ = ("close_sent", "going_away", "mask", "sink", "source", "tracker")

    def __init__(self, source: Stream, sink: Stream, tracker: FrameTracker | None, mask: bytes | None) -> None:
        self.source = source
        self.sink = sink
        self.tracker = tracker
        self.mask = mask
        self.going_away = False
        self.close_sent = False

    def pass_on(self, octets: bytes) -> None:
        """Write what arrived, and our Close frame at the first frame boundary once we are going away."""
        if self.close_sent:
            return
        if self.tracker is None:
            self.sink.write(octets)
            return
        if not self.going_away:
            self.tracker.feed(octets)
            self.sink.write(octets)
            return
        taken = self.tracker.feed(octets, stop_at_boundary=True)
        self.sink.write(octets[:taken])
        self.send_close()

    def send_close(self) -> None:
        """Insert a Close frame if this is a frame boundary; else at the next one."""
        self.going_away = True
        if self.tracker is not None and self.tracker.at_boundary and not self.close_sent:
            self.close_sent = True
            if not self.tracker.closed:
                self.sink.write(close_frame(self.mask))


class Tunnel:
    """Both directions: `up` from caller to origin, `down` back. A `proxy.open_tunnels.OpenTunnel`."""

    __slots__ = ("_engine", "_idle_s", "_timer", "_websocket", "down", "head", "record", "up")

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
        self.record = record
        self._engine = engine
        self._idle_s = idle_s
        self._timer: asyncio.TimerHandle | None = None
        self._websocket = websocket
        mask = bytes.fromhex(engine.entropy.token_hex(4)) if websocket else None
        self.up = _Direction(downstream, upstream, FrameTracker() if websocket else None, mask)
        self.down = _Direction(upstream, downstream, FrameTracker() if websocket else None, None)
        self._touch()  # the response deadline ends here: a tunnel may be silent from its first moment on

    def begin_closing(self) -> None:
        """Send Close on both sides of a WebSocket; other protocols continue until the drain ends."""
        self.record.notes.setdefault("reason", "drain")
        for way in (self.up, self.down):
            way.send_close()
        self._touch()

    @property
    def policy(self) -> Policy:
        """What judges it now."""
        return self._engine.policy

    def withdraw(self, _: Fault) -> None:
        """Send Close on both sides of a WebSocket, and end soon; other protocols end now."""
        if self._timer is None:
            self.record.notes["reason"] = "policy_reload"
            self._timer = self._engine.loop.call_later(WITHDRAWN_S if self._websocket else 0.0, self._cut)
            self.begin_closing()

    def _cut(self) -> None:
        for way in (self.up, self.down):
            way.source.abort()

    def close(self) -> None:
        """It has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def _touch(self) -> None:
        """A byte moved: restart the idle deadline of both directions."""
        gone = self.up.close_sent and self.down.close_sent
        deadline_at = self._engine.now() + (min(_CLOSE_GRACE_S, self._idle_s) if gone else self._idle_s)
        self.up.source.deadline_at = self.down.source.deadline_at = deadline_at

    async def pump(self, way: _Direction) -> None:
        """Relay one direction until either side ends."""
        source, sink, record = way.source, way.sink, self.record
        upwards = way is self.up
        metrics = self._engine.metrics
        try:
            while True:
                if source.received:
                    size = len(source.received)
                    if way.tracker is not None:
                        size = min(size, _FRAMES_BYTES)
                    if upwards:
                        record.bytes_in += size
                        metrics.body_bytes_in += size
                    else:
                        record.bytes_out += size
                        metrics.body_bytes_out += size
                    way.pass_on(source.take(size))
                    self._touch()
                    if sink.write_blocked:
                        source.pause_reading()
                    while sink.write_blocked and not sink.eof:
                        await sink.flush()
                    if source.received:
                        await asyncio.sleep(0)  # a flood of small frames: other connections have their turn
                elif sink.eof or not await source.fill():
                    return
        except (StreamClosed, TimeoutError):
            return


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
    upstream.peer = downstream
    upwards = engine.tasks.start(both.pump(both.up), "tunnel")
    try:
        await both.pump(both.down)
        if downstream.eof and not upstream.eof:  # the caller's last bytes still go to the origin
            await asyncio.wait([upwards], timeout=_LAST_BYTES_S)
    finally:
        engine.drain.remove(both)
        engine.open_tunnels.discard(both)
        both.close()
        engine.metrics.upgrades_active -= 1
        upwards.cancel()
        upstream.peer = None
        upstream.close()
        downstream.close()
