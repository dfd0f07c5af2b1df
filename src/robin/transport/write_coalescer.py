"""Send the small writes of one loop turn together: waking a sleeping peer is expensive, so wake it once.

Rules a reader must keep: a write is deferred only while another woken task has still to run, and is sent when the last of them has written;
deferred writes go out in the next turn at the latest. A connection alone is never delayed. The bytes stay on their own stream, in order;
the coalescer only holds the list of streams. Decision 0011 has the numbers.
"""

import asyncio
from typing import Any, Final, Protocol

SMALL_BYTES: Final = 8192  # the largest write that is deferred: back-pressure is noticed only when it is sent
_TOGETHER_MAX: Final = 64  # more than that gain nothing by being sent together, and the first has waited a millisecond


class _PendingWriter(Protocol):
    """A stream as the coalescer sees it. `pending_write` is empty when nothing is to be sent."""

    pending_write: bytes
    transport: Any

    def abort(self) -> None: ...


class WriteCoalescer:
    """The streams of one event loop with a pending write.

    `last_woken`: the future completed last, until its task runs; None: no other task is to run. Futures resume in completion order, so
    remembering the last one completed is enough.
    """

    __slots__ = ("_flush_scheduled", "_loop", "last_woken", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._flush_scheduled = False  # the next turn flushes
        self.waiting: list[_PendingWriter] = []
        self.last_woken: asyncio.Future[None] | None = None

    def add(self, stream: _PendingWriter) -> None:
        """Send the pending write of `stream` soon, in the next turn at the latest."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_next_turn, self.last_woken)
        waiting = self.waiting
        waiting.append(stream)
        if len(waiting) >= _TOGETHER_MAX:
            self.flush()

    def flush(self) -> None:
        """Send all pending writes. A stream whose write fails is aborted and reported; the others are not affected."""
        waiting, self.waiting = self.waiting, []
        for stream in waiting:
            kept = stream.pending_write
            if kept:
                stream.pending_write = b""
                try:
                    stream.transport.write(kept)
                except Exception as error:  # noqa: BLE001 - a bug on one connection must not hold back the bytes of another
                    stream.abort()
                    self._loop.call_exception_handler({"message": "a pending write could not be sent", "exception": error})

    def _flush_next_turn(self, last: asyncio.Future[None] | None) -> None:
        """One turn later: every task woken before has run by now, or never will because its coroutine was dropped."""
        self._flush_scheduled = False
        if self.last_woken is last:
            self.last_woken = None
        self.flush()
