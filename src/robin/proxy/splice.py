"""Opaque bytes both ways between two open streams, with half-close: each direction ends by itself, the splice when both have ended."""

import asyncio
from collections.abc import Callable
from enum import Enum, StrEnum

from robin.proxy.engine import Engine
from robin.telemetry.record import ExchangeRecord
from robin.transport.stream import Stream, StreamClosed


class SpliceEnd(StrEnum):
    """Why a splice ended."""

    DONE = "done"
    CLIENT_CLOSED = "client_closed"
    UPSTREAM_CLOSED = "upstream_closed"
    IDLE = "idle"
    MAX_AGE = "max_age"


class _How(Enum):
    """How one direction ended."""

    EOF = "eof"
    IDLE = "idle"
    BROKEN = "broken"


class Splice:
    """One tunnel. `idle_s` is for both directions together, infinity: none; so is `max_s` for its whole life."""

    __slots__ = ("_downstream", "_engine", "_idle_s", "_max_s", "_record", "_upstream", "end")

    def __init__(
        self, downstream: Stream, upstream: Stream, record: ExchangeRecord, engine: Engine, *, idle_s: float, max_s: float
    ) -> None:
        self._downstream = downstream
        self._upstream = upstream
        self._record = record
        self._engine = engine
        self._idle_s = idle_s
        self._max_s = max_s
        self.end = SpliceEnd.DONE

    async def run(self) -> None:
        """Relay until both sides have ended; both are closed then."""
        downstream, upstream = self._downstream, self._upstream
        self._touch()
        up = self._engine.tasks.start(self._pump(downstream, upstream, self._count_up), "tunnel")
        down = self._engine.tasks.start(self._pump(upstream, downstream, self._count_down), "tunnel")
        try:
            async with asyncio.timeout(None if self._max_s == float("inf") else self._max_s):
                await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
                first = up if up.done() else down
                self.end = SpliceEnd.CLIENT_CLOSED if first is up else SpliceEnd.UPSTREAM_CLOSED
                if first.result() is _How.IDLE:
                    self.end = SpliceEnd.IDLE
                elif first.result() is _How.EOF:
                    await asyncio.wait((up, down))
        except TimeoutError:
            self.end = SpliceEnd.MAX_AGE
        finally:
            for task in (up, down):
                task.cancel()
            upstream.close()
            downstream.close()

    def _touch(self) -> None:
        """A byte moved: both directions have the whole idle time again."""
        at = self._engine.now() + self._idle_s
        self._downstream.deadline_at = self._upstream.deadline_at = at

    def _count_up(self, size: int) -> None:
        self._record.bytes_in += size
        self._engine.metrics.body_bytes_in += size

    def _count_down(self, size: int) -> None:
        self._record.bytes_out += size
        self._engine.metrics.body_bytes_out += size

    async def _pump(self, source: Stream, sink: Stream, count: Callable[[int], None]) -> _How:
        """One direction, to its end; an EOF is passed on."""
        try:
            while source.received or await source.fill():
                size = len(source.received)
                if not size:
                    continue
                count(size)
                sink.write(source.take(size))
                self._touch()
                if sink.write_blocked:
                    source.pause_reading()
                while sink.write_blocked:
                    await sink.flush()
            if not source.was_reset:
                sink.finish()
                return _How.EOF
        except TimeoutError:
            return _How.IDLE
        except (StreamClosed, OSError):
            pass
        return _How.BROKEN
