"""The caller's side of a connection: the next request head, whole and within its limits, and an orderly end."""

import asyncio
import math
from typing import Final

from robin.model.caller import Caller
from robin.model.faults import Fault
from robin.model.message import RequestHead
from robin.proxy.engine import Engine
from robin.transport.stream import Stream, StreamClosed
from robin.wire.head_parser import RequestParser
from robin.wire.http1 import find_bad_byte
from robin.wire.shape import ParsedRequest

_LEADING_CRLF_MAX: Final = 4
_LINE_SLACK_BYTES: Final = 64  # method and version around the target
_LINGER_S: Final = 2.0
_LINGER_BYTES: Final = 16 << 20  # none of it is kept; with 256 KiB a reset overtook one early response in sixty at curl


class Downstream(Stream):
    """The caller's side.

    `idle` while no byte of a next request has arrived. `draining`: the drain has begun to close connections, so no exchange begins any
    more and every response closes. `ending`: the response that is being relayed ends early, but as a whole message, as soon as that can
    be. After `expires_at` (loop time) no request is served. `counted_for`: the id of the caller in whose number of connections it is.
    """

    __slots__ = ("_parser", "caller", "counted_for", "draining", "ending", "engine", "expires_at", "idle")

    def __init__(self, engine: Engine, caller: Caller) -> None:
        super().__init__(engine.loop, engine.sweeper)
        self.idle = self.draining = self.ending = False
        self.expires_at = math.inf
        self.counted_for = ""
        self.serve(engine, caller)

    def serve(self, engine: Engine, caller: Caller) -> None:
        """The requests from here on are those of `caller`, to `engine`."""
        self.engine = engine
        self.caller = caller
        self._parser = RequestParser(target_bytes=engine.limits.target_bytes, fields_max=engine.limits.fields, forms=engine.forms)

    def end_response(self) -> None:
        """End the response that is being relayed, if it is chunked, behind a whole chunk; others go on."""
        self.ending = True
        if self.peer is not None:
            self.peer.interrupt()

    def begin_closing(self) -> None:
        """Close if idle. A request that has arrived but was not read yet is still answered, with `draining`."""
        self.draining = True
        if self.idle and not self.received and not self.has_unread():
            self.close()

    def can_serve_another(self, head: RequestHead) -> bool:
        """Whether a request may follow that of `head`: the caller keeps the connection open, no drain closes it, it has not expired."""
        return head.keep_alive and not self.draining and (self.expires_at == math.inf or self.engine.now() < self.expires_at)

    async def await_request(self) -> bool:
        """Wait for the first byte of a next request. Returns False on EOF or keep-alive timeout; neither is logged."""
        if self.received:
            await asyncio.sleep(0)  # pipelined: other connections have their turn, and bytes behind the last response are noticed
            return self.expires_at == math.inf or self.engine.now() < self.expires_at
        if self.draining and not self.has_unread():
            return False
        self.idle = True
        self.deadline_at = self.engine.now() + self.engine.deadlines.keepalive_s
        try:
            while not self.received:
                if self.eof:
                    return False
                await self.wait_readable()
        except TimeoutError:
            return False
        finally:
            self.wait_done()
            self.idle = False
        return self.expires_at == math.inf or self.engine.now() < self.expires_at

    def take_head(self) -> ParsedRequest | None:
        """The next request head, if it is here and whole: the usual case, without a wait. Raises Fault."""
        end = self.received.find(b"\r\n\r\n")
        if end <= 0 or end > self.engine.limits.head_bytes - 4 or self.received[0] < 0x21:
            return None
        return self._parse(end + 4)

    async def receive_head(self) -> ParsedRequest:
        """Wait for the next request head. Raises Fault, and StreamClosed when the caller disconnects within it."""
        limits = self.engine.limits
        began = False
        scanned = skipped = 0
        while True:
            received = self.received
            if not scanned and received and received[0] in b"\r\n":
                skipped = self._skip_leading(skipped)
                received = self.received
            end = received.find(b"\r\n\r\n", scanned)
            if 0 <= end <= limits.head_bytes - 4:
                return self._parse(end + 4)
            line_bytes = limits.target_bytes + _LINE_SLACK_BYTES
            if end >= 0 or len(received) > limits.head_bytes or (len(received) > line_bytes and received.find(b"\r\n", 0, line_bytes) < 0):
                raise _oversize(received, limits.target_bytes)
            if find_bad_byte(received, scanned):
                raise Fault("bad_request", "bad_field: a bare CR or LF or a control in the head")
            if not began:
                began = True
                self.deadline_at = self.engine.now() + self.engine.deadlines.head_s
            scanned = max(0, len(received) - 3)
            try:
                if not await self.fill():
                    raise StreamClosed
            except TimeoutError:
                raise Fault("request_timeout", "head: the request head did not arrive within {header_timeout}") from None

    def _parse(self, size: int) -> ParsedRequest:
        """Take a whole head of `size` bytes off the buffer and parse it. Raises Fault."""
        self.deadline_at = math.inf
        return self._parser.parse(self.take(size))

    def _skip_leading(self, skipped: int) -> int:
        """Skip a few empty lines before a request line (RFC 9112 section 2.2). Returns the count so far. Raises Fault."""
        while self.received[:2] == b"\r\n":
            self.take(2)
            skipped += 1
        if skipped > _LEADING_CRLF_MAX or self.received[:1] == b"\n" or (self.received[:1] == b"\r" and len(self.received) > 1):
            raise Fault("bad_request", "leading_crlf: at most four CRLF may precede a request")
        return skipped

    async def flush_response(self) -> bool:
        """Wait until the caller took our own response. Returns False if it does not, or disconnected: it is served no more."""
        while self.write_blocked and not self.eof:
            self.deadline_at = self.engine.now() + self.engine.deadlines.keepalive_s
            try:
                await self.flush()
            except (StreamClosed, TimeoutError):
                return False
        self.deadline_at = math.inf
        return not self.write_blocked

    async def finish_and_discard(self) -> None:
        """Half-close, then read and discard a little, so that a reset does not destroy the response (RFC 9112 section 9.6)."""
        if not self.eof and not self.transport.is_closing():
            self.finish()
            await self.discard_body(_LINGER_BYTES)

    async def discard_body(self, octets: int) -> bool:
        """Read and drop `octets` bytes. Returns True if all of them arrived within `_LINGER_S`."""
        self.deadline_at = self.engine.now() + _LINGER_S
        try:
            while octets and (self.received or await self.fill()):
                octets -= len(self.take(min(octets, len(self.received))))
        except TimeoutError:
            return False
        self.deadline_at = math.inf
        return not octets


def _oversize(received: bytes | bytearray, target_bytes: int) -> Fault:
    """Which limit an oversized head broke: the target's first, so that one segment and single bytes get the same response."""
    line = bytes(received).partition(b"\r\n")[0]
    target = line.split(b" ")[1] if b" " in line else b""
    if len(target) > target_bytes:
        return Fault("target_too_long", "target_too_long: the request target exceeds {max_target_size}")
    return Fault("head_too_large", "head_too_large: the request head exceeds {max_head_size}")
