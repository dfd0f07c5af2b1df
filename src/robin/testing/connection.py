"""One accepted connection as a script drives it: every byte is recorded, reading stops when the script does not read, and it can be reset.

Reading pauses while more than `window_bytes` are unread, so a script that does not read pushes back as a slow server would. Ends are told
apart: `ended` is `eof` (FIN), `reset` (RST or a broken pipe) or `closed` (by the script); None while the peer is there.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from robin.testing.message import HEAD_LIMIT_BYTES, ReceivedRequest, read_request

KEEP_BYTES = 64 << 20
WINDOW_BYTES = 256 << 10


class PeerLeft(ConnectionError):
    """The peer ended the connection before the awaited bytes came."""


class ScriptedConnection(asyncio.Protocol):
    """The server's end of one connection. Reads wait at most `patience_s` and then raise TimeoutError saying what had come."""

    def __init__(
        self,
        on_made: Callable[["ScriptedConnection"], None],
        *,
        tls: bool = False,
        keep_bytes: int = KEEP_BYTES,
        window_bytes: int = WINDOW_BYTES,
        patience_s: float = 10.0,
    ) -> None:
        self.index = -1
        self.received = bytearray()  # every byte that came, up to keep_bytes
        self.received_count = 0
        self.sent_count = 0
        self.requests: list[ReceivedRequest] = []
        self.ended: str | None = None
        self.patience_s = patience_s
        self._on_made = on_made
        self._tls = tls
        self._keep_bytes = keep_bytes
        self._window_bytes = window_bytes
        self._unread = bytearray()
        self._paused = False
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._lost = asyncio.Event()
        self.transport: asyncio.Transport

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the script."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self._writable.set()
        self._on_made(self)

    def data_received(self, data: bytes) -> None:
        """Record, then queue for the script."""
        self.received_count += len(data)
        self.received += data[: max(0, self._keep_bytes - len(self.received))]
        self._unread += data
        if len(self._unread) > self._window_bytes and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._changed.set()

    def eof_received(self) -> bool:
        """Keep our half open where the transport can (not under TLS): a script may still answer."""
        self.ended = self.ended or "eof"
        self._changed.set()
        return not self._tls

    def connection_lost(self, exc: Exception | None) -> None:
        """Note how it ended and wake every waiter."""
        if isinstance(exc, OSError) and self.ended != "closed":
            self.ended = "reset"
        self.ended = self.ended or "closed"
        self._changed.set()
        self._writable.set()
        self._lost.set()

    def pause_writing(self) -> None:
        """Pause the script's writes: the peer does not read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Resume the script's writes."""
        self._writable.set()

    # what a script calls: reading

    async def read_until(self, marker: bytes, *, limit_bytes: int = HEAD_LIMIT_BYTES) -> bytes:
        """Read up to and including `marker`."""
        while (at := self._unread.find(marker)) < 0:
            if len(self._unread) > limit_bytes:
                raise ValueError(f"no {marker!r} in {len(self._unread)} bytes")
            await self._more(f"{marker!r}")
        return self._take(at + len(marker))

    async def read_exactly(self, size: int) -> bytes:
        """Read exactly `size` bytes."""
        parts, missing = [], size
        while missing:
            if not self._unread:
                await self._more(f"{missing} of {size} bytes")
            parts.append(self._take(min(missing, len(self._unread))))
            missing -= len(parts[-1])
        return b"".join(parts)

    async def read_some(self) -> bytes:
        """Read what has arrived, at least one byte; b"" at the peer's FIN."""
        while not self._unread:
            if self.ended == "eof":
                return b""
            await self._more("any byte")
        return self._take(len(self._unread))

    async def read_request(self) -> ReceivedRequest:
        """Read the next whole request; it is also kept in `requests`."""
        request = await read_request(self)
        self.requests.append(request)
        return request

    async def wait_ended(self) -> str:
        """Read on (recording) until the peer leaves; `eof` or `reset` (or `closed` when the script closed first)."""
        while self.ended is None:
            self._unread.clear()
            self._resume()
            await self._wait("the peer's end")
        return self.ended

    # what a script calls: writing and ending

    async def send(self, *parts: bytes) -> None:
        """Write each part at once and wait until the transport takes more; PeerLeft when the peer is gone."""
        for part in parts:
            if self._lost.is_set() or self.transport.is_closing():
                raise PeerLeft(f"connection {self.index} is gone ({self.ended})")
            self.transport.write(part)
            self.sent_count += len(part)
            await self._writable.wait()

    def half_close(self) -> None:
        """FIN after what was written; reading goes on. Not under TLS."""
        self.transport.write_eof()

    async def close(self) -> None:
        """Flush, FIN, and wait until the socket is gone."""
        self.ended = self.ended or "closed"
        self.transport.close()
        await self._lost.wait()

    async def reset(self) -> None:
        """End with RST: what was not flushed is lost."""
        self.ended = self.ended or "closed"
        opened: socket.socket | Any = self.transport.get_extra_info("socket")
        if opened is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
        await self._lost.wait()

    # inside

    def _take(self, size: int) -> bytes:
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        if len(self._unread) <= self._window_bytes:
            self._resume()
        return taken

    def _resume(self) -> None:
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    async def _more(self, what: str) -> None:
        if self.ended is not None:
            raise PeerLeft(f"connection {self.index} ended ({self.ended}) while waiting for {what}; unread: {bytes(self._unread[-200:])!r}")
        self._resume()
        await self._wait(what)

    async def _wait(self, what: str) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(self.patience_s):
                await self._changed.wait()
        except TimeoutError:
            tail = bytes(self._unread[-200:])
            raise TimeoutError(f"connection {self.index} waited {self.patience_s:g} s for {what}; unread: {tail!r}") from None
