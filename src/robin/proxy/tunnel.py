"""A permitted upgrade after its 101: bytes both ways until either side ends; a WebSocket is told when we drain (RFC 6455, RFC 9110 7.8)."""

import asyncio
import math
from typing import Final

from robin.model.faults import Fault
from robin.model.message import RequestHead, ResponseHead
from robin.proxy.downstream import Downstream
from robin.proxy.house import House
from robin.proxy.pool import Upstream
from robin.telemetry.metrics import Metrics
from robin.telemetry.record import ExchangeRecord
from robin.transport.stream import Ended, Stream
from robin.wire.forwarding import forward_switch
from robin.wire.websocket import FrameTracker, accept_value, close_frame

_LAST_WORDS_S: Final = 1.0  # how long what a caller said before it left may take to go up
_FRAMES_BYTES: Final = 32768  # of a WebSocket a turn: they may be 16384 empty frames, and each is looked at
_FAREWELL_S: Final = 5.0  # after both Close frames: how long the peers may take to end


def check_switch(head: RequestHead, response: ResponseHead, metrics: Metrics) -> None:
    """A 101 must be asked for, name the protocol asked for, and prove that it understood the key. Raises Fault `upgrade_failed`."""
    if head.upgrade is None or response.upgrade != head.upgrade or b"upgrade" not in response.outline.hop:
        metrics.upgrades["failed"] += 1
        raise Fault("upgrade_failed", "upgrade: the upstream switched to a protocol that was not asked for")
    if head.upgrade == b"websocket":
        key = head.websocket_key
        if key is None or response.websocket_accept != accept_value(key):
            metrics.upgrades["failed"] += 1
            raise Fault("upgrade_failed", "upgrade: Sec-WebSocket-Accept does not match the key")


class _Direction:
    """One way of the tunnel. `muted`: our Close frame went out, nothing may follow it."""

    __slots__ = ("going_away", "mask", "muted", "sink", "source", "tracker")

    def __init__(self, source: Stream, sink: Stream, tracker: FrameTracker | None, mask: bytes | None) -> None:
        self.source = source
        self.sink = sink
        self.tracker = tracker
        self.mask = mask
        self.going_away = False
        self.muted = False

    def pass_on(self, octets: bytes) -> None:
        """Write on what came, and our Close frame at the first frame boundary once we are going away."""
        if self.muted:
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
        self.say_goodbye()

    def say_goodbye(self) -> None:
        """Put in a Close frame if this is a boundary; else at the next one."""
        self.going_away = True
        if self.tracker is not None and self.tracker.at_boundary and not self.muted:
            self.muted = True
            if not self.tracker.closed:
                self.sink.write(close_frame(self.mask))


class Tunnel:
    """Both directions: `up` from caller to origin, `down` back. `retire` is the drain's call."""

    __slots__ = ("_house", "_idle_s", "down", "up")

    def __init__(self, downstream: Stream, upstream: Stream, house: House, *, websocket: bool) -> None:
        self._house = house
        self._idle_s = house.deadlines.stream_idle_s or math.inf
        mask = bytes.fromhex(house.entropy.token_hex(4)) if websocket else None
        self.up = _Direction(downstream, upstream, FrameTracker() if websocket else None, mask)
        self.down = _Direction(upstream, downstream, FrameTracker() if websocket else None, None)
        self._touch()  # the deadline of the answer ends here: a tunnel may be silent from its first moment on

    def retire(self) -> None:
        """Tell a WebSocket that we go away, on both sides; other protocols go on until the drain's end."""
        for way in (self.up, self.down):
            way.say_goodbye()
        self._touch()

    def _touch(self) -> None:
        """Some byte moved: the idle deadline of both ways begins again."""
        gone = self.up.muted and self.down.muted
        deadline_at = self._house.now() + (min(_FAREWELL_S, self._idle_s) if gone else self._idle_s)
        self.up.source.deadline_at = self.down.source.deadline_at = deadline_at

    async def pump(self, way: _Direction, record: ExchangeRecord) -> None:
        """Move one way until either side ends."""
        source, sink = way.source, way.sink
        upwards = way is self.up
        metrics = self._house.metrics
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
                    if sink.choked:
                        source.hold()
                    while sink.choked and not sink.ended:
                        await sink.drain()
                    if source.received:
                        await asyncio.sleep(0)  # a flood of small frames: others have their turn
                elif sink.ended or not await source.fill():
                    return
        except (Ended, TimeoutError):
            return


async def tunnel(
    downstream: Downstream, upstream: Upstream, response: ResponseHead, record: ExchangeRecord, house: House, *, protocol: bytes
) -> None:
    """Answer 101 and pass bytes until either side ends; both are closed then."""
    record.status = 101
    record.ttfb_s = house.clock() - record.started_at
    record.outcome = "forwarded"
    downstream.write(forward_switch(response))
    both = Tunnel(downstream, upstream, house, websocket=protocol == b"websocket")
    house.metrics.upgrades["switched"] += 1
    house.metrics.upgrades_active += 1
    house.tunnels.add(both)
    upstream.partner = downstream
    upwards = house.tasks.start(both.pump(both.up, record), "tunnel")
    try:
        if house.closing:
            both.retire()
        await both.pump(both.down, record)
        if downstream.ended and not upstream.ended:  # what the caller said last still goes up
            await asyncio.wait([upwards], timeout=_LAST_WORDS_S)
    finally:
        house.tunnels.discard(both)
        house.metrics.upgrades_active -= 1
        upwards.cancel()
        upstream.partner = None
        upstream.close()
        downstream.close()
