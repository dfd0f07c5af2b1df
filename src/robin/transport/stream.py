"""One connection as bytes: a bounded receive buffer, awaitable reads, honest back-pressure, one deadline.

Rules a reader must keep: the one reader consumes `received` directly; `wait_readable`, and `fill` with it, wait for more. At most one
reader and one writer wait at a time. Reading pauses by itself at `_PAUSE_BYTES` and resumes in `wait_readable`, so at most that and one
loop read are buffered per direction. `deadline_at` is checked by the `Sweeper`, not by a timer per wait: setting it costs one store. A
small write may stay in `pending_write` until the end of the loop turn (see `write_coalescer`), so only this module writes to the
transport of a stream in use.
"""

import asyncio
import math
import select
import socket
import struct
from functools import update_wrapper
from types import FunctionType
from typing import Any, Final

from robin.model.address import Dialled
from robin.transport.deadlines import Sweeper
from robin.transport.write_coalescer import SMALL_BYTES

_HELD_BYTES: Final = 262144  # at most per direction, while the other side takes nothing
_READ_BYTES: Final = 256000  # one read of uvloop
_PAUSE_BYTES: Final = _HELD_BYTES - _READ_BYTES - 2048  # these are for the framing of what is sent on
_FLUSH_S: Final = 10.0  # how long a peer may take to take what is left when we close
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


class StreamClosed(Exception):
    """The connection is closed: nothing more can be written to it."""


class Stream(asyncio.Protocol):
    """One TCP, Unix or TLS connection.

    `pooled`: the connection is idle in a pool, and bytes that arrive now belong to no exchange. `eof`: the peer sends no more (FIN, or
    closed). `closed`: the connection is gone. `bytes_received`: bytes that arrived since the start. `peer`: the stream of the other leg of
    the exchange, which is interrupted when this one ends.
    """

    __slots__ = (
        "_coalescer",
        "_loop",
        "_reader",
        "_sweeper",
        "_writable",
        "bytes_received",
        "closed",
        "closing",
        "deadline_at",
        "dialled",
        "eof",
        "paused",
        "peer",
        "pending_write",
        "pooled",
        "received",
        "transport",
        "was_reset",
        "write_blocked",
    )

    def __init_subclass__(cls) -> None:
        """Give each subclass its own copies of the methods: CPython specialises an attribute load for one type only (decision 0011)."""
        for name, method in vars(Stream).items():
            if isinstance(method, FunctionType) and name not in vars(cls):
                own = FunctionType(method.__code__.replace(), method.__globals__, name, method.__defaults__, method.__closure__)
                own.__kwdefaults__ = method.__kwdefaults__
                setattr(cls, name, update_wrapper(own, method))

    def __init__(self, loop: asyncio.AbstractEventLoop, sweeper: Sweeper) -> None:
        self._loop = loop
        self._sweeper = sweeper
        self._coalescer = sweeper.coalescer
        self.transport: Any = None
        self.received: bytes | bytearray = b""
        self.pooled = False
        self.eof = False
        self.bytes_received = 0
        self.closed = False
        self.was_reset = False  # the connection did not end with a clean FIN
        self.write_blocked = False  # the transport buffers bytes that the peer does not take
        self.closing = False  # closed by us; the last bytes are being flushed
        self.peer: Stream | None = None
        self.dialled: Dialled | None = None  # how the connection came about, where the dialer made it
        self.deadline_at = math.inf
        self.paused = False
        self.pending_write = b""  # a small write, sent together with those of other streams
        self._reader: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None

    # called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is established. `write_blocked` is set as soon as the kernel takes no more."""
        self.transport = transport
        self.transport.set_write_buffer_limits(high=1)
        self._sweeper.add(self)

    def data_received(self, data: bytes) -> None:
        """Buffer what arrived, wake the reader, and pause reading when enough is buffered."""
        self.bytes_received += len(data)
        if self.pooled:
            self.on_unexpected_data()
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
            self._coalescer.last_woken = reader

    def on_unexpected_data(self) -> None:
        """An idle pooled connection received data, hit EOF or expired: close it."""
        self.abort()

    def eof_received(self) -> bool:
        """The peer sends no more; the connection stays open for our response."""
        if self.pooled:
            self.on_unexpected_data()
        self._end()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        if self.pooled:
            self.on_unexpected_data()
        self.closed = True
        self.pending_write = b""
        self.was_reset = self.was_reset or error is not None
        self._sweeper.discard(self)
        self._end()
        self._wake(self._writable)

    def _wake(self, waiter: asyncio.Future[None] | None) -> None:
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
            self._coalescer.last_woken = waiter

    def _end(self) -> None:
        self.eof = True
        self._wake(self._reader)
        if self.peer is not None:
            self.peer.interrupt()

    def pause_writing(self) -> None:
        """The kernel takes no more for now."""
        self.write_blocked = True

    def resume_writing(self) -> None:
        """All that was buffered is written."""
        self.write_blocked = False
        self._wake(self._writable)

    def interrupt(self) -> None:
        """Wake the waits on this stream, so that they look at the peer stream."""
        self._wake(self._reader)
        self._wake(self._writable)

    def expire(self) -> None:
        """The deadline passed: fail the current waits with TimeoutError, or the next one if there is none. Called by the sweeper."""
        if self.pooled:
            self.on_unexpected_data()
            return
        if self.closing:
            self.deadline_at = math.inf
            self.reset()  # it did not take the rest
            return
        for waiter in (self._reader, self._writable):
            if waiter is not None and not waiter.done():
                self.deadline_at = math.inf
                waiter.set_exception(TimeoutError())
                self._coalescer.last_woken = waiter

    # called by the engine

    def pause_reading(self) -> None:
        """Stop reading until the next `wait_readable`: what arrived already cannot be passed on."""
        if not self.paused and not self.closed:
            self.paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read although no reader waits, so that EOF or unexpected data is noticed. Not while the buffer is full."""
        if self.paused and len(self.received) < _PAUSE_BYTES:
            self.paused = False
            self.transport.resume_reading()

    def wait_readable(self) -> asyncio.Future[None]:
        """Return a future to await; call `wait_done` in a `finally`. It saves the coroutine that `fill` costs. Not once `eof` is set.

        The future completes when more is in `received`, or when the end of this or the peer stream interrupts; it raises TimeoutError at
        `deadline_at`.
        """
        if self.paused:
            self.paused = False
            self.transport.resume_reading()
        reader = self._reader = self._loop.create_future()
        return reader  # once cancelled or used it is `done`, and is not woken again

    def wait_with(self, other: "Stream") -> asyncio.Future[None]:
        """Return a future to await, for what happens first on either of two streams: bytes, an end, or that all written bytes were taken.

        Call `wait_done` in a `finally`. The future raises TimeoutError at the `deadline_at` of either. Neither starts to read again by it.
        """
        waiter = self._loop.create_future()
        self._reader = self._writable = other._reader = other._writable = waiter
        return waiter

    def wait_done(self) -> None:
        """The task that awaited `wait_readable` continues."""
        coalescer = self._coalescer
        if coalescer.last_woken is self._reader:
            coalescer.last_woken = None

    async def fill(self) -> bool:
        """Wait for more bytes in `received`. Returns False at EOF, and True also when the end of the peer stream interrupts.

        Raises TimeoutError at `deadline_at`.
        """
        if self.eof:
            return False
        try:
            await self.wait_readable()
        finally:
            self.wait_done()
        return not self.eof or len(self.received) > 0

    async def flush(self) -> None:
        """Wait until the kernel took what was written; the end of the peer stream interrupts. Raises TimeoutError, StreamClosed."""
        if self.closed:
            raise StreamClosed
        if self.write_blocked:
            drained = self._writable = self._loop.create_future()
            try:
                await drained
            finally:
                self._writable = None
                if self._coalescer.last_woken is drained:
                    self._coalescer.last_woken = None
            if self.closed:
                raise StreamClosed

    def detect_disconnect(self) -> None:
        """Detect, without reading, that the remote end of a paused stream has disconnected: the event loop does not report it.

        In a tunnel, where two streams are peers of each other, only a reset counts: behind an end, bytes in the kernel are still passed on.
        (POLLHUP is no reset: the kernel reports it where both sides have sent their FIN.)
        """
        if self.paused and not self.eof:
            seen = self._look(select.POLLRDHUP)
            if seen & select.POLLERR:
                self.was_reset = True
            if self.was_reset or (seen and not (self.peer is not None and self.peer.peer is self)):
                self._end()

    def _look(self, event: int) -> int:
        """Poll the connection once for `event`. Returns the poll mask, 0 if there is nothing."""
        watch = select.poll()
        watch.register(self.transport.get_extra_info("socket").fileno(), event)
        found = watch.poll(0)
        return found[0][1] if found else 0

    def has_unread(self) -> bool:
        """Whether the kernel holds bytes, or an EOF, that the loop has not read yet."""
        return not self.eof and not self.transport.is_closing() and self._look(select.POLLIN) != 0

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
        """Write `octets`; small writes may be sent at the end of the loop turn. What the kernel
        does not take is buffered, and `write_blocked` is set.

        Flush before the next large write.
        """
        if self.closed:
            return
        coalescer = self._coalescer
        if self.pending_write:
            octets = self.pending_write + octets
            self.pending_write = b""
        elif coalescer.last_woken is not None and len(octets) < SMALL_BYTES and not self.write_blocked:
            self.pending_write = octets
            coalescer.add(self)
            return
        self.transport.write(octets)
        if coalescer.waiting and coalescer.last_woken is None:
            coalescer.flush()

    def detach(self) -> tuple[Any, bytes]:
        """Give up the connection. Returns its transport, which the caller gives another protocol at once, and what was not taken."""
        if self.pending_write:
            self._coalescer.flush()
        self.closed = self.eof = True
        self._sweeper.discard(self)
        return self.transport, self.take(len(self.received))

    def finish(self) -> None:
        """Half-close: send FIN behind what was written; the peer may still send.

        Raises OSError where the peer has disconnected already.
        """
        if self.pending_write:
            self._coalescer.flush()
        if self.transport.is_closing():
            raise ConnectionResetError
        self.transport.write_eof()

    def close(self, within_s: float = _FLUSH_S) -> None:
        """Flush what is buffered, then close. A peer that does not take it cannot keep the descriptor for longer than `within_s`."""
        if self.transport is not None and not self.closed:
            if self.pending_write:
                self._coalescer.flush()
            if not self.closing:
                self.closing = True
                self.deadline_at = self._loop.time() + within_s
            self.transport.close()

    def abort(self) -> None:
        """Close at once; what is buffered is not written."""
        if self.transport is not None and not self.closed:
            self.pending_write = b""
            self.transport.abort()

    def reset(self) -> None:
        """Send `pending_write`, then close so that the peer sees a reset and cannot take what it got for the whole message."""
        if self.transport is not None and not self.closed:
            if self.pending_write:
                self._coalescer.flush()
            self.closing = True
            sock = self.transport.get_extra_info("socket")
            if sock is not None and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            self.abort()
