"""TLS on a connected stream, with a valve below it: a peer that keeps TLS busy without saying anything is hung up on.

KeyUpdates and session tickets never reach the stream, so nothing would pause them, and libuv reads up to 32 times a turn while there is
more: without the valve a flood of KeyUpdates held the loop for ten seconds. So silence has a limit, and TLS gets one full read a turn. And
uvloop's TLS keeps buffers of its own on both ways; here they are kept empty, so that back-pressure reaches the stream when the kernel is
full, and the kernel when the stream is (E5).
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, TypeVar

from robin.transport.stream import Stream

AnyStream = TypeVar("AnyStream", bound=Stream)

_READ_BYTES: Final = 65536  # uvloop offers 256 KiB, and the stream may hold as much again
_WEIGHED_BYTES: Final = 16384  # that much at a time
_SILENT_BYTES: Final = 49152  # a record that is not whole has at most 16 KiB, a handful of session tickets less
_HANDSHAKE_BYTES: Final = 262144  # OpenSSL takes certificates of 100 KB
_BYTES_FOR_ONE: Final = 32  # what a record of one byte may cost
_BYTES_FOR_ONE_OLD: Final = 96  # before TLS 1.3, where there are no KeyUpdates
_CLOSING_BYTES: Final = 4 << 20  # while our last bytes go out, TLS drops what comes

_PLAIN: Final = memoryview(bytearray(2 * _READ_BYTES))


class Valve(asyncio.BufferedProtocol):
    """Passes everything between a transport and its TLS, and weighs what came against what `stream` heard of it (None: the handshake)."""

    __slots__ = (
        "_bytes_for_one",
        "_came",
        "_full",
        "_heard",
        "_loop",
        "_silent_bytes",
        "_tls",
        "_transport",
        "_update",
        "_where",
        "stream",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any, tls: Any) -> None:
        self.stream: Stream | None = None
        self._loop = loop
        self._transport = transport
        self._tls = tls
        self._update = tls.buffer_updated
        self._where: memoryview | None = None
        self._silent_bytes = 0
        self._came = 0  # and was not weighed yet
        self._heard = 0  # by the stream, when it was weighed last
        self._bytes_for_one = _BYTES_FOR_ONE
        self._full = False

    def attend(self, stream: Stream, *, version: str | None) -> None:
        """The handshake is done, with this version of TLS: from now on bytes are for this stream."""
        self.stream = stream
        self._silent_bytes = self._came = 0
        if version != "TLSv1.3":
            self._bytes_for_one = _BYTES_FOR_ONE_OLD
        if self._full:
            stream.pause_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: a part of what TLS offers, asked once. TLS keeps its one buffer for as long as nobody asks for more."""
        where = self._where
        if where is None:
            where = self._where = self._tls.get_buffer(sizehint)[:_READ_BYTES]
        return where

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came: give them to TLS, and now and then see what comes of them."""
        update = self._update
        update(nbytes)
        came = self._came = self._came + nbytes
        if came >= _WEIGHED_BYTES or self._full:
            self._weigh(nbytes)

    def _weigh(self, nbytes: int) -> None:
        """Whether what came is worth going on, and in this turn."""
        came, self._came = self._came, 0
        stream = self.stream
        heard, held, limit_bytes = 0, False, _SILENT_BYTES
        if stream is None:
            limit_bytes = _HANDSHAKE_BYTES
        elif stream.closing:
            limit_bytes = _CLOSING_BYTES
        else:
            heard, self._heard = stream.bytes_received - self._heard, stream.bytes_received
            held = stream.paused  # TLS holds what a paused stream is given
            if self._full and not stream.write_blocked:
                stream.pause_writing()  # TLS has answered something, and told the stream that all of it was taken
        silent_bytes = 0 if held else self._silent_bytes + came - heard * self._bytes_for_one
        if silent_bytes > limit_bytes:
            self._transport.abort()
        elif nbytes == _READ_BYTES and stream is not None and not held:  # there may be more, yet that was work enough for a turn
            self._transport.pause_reading()
            self._loop.call_soon(self._go_on)
        self._silent_bytes = silent_bytes if silent_bytes > 0 else 0

    def _go_on(self) -> None:
        """Read again, unless TLS holds what the stream did not take: then it is for TLS to go on."""
        stream = self.stream
        if stream is not None and not stream.closed and not stream.transport.get_read_buffer_size():
            self._transport.resume_reading()

    def eof_received(self) -> Any:
        """The peer sends no more."""
        return self._tls.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._tls.connection_lost(exc)

    def pause_writing(self) -> None:
        """The kernel takes no more for now: TLS would tell the stream only when it was given more than that."""
        self._full = True
        self._tls.pause_writing()
        if self.stream is not None:
            self.stream.pause_writing()

    def resume_writing(self) -> None:
        """The kernel took all; what TLS kept meanwhile may fill it again."""
        self._full = False
        self._tls.resume_writing()
        stream = self.stream
        if stream is None:
            return
        if self._full:
            stream.pause_writing()  # TLS has said otherwise: it is empty, the kernel is not
        elif not stream.transport.get_write_buffer_size():
            stream.resume_writing()


class _Opened(asyncio.BufferedProtocol):
    """The stream as TLS sees it: with a place to read into, where otherwise uvloop would allocate 256 KiB for each read."""

    __slots__ = ("_received", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream: Stream | None = stream
        self._received: Callable[[bytes], None] = stream.data_received

    def get_buffer(self, sizehint: int) -> memoryview:
        """One place for all connections: `buffer_updated` follows at once, and takes it away."""
        return _PLAIN

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes for the stream."""
        received = self._received
        received(_PLAIN[:nbytes].tobytes())

    def eof_received(self) -> bool:
        """The peer said that it sends no more."""
        return self._stream is not None and self._stream.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone. uvloop forgets `self` here, but not its methods: without the stream they keep nothing alive."""
        stream, self._stream, self._received = self._stream, None, _forget
        if stream is not None:
            stream.connection_lost(exc)

    def pause_writing(self) -> None:
        """TLS holds what the kernel does not take."""
        if self._stream is not None:
            self._stream.pause_writing()

    def resume_writing(self) -> None:
        """TLS holds nothing."""
        if self._stream is not None:
            self._stream.resume_writing()


def _forget(_: bytes) -> None:
    """Bytes for a stream that is gone."""


class _Nobody(asyncio.Protocol):
    """Holds the place of the stream until TLS is there. An origin that speaks now speaks out of turn."""

    def __init__(self) -> None:
        self.gone = False

    def data_received(self, _: bytes) -> None:
        self.gone = True

    def connection_lost(self, _: Exception | None) -> None:
        self.gone = True


async def secure(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    build: Callable[[], AnyStream],
    context: ssl.SSLContext,
    host: str,
    *,
    limit_s: float,
) -> AnyStream:
    """A stream that speaks TLS on a connected socket, which is its own from now on. Raises OSError (ssl.SSLError: TLS says no)."""
    transport, nobody = await loop.create_connection(_Nobody, sock=sock)
    transport.set_write_buffer_limits(high=1)
    valves: list[Valve] = []

    def install() -> None:
        tls = transport.get_protocol()
        if hasattr(tls, "get_buffer"):  # else it has failed already, and start_tls says so itself
            valves.append(Valve(loop, transport, tls))
            transport.set_protocol(valves[0])

    try:
        if nobody.gone or transport.is_closing():  # it spoke before our hello, or left: no TLS
            raise ConnectionResetError
        loop.call_soon(install)  # runs when start_tls has put its protocol in place, and before anything is read
        secured: Any = await loop.start_tls(transport, nobody, context, server_hostname=host, ssl_handshake_timeout=limit_s or None)
        if nobody.gone or secured is None or not valves:
            raise ConnectionResetError
    except BaseException:
        transport.abort()
        raise
    stream = build()
    valves[0].attend(stream, version=secured.get_extra_info("ssl_object").version())
    secured.set_protocol(_Opened(stream))
    secured.set_read_buffer_limits(high=1)
    stream.connection_made(secured)
    return stream
