"""Small writes of one turn of the loop, sent together: to wake a peer that sleeps costs as much as to serve it, and it is woken once.

Rules a reader must keep: a write is kept only while somebody else who was woken has still to run, and goes out when the last of them has
written; what is kept goes out in the next turn whatever happens. A connection alone is never kept waiting. The bytes stay on their own
stream, in their order; the Outbox only knows whom to ask.
"""

import asyncio
from typing import Any, Final, Protocol

SMALL_BYTES: Final = 8192  # what a stream may keep: it learns only with the sending that its peer takes no more
_TOGETHER_MAX: Final = 64  # more than these gain nothing by being sent together, and the first of them has waited a millisecond


class _Keeping(Protocol):
    """A stream, as the Outbox sees it: `kept` is empty when nothing is to be sent."""

    kept: bytes
    transport: Any

    def abort(self) -> None: ...


class Outbox:
    """The streams of one loop that keep bytes.

    `last`: the wait that was ended last, until its task goes on; None: nobody else is to run. Waits go on in the order in which they were
    ended, so one name is enough, and no count can go wrong.
    """

    __slots__ = ("_loop", "_sure", "due", "last")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sure = False  # the next turn flushes
        self.due: list[_Keeping] = []
        self.last: asyncio.Future[None] | None = None

    def add(self, stream: _Keeping) -> None:
        """This stream keeps something: send it soon, and in any case in the next turn."""
        if not self._sure:
            self._sure = True
            self._loop.call_soon(self._make_sure, self.last)
        due = self.due
        due.append(stream)
        if len(due) >= _TOGETHER_MAX:
            self.flush()

    def flush(self) -> None:
        """Send all that is kept. A stream that cannot is aborted and told of; the others do not suffer."""
        due, self.due = self.due, []
        for stream in due:
            kept = stream.kept
            if kept:
                stream.kept = b""
                try:
                    stream.transport.write(kept)
                except Exception as error:  # noqa: BLE001 - a bug of ours on one connection must not hold back the bytes of another
                    stream.abort()
                    self._loop.call_exception_handler({"message": "what a connection kept could not be sent", "exception": error})

    def _make_sure(self, last: asyncio.Future[None] | None) -> None:
        """A turn later. Who was woken before this was asked for has run by now, or never will: its coroutine was thrown away."""
        self._sure = False
        if self.last is last:
            self.last = None
        self.flush()
