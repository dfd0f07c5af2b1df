"""One connection as bytes: a bounded receive buffer, reads that can be awaited, honest back-pressure, one deadline.

Rules a reader must keep: `received` is consumed by its one reader, directly; `arrival`, and `fill` with it, waits for more of it. At most
one reader and one writer wait at a time. Reading stops by itself at `_PAUSE_BYTES` and starts again in `arrival`, so less than that and one
read of the loop are held. `deadline_at` is swept by the `Sweeper`, not by a timer per wait: setting it costs one store. A small write may
be `kept` until the end of the turn, see `outbox`; so nothing but this module speaks to the transport of a stream in use. What is held in a
slot and called on each request is named first (`now = house.now`): CPython 3.11 specialises a look at a slot, but no call through one.
"""

import asyncio
import math
import select
import socket
import struct
from functools import update_wrapper
from types import FunctionType
from typing import Any, Final

from robin.transport.deadlines import Sweeper
from robin.transport.outbox import SMALL_BYTES

_HELD_BYTES: Final = 262144  # of one direction, at most, while the other side takes nothing
_READ_BYTES: Final = 256000  # one read of uvloop
_PAUSE_BYTES: Final = _HELD_BYTES - _READ_BYTES - 2048  # these are for the framing of what is sent on
_FLUSH_S: Final = 10.0  # how long a peer may take to take what is left when we close
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


class Ended(Exception):
    """The peer is gone: nothing more can be written to it."""


class Stream(asyncio.Protocol):
    """One TCP, Unix or TLS connection.

    `barred`: it is in nobody's use, and bytes that come now belong to nobody. `ended`: the peer will send no more (FIN, or lost). `lost`:
    the connection is gone. `heard`: bytes that came, ever. `partner`: the stream that must hear of our end.
    """

    __slots__ = (
        "_drained",
        "_loop",
        "_outbox",
        "_reader",
        "_sweeper",
        "barred",
        "broken",
        "choked",
        "closing",
        "deadline_at",
        "ended",
        "heard",
        "kept",
        "lost",
        "partner",
        "paused",
        "received",
        "transport",
    )

    def __init_subclass__(cls) -> None:
        """Each kind of stream gets methods of its own: CPython specialises what a method reads for one type, and two would undo it."""
        for name, method in vars(Stream).items():
            if isinstance(method, FunctionType) and name not in vars(cls):
                own = FunctionType(method.__code__.replace(), method.__globals__, name, method.__defaults__, method.__closure__)
                own.__kwdefaults__ = method.__kwdefaults__
                setattr(cls, name, update_wrapper(own, method))

    def __init__(self, loop: asyncio.AbstractEventLoop, sweeper: Sweeper) -> None:
        self._loop = loop
        self._sweeper = sweeper
        self._outbox = sweeper.outbox
        self.transport: Any = None
        self.received: bytes | bytearray = b""
        self.barred = False
        self.ended = False
        self.heard = 0
        self.lost = False
        self.broken = False  # the connection did not end by a clean FIN
        self.choked = False  # the transport holds bytes that the peer does not take
        self.closing = False  # closed by us; the last bytes are on their way
        self.partner: Stream | None = None
        self.deadline_at = math.inf
        self.paused = False
        self.kept = b""  # small, and to be sent with those of others
        self._reader: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    # what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there; every write goes out at once, and `choked` is said as soon as the kernel takes no more."""
        self.transport = transport
        self.transport.set_write_buffer_limits(high=1)  # not 0: uvloop's TLS takes an empty buffer for a full one then
        self._sweeper.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes arrived: keep them, wake the reader, stop reading when enough is held."""
        self.heard += len(data)
        if self.barred:
            self.stray()
            return
        received = self.received
        if not received:
            self.received = received = data
        elif type(received) is bytearray:
            received += data
        else:
            self.received = received = bytearray(received) + data
        if len(received) >= _PAUSE_BYTES:
            self.paused = True
            self.transport.pause_reading()
        reader = self._reader
        if reader is not None and not reader.done():
            reader.set_result(None)
            self._outbox.last = reader

    def stray(self) -> None:
        """A barred stream spoke, ended or grew old: it is of no use."""
        self.abort()

    def eof_received(self) -> bool:
        """The peer sends no more. A plain connection stays open for our answer; TLS has no half-close and ends."""
        if self.barred:
            self.stray()
        self._end()
        return self.transport.get_extra_info("ssl_object") is None

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        if self.barred:
            self.stray()
        if not self.ended and self.transport.get_extra_info("ssl_object") is not None:
            self.broken = True  # TLS that ends without close_notify was cut (RFC 9112 9.8); uvloop tells only close_notify as an end
        self.lost = True
        self.kept = b""
        self.broken = self.broken or error is not None
        self._sweeper.discard(self)
        self._end()
        self._wake(self._drained)

    def _wake(self, waiter: asyncio.Future[None] | None) -> None:
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
            self._outbox.last = waiter

    def _end(self) -> None:
        self.ended = True
        self._wake(self._reader)
        if self.partner is not None:
            self.partner.interrupt()

    def pause_writing(self) -> None:
        """The kernel takes no more for now."""
        self.choked = True

    def resume_writing(self) -> None:
        """All that was held is written."""
        self.choked = False
        self._wake(self._drained)

    def interrupt(self) -> None:
        """Wake whoever waits on this stream, so that it looks at its partner."""
        self._wake(self._reader)
        self._wake(self._drained)

    def expire(self) -> None:
        """The deadline passed: whoever waits gets TimeoutError, and where nobody does, who waits next. Called by the sweeper."""
        if self.barred:
            self.stray()
            return
        if self.closing:
            self.deadline_at = math.inf
            self.abort()
            return
        for waiter in (self._reader, self._drained):
            if waiter is not None and not waiter.done():
                self.deadline_at = math.inf
                waiter.set_exception(TimeoutError())
                self._outbox.last = waiter

    # what the engine calls

    def hold(self) -> None:
        """Read no more until the next `arrival`: what came already can not be passed on."""
        if not self.paused and not self.lost:
            self.paused = True
            self.transport.pause_reading()

    def listen(self) -> None:
        """Read on although nobody waits: an end or a stray byte must be noticed. Not while more is held than may be."""
        if self.paused and len(self.received) < _PAUSE_BYTES:
            self.paused = False
            self.transport.resume_reading()

    def arrival(self) -> asyncio.Future[None]:
        """Await the result, and call `resumed` in a `finally`: a wait without the coroutine that `fill` costs. Not once `ended`.

        Done when more is in `received`, or this or the partner's end interrupts; with TimeoutError at `deadline_at`.
        """
        if self.paused:
            self.paused = False
            self.transport.resume_reading()
        reader = self._reader = self._loop.create_future()
        return reader  # cancelled or used and left behind it is `done`: nobody wakes it again

    def resumed(self) -> None:
        """Who waited for an arrival goes on."""
        outbox = self._outbox
        if outbox.last is self._reader:
            outbox.last = None

    async def fill(self) -> bool:
        """Wait for more bytes in `received`; False when the peer has ended. Also returns (True) when the partner's end interrupts.

        Raises TimeoutError at `deadline_at`.
        """
        if self.ended:
            return False
        try:
            await self.arrival()
        finally:
            self.resumed()
        return not self.ended or len(self.received) > 0

    async def drain(self) -> None:
        """Wait until the kernel took what was written. Returns early when the partner's end interrupts. Raises TimeoutError, Ended."""
        if self.lost:
            raise Ended
        if self.choked:
            drained = self._drained = self._loop.create_future()
            try:
                await drained
            finally:
                self._drained = None
                if self._outbox.last is drained:
                    self._outbox.last = None
            if self.lost:
                raise Ended

    def notice_leaving(self) -> None:
        """Look, without reading, whether the peer of a stream that is not being read has gone: nobody would hear of it.

        Of two streams that are partners of each other, a tunnel, one that only ended is left alone: what it said last still goes on.
        """
        if self.paused and not self.ended:
            seen = self._look(select.POLLRDHUP)
            if seen & (select.POLLERR | select.POLLHUP) or (seen and not (self.partner is not None and self.partner.partner is self)):
                self._end()

    def _look(self, event: int) -> int:
        """What the kernel has to tell of the connection right now: this event, an error, or nothing (0)."""
        watch = select.poll()
        watch.register(self.transport.get_extra_info("socket").fileno(), event)
        told = watch.poll(0)
        return told[0][1] if told else 0

    def has_unread(self) -> bool:
        """Whether bytes came, or an end, that the loop has not read yet."""
        return not self.ended and not self.transport.is_closing() and self._look(select.POLLIN) != 0

    def holds_unread(self) -> bool:
        """Whether TLS holds bytes that it was given while the stream was paused."""
        held = getattr(self.transport, "get_read_buffer_size", None)
        return held is not None and held() > 0

    def take(self, count: int) -> bytes:
        """Consume exactly `count` bytes that are in `received`."""
        received = self.received
        if count == len(received):
            self.received = b""
            return received if type(received) is bytes else bytes(received)
        taken = bytes(received[:count])
        if type(received) is bytearray:
            del received[:count]
        else:
            self.received = received[count:]
        return taken

    def write(self, octets: bytes) -> None:
        """Hand bytes to the kernel, small ones perhaps at the end of the turn; what it does not take is held and `choked` is set.

        Drain before the next large write.
        """
        if self.lost:
            return
        outbox = self._outbox
        if self.kept:
            octets = self.kept + octets
            self.kept = b""
        elif outbox.last is not None and len(octets) < SMALL_BYTES and not self.choked:
            self.kept = octets
            outbox.add(self)
            return
        self.transport.write(octets)
        if outbox.due and outbox.last is None:
            outbox.flush()

    def finish(self) -> None:
        """Say, behind all that was written, that we write no more; the peer may still speak. Not for TLS.

        Raises OSError where the peer has left already.
        """
        if self.kept:
            self._outbox.flush()
        self.transport.write_eof()

    def close(self) -> None:
        """Flush what is held, then close; a peer that does not take it must not keep the descriptor for ever."""
        if self.transport is not None and not self.lost:
            if self.kept:
                self._outbox.flush()
            self.closing = True
            self.deadline_at = self._loop.time() + _FLUSH_S
            self.transport.close()

    def abort(self) -> None:
        """Close at once; what is held is not written."""
        if self.transport is not None and not self.lost:
            self.kept = b""
            self.transport.abort()

    def reset(self) -> None:
        """Send what is kept, since it counts as said; then close so that the peer sees a reset: what it got is not the whole message."""
        if self.transport is not None and not self.lost:
            if self.kept:
                self._outbox.flush()
            sock = self.transport.get_extra_info("socket")
            if sock is not None and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            self.abort()
