"""Bytes both ways between two open streams, in one task: what arrives on one is written to the other, and so is its end.

Rules to keep: a direction ends behind its last byte, however slow the other side takes it; one that was reset or cut ends with a reset,
since behind a FIN a part could be taken for the whole; nothing is passed on, and no deadline moved, once either stream is being closed.
"""

import asyncio
from enum import StrEnum

from robin.proxy.engine import Engine
from robin.telemetry.record import ExchangeRecord
from robin.transport.stream import Stream


class SpliceEnd(StrEnum):
    """Why a splice ended."""

    CLIENT_CLOSED = "client_closed"
    UPSTREAM_CLOSED = "upstream_closed"
    IDLE = "idle"
    MAX_AGE = "max_age"


class Way:
    """One direction. `end`: what it means that its source ends. `at_once`: how many bytes are passed on in one turn of the loop."""

    __slots__ = ("at_once", "end", "ended", "sink", "source")

    def __init__(self, source: Stream, sink: Stream, end: SpliceEnd, *, at_once: int = 1 << 62) -> None:
        self.source = source
        self.sink = sink
        self.end = end
        self.at_once = at_once
        self.ended = False

    def pass_on(self, octets: bytes) -> None:
        """Write what arrived."""
        self.sink.write(octets)


class Splice:
    """A tunnel. `idle_s` is for both directions together, infinity: none; so is `max_s` for its whole life.

    `half_close`: each direction ends by itself; else the end of one is that of both.
    """

    __slots__ = ("_ends_at", "_first", "_half_close", "_idle_s", "down", "engine", "record", "up")

    def __init__(
        self, up: Way, down: Way, record: ExchangeRecord, engine: Engine, *, idle_s: float, max_s: float, half_close: bool
    ) -> None:
        self.up = up
        self.down = down
        self.record = record
        self.engine = engine
        self._idle_s = idle_s
        self._ends_at = engine.now() + max_s
        self._half_close = half_close
        self._first: SpliceEnd | None = None  # the direction that ended first
        self.touch()

    def touch(self) -> None:
        """A byte moved: both directions have the whole idle time again."""
        deadline_at = self.engine.now() + self._idle_s
        self.up.source.deadline_at = self.up.sink.deadline_at = deadline_at if deadline_at < self._ends_at else self._ends_at

    async def run(self) -> SpliceEnd:
        """Relay until it has ended, and close both streams. Returns why: of silence behind an end, the side that ended."""
        up, down = self.up, self.down
        downstream, upstream = up.source, up.sink
        downstream.peer, upstream.peer = upstream, downstream
        try:
            while not (downstream.closing or upstream.closing):
                more = self._relay(up)
                more = self._relay(down) or more
                if up.ended and down.ended:
                    break
                if more:
                    await asyncio.sleep(0)  # a flood of small frames: other connections have their turn
                    continue
                try:
                    await downstream.wait_with(upstream)
                finally:
                    downstream.wait_done()
        except TimeoutError:
            aged = self.engine.now() >= self._ends_at
            self._end_early(silent=not aged)
            return SpliceEnd.MAX_AGE if aged else self._first or SpliceEnd.IDLE
        except asyncio.CancelledError:
            self._end_early(silent=False)
            raise
        finally:
            downstream.peer = upstream.peer = None
            upstream.close()
            downstream.close()
        return self._first or SpliceEnd.CLIENT_CLOSED

    def _end_early(self, *, silent: bool) -> None:
        """End each direction that is not at its end, so that what its sink got does not look like the whole.

        One that was `silent` for the whole idle time and holds nothing has nothing under way: `close` ends it in order.
        """
        for way in (self.up, self.down):
            if way.source.received or way.sink.write_blocked or not (way.ended or silent):
                way.sink.reset()

    def _relay(self, way: Way) -> bool:
        """Pass on what has arrived in one direction, or its end. Returns True if more of it can be passed on in the next turn."""
        source, sink = way.source, way.sink
        if source.received and not sink.write_blocked:
            size = min(len(source.received), way.at_once)
            record, metrics = self.record, self.engine.metrics
            if way is self.up:
                record.bytes_in += size
                metrics.body_bytes_in += size
            else:
                record.bytes_out += size
                metrics.body_bytes_out += size
            way.pass_on(source.take(size))
            self.touch()
        if sink.write_blocked and not source.was_reset:
            source.pause_reading()
        elif source.received and not sink.write_blocked:
            return True
        elif not source.eof:
            source.resume_reading()
        elif not way.ended:
            self._end(way)
        return False

    def _end(self, way: Way) -> None:
        """The source has ended, and the sink took all that came from it; or it was reset, and the sink takes nothing now."""
        self._first = self._first or way.end
        way.ended = True
        ends_both = way.source.was_reset or not self._half_close
        if way.source.was_reset:
            way.sink.reset()
        elif self._half_close:
            try:
                way.sink.finish()
            except OSError:  # it has gone without an end of its own
                ends_both = True
                if not (self.up.ended and self.down.ended):
                    way.source.reset()  # what it was to get from there was cut
        if ends_both:
            self.up.ended = self.down.ended = True


async def splice(downstream: Stream, upstream: Stream, record: ExchangeRecord, engine: Engine, *, idle_s: float, max_s: float) -> SpliceEnd:
    """Relay opaque bytes until both sides have ended, each by itself; both are closed then. Returns why."""
    up, down = Way(downstream, upstream, SpliceEnd.CLIENT_CLOSED), Way(upstream, downstream, SpliceEnd.UPSTREAM_CLOSED)
    return await Splice(up, down, record, engine, idle_s=idle_s, max_s=max_s, half_close=True).run()
