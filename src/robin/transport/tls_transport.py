"""TLS in both roles, as a layer between two transports: `ssl.SSLObject` on memory BIOs.

A `TlsTransport` is the protocol of the transport below it (a socket's, or another TLS) and the transport of the `Stream` above it, which
does not notice a difference. Rules a reader must keep:

- It buffers no application data. What is written is encrypted and handed down at once; what arrives is decrypted and handed up at once;
  pausing goes straight down. So back-pressure reaches the kernel, and what a peer sent while reading is paused is still in the kernel.
- Its work is bounded. KeyUpdates, session tickets and the overhead of tiny records never reach the stream, so nothing would pause them:
  a connection that receives much more than it delivers is aborted, and one full read is decrypted per loop turn.
- A connection that ends without close_notify was truncated (RFC 9112 section 9.8): the stream gets an error, not an EOF.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

from robin.transport.stream import Stream

AnyStream = TypeVar("AnyStream", bound=Stream)

_READ_BYTES: Final = 131072  # of ciphertext per read; with it and a partial record, one direction stays below its 256 KiB
_PIECE_BYTES: Final = 16384  # of ciphertext, after which is seen what came of it
_WASTED_BYTES: Final = 24576  # per turn, a partial record included: a KeyUpdate has 27 bytes and costs up to 70 microseconds
_UNREAD_REPLY_BYTES: Final = 524288  # twice what the stream may have written
_RECORD_BYTES: Final = 16384  # of plaintext in one record at most
_FLUSH_BYTES: Final = 65536  # of ciphertext per write: a memory BIO never shrinks
_HANDSHAKE_BYTES: Final = 262144  # OpenSSL accepts certificates of 100 KB
_SILENT_BYTES: Final = 49152  # a partial record is at most 16 KiB, a handful of session tickets less
_BYTES_FOR_ONE: Final = 32  # what a record of one byte may cost
_BYTES_FOR_ONE_OLD: Final = 96  # before TLS 1.3, where there are no KeyUpdates
_DISCARDED_BYTES: Final = 4 << 20  # received behind the end of our interest, while our last bytes are flushed

# Shared by all connections: each use ends in the call in which it began.
_CIPHERTEXT: Final = memoryview(bytearray(_READ_BYTES))
_PLAINTEXT: Final = memoryview(bytearray(_READ_BYTES + 2 * _RECORD_BYTES))
_PLAINTEXT_FULL: Final = len(_PLAINTEXT) - 2 * _RECORD_BYTES  # a piece may complete one record and bring another


class TlsTransport(asyncio.BufferedProtocol, Generic[AnyStream]):
    """One TLS connection. `opened` completes when the handshake is done, with the stream that `build` made, or fails with OSError.

    With a `server_hostname` it is the client, which verifies that name; without one it is the server.
    """

    __slots__ = (
        "_blocked",
        "_build",
        "_bytes_for_one",
        "_closing",
        "_discarding",
        "_encrypt",
        "_eof_received",
        "_eof_sent",
        "_error",
        "_handshake",
        "_incoming",
        "_loop",
        "_lower",
        "_lower_eof",
        "_outgoing",
        "_paused",
        "_read",
        "_received",
        "_rest",
        "_silent_bytes",
        "_ssl",
        "_stream",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        build: Callable[[], AnyStream],
        context: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
    ) -> None:
        self._loop = loop
        self._build: Callable[[], AnyStream] | None = build
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl: Any = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_hostname is None, server_hostname=server_hostname
        )
        self._read = cast("Callable[[int, memoryview], int]", self._ssl.read)
        self._encrypt: Callable[[bytes | memoryview], int] = self._ssl.write
        self._lower: Any = None
        self._stream: Any = None
        self._received: Callable[[bytes], None] = _ignore
        self._error: Exception | None = None
        self._bytes_for_one = _BYTES_FOR_ONE
        self._silent_bytes = 0
        self._blocked = False
        self._paused = False
        self._closing = False
        self._rest = b""  # ciphertext left to the next turn
        self._discarding = False  # nothing that arrives is of use any more
        self._eof_sent = False
        self._eof_received = False  # the peer sent close_notify
        self._lower_eof = False
        self._handshake: asyncio.Future[AnyStream] | None = loop.create_future()

    @property
    def opened(self) -> asyncio.Future[AnyStream]:
        """The handshake. A connection that is gone has none to ask for: its result would refer to itself."""
        assert self._handshake is not None
        return self._handshake

    # called by the transport below

    def connection_made(self, transport: Any) -> None:
        """Begin the handshake, in the next turn: uvloop forgets who waits for a connection that fails within this call."""
        self._lower = transport
        transport.set_write_buffer_limits(high=1)
        self._loop.call_soon(self._shake_hands, b"")

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the loop puts the next bytes; `buffer_updated` follows at once."""
        return _CIPHERTEXT

    def buffer_updated(self, nbytes: int) -> None:
        """Ciphertext arrived."""
        if self._discarding:
            self._discard(nbytes)
            return
        self._advance(_CIPHERTEXT[:nbytes])

    def data_received(self, data: bytes) -> None:
        """Ciphertext arrived through another TLS, or was read before this one began."""
        if self._discarding:
            self._discard(len(data))
            return
        self._advance(data)

    def eof_received(self) -> bool:
        """The peer closed its side of the connection below. True keeps ours open: only behind a close_notify, while we still write."""
        self._lower_eof = True
        while self._rest:
            self._go_on()
        if self._stream is None or self._closing:
            return False
        if not self._eof_received:
            self._fail(ConnectionAbortedError("TLS was cut without close_notify"))
        return self._eof_received

    def connection_lost(self, error: Exception | None) -> None:
        """The connection below is gone. Every reference that forms a cycle goes, so that no buffer waits for the garbage collector."""
        if error is None and not (self._eof_received or self._closing):
            error = self._error or ConnectionAbortedError("TLS was cut without close_notify")
        stream, handshake = self._stream, self._handshake
        self._lower = self._stream = self._build = self._ssl = self._handshake = None
        self._read = self._encrypt = self._received = _ignore  # type: ignore[assignment]
        self._incoming = self._outgoing = _NO_BIO
        self._discarding = True
        if stream is not None:
            stream.connection_lost(error)
        elif handshake is not None and not handshake.done():
            handshake.set_exception(error or ConnectionResetError())

    def pause_writing(self) -> None:
        """The transport below takes no more for now."""
        self._blocked = True
        if self._stream is not None:
            self._stream.pause_writing()

    def resume_writing(self) -> None:
        """All that was written has left the transport below."""
        self._blocked = False
        if self._stream is not None:
            self._stream.resume_writing()

    # inside

    def _shake_hands(self, data: bytes | memoryview) -> None:
        """Take the handshake as far as what has arrived allows."""
        if self._discarding or self._stream is not None or self._lower.is_closing():
            return
        self._incoming.write(data)
        self._silent_bytes += len(data)
        try:
            if self._silent_bytes > _HANDSHAKE_BYTES:
                raise ConnectionAbortedError("the TLS handshake is too large")
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return
        except OSError as error:
            self._error = error
            self._discarding = True
            if not self.opened.done():
                self.opened.set_exception(error)
            self._send()  # the alert
            self._lower.close()
            return
        self._send()
        self._open()

    def _open(self) -> None:
        """The handshake is done."""
        self._silent_bytes = 0
        if self._ssl.version() != "TLSv1.3":
            self._bytes_for_one = _BYTES_FOR_ONE_OLD
        if self.opened.done() or self._build is None:  # it was given up meanwhile
            self._lower.abort()
            return
        stream = self._build()
        self._build = None
        self.set_protocol(stream)
        stream.connection_made(cast("asyncio.Transport", self))
        if self._blocked:
            stream.pause_writing()
        self.opened.set_result(stream)
        if self._incoming.pending:
            self._advance(b"")

    def _advance(self, data: bytes | memoryview) -> None:
        """Decrypt `data` and hand it up, and see whether the connection is worth going on."""
        if self._rest:
            self._rest += data
            return
        if self._stream is None:
            self._shake_hands(data[:_PIECE_BYTES])
            if len(data) > _PIECE_BYTES and not self._discarding:
                self._advance(data[_PIECE_BYTES:])
            return
        incoming, read = self._incoming, self._read
        size, fed, end = len(data), 0, 0
        failure: ssl.SSLError | None = None
        while True:
            incoming.write(data if size <= _PIECE_BYTES else data[fed : fed + _PIECE_BYTES])
            fed += _PIECE_BYTES
            try:
                while True:
                    count = read(_RECORD_BYTES, _PLAINTEXT[end:] if end else _PLAINTEXT)
                    if not count:
                        raise ssl.SSLZeroReturnError
                    end += count
                    if not incoming.pending:  # a read takes a whole record: there is no more, and no exception to pay for
                        break
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                failure = error
                break
            if fed >= size or fed - end > _WASTED_BYTES or end > _PLAINTEXT_FULL:
                break
        if self._outgoing.pending:  # the reply to a KeyUpdate, or an alert
            self._reply()
        if end:
            received = self._received
            received(_PLAINTEXT[:end].tobytes())
        if failure is None:
            self._weigh(min(fed, size), end, data[fed:])
        elif isinstance(failure, ssl.SSLZeroReturnError):
            self._end()
        else:
            self._fail(failure)

    def _weigh(self, fed: int, useful: int, rest: bytes | memoryview) -> None:
        """Abort a connection that carries next to nothing; leave what was not decrypted to the next turn."""
        silent_bytes = self._silent_bytes + fed - useful * self._bytes_for_one
        self._silent_bytes = silent_bytes if silent_bytes > 0 else 0
        if silent_bytes > _SILENT_BYTES:
            self._fail(ConnectionAbortedError("TLS carries next to nothing"))
        elif (rest or (fed == _READ_BYTES and not self._paused)) and self._lower is not None:
            self._rest = bytes(rest)
            self._lower.pause_reading()
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """The turn after one that had enough to do."""
        rest, self._rest = self._rest, b""
        if rest and not self._discarding:
            self._advance(rest)
        if not self._paused:
            self.resume_reading()

    def _end(self) -> None:
        """The peer sent close_notify: what follows it is ignored (RFC 8446 section 6.1)."""
        self._eof_received = self._discarding = True
        self._silent_bytes = 0
        stream = self._stream
        if stream is not None and not stream.eof_received():
            self.close()

    def _discard(self, nbytes: int) -> None:
        self._silent_bytes += nbytes
        if self._silent_bytes > _DISCARDED_BYTES:
            self.abort()

    def _send(self) -> None:
        """Hand down what TLS has to send of its own accord."""
        if self._outgoing.pending and self._lower is not None:
            self._lower.write(self._outgoing.read())

    def _reply(self) -> None:
        """The same while data is read: a peer that asks for replies and does not read them must not fill the memory."""
        self._send()
        if self._blocked and self.get_write_buffer_size() > _UNREAD_REPLY_BYTES:
            self._fail(ConnectionAbortedError("TLS has to reply, and the peer does not read"))

    def _fail(self, error: Exception) -> None:
        """The connection is of no use any more; the stream gets this error."""
        self._error = error
        self.abort()

    # called by the stream above

    def write(self, data: bytes) -> None:
        """Encrypt and hand down at once."""
        lower, outgoing, encrypt = self._lower, self._outgoing, self._encrypt
        if lower is None or self._eof_sent:
            return
        try:
            end, size = encrypt(data), len(data)
            if end < size:  # one call makes one record
                view = memoryview(data)
                while end < size:
                    if outgoing.pending >= _FLUSH_BYTES:
                        lower.write(outgoing.read())
                    end += encrypt(view[end:])
        except ssl.SSLError as error:
            self._fail(error)
            return
        lower.write(outgoing.read())

    def write_eof(self) -> None:
        """Send close_notify and half-close; the peer may still send."""
        if self._eof_sent or self._lower is None:
            return
        self._eof_sent = True
        with contextlib.suppress(ssl.SSLError):  # the peer has not sent its own yet
            self._ssl.unwrap()
        self._send()
        self._lower.write_eof()

    def close(self) -> None:
        """Send close_notify behind what was written, and close when the peer has closed too: else unread bytes would reset the connection.

        The stream's deadline limits how long that takes.
        """
        lower = self._lower
        if lower is None or self._closing:
            return
        self._closing = self._discarding = True
        self._silent_bytes = 0
        try:
            self.write_eof()
        except OSError:
            lower.abort()
            return
        if self._lower_eof:
            lower.close()
        else:
            lower.resume_reading()

    def abort(self) -> None:
        """Close at once."""
        self._discarding = True
        if self._lower is not None:
            self._lower.abort()

    def is_closing(self) -> bool:
        """Whether the connection is closed or being closed."""
        return self._closing or self._lower is None or bool(self._lower.is_closing())

    def pause_reading(self) -> None:
        """Read no more; what arrives stays in the kernel."""
        self._paused = True
        if self._lower is not None:
            self._lower.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._paused = False
        if self._lower is not None and not self._rest:
            self._lower.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Those of the transport below: nothing is buffered here."""
        self._lower.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """How many bytes the transport below buffers."""
        size: int = 0 if self._lower is None else self._lower.get_write_buffer_size()
        return size

    def get_read_buffer_size(self) -> int:
        """How many bytes were received and are left to the next turn."""
        return len(self._rest)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object` is this TLS; everything else is asked below."""
        if name == "ssl_object":
            return self._ssl
        return default if self._lower is None else self._lower.get_extra_info(name, default)

    def set_protocol(self, protocol: Any) -> None:
        """What is decrypted goes to `protocol` from now on."""
        self._stream = protocol
        self._received = protocol.data_received

    def get_protocol(self) -> Any:
        """The stream above."""
        return self._stream


def _ignore(*_: object) -> None:
    """In the place of what a closed connection called."""


_NO_BIO: Final = ssl.MemoryBIO()
