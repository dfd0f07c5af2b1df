"""One exchange between two connected streams: the request up, the answer down, both at once, with back-pressure and no coalescing.

Rules a reader must keep: what the upstream says is parsed whole before a byte of it goes down; at most one read of the loop is held a
direction; an upstream connection is `reusable` only after a whole and clean answer with nothing behind it.
"""

import asyncio
import math
from typing import Final

from robin.model.faults import Fault
from robin.model.message import Framing, RequestHead, ResponseHead
from robin.proxy.downstream import Downstream
from robin.proxy.house import House
from robin.proxy.pool import Upstream
from robin.proxy.tunnel import check_switch, tunnel
from robin.proxy.upload import Upload
from robin.telemetry.record import ExchangeRecord
from robin.transport.stream import Ended
from robin.wire.forwarding import forward_response, forward_trailers
from robin.wire.framing import ChunkedDecoder, FramingError, chunk, last_chunk
from robin.wire.http1 import find_bad_byte

_INTERIM_MAX: Final = 16
_INTERIM_BYTES: Final = 65536


class CallerLeft(Exception):
    """The caller ended before the answer did."""


class StaleConnection(Exception):
    """The upstream ended before a byte of an answer. `repeatable`: the request may be sent once more on a new connection (J3)."""

    def __init__(self, reason: str, *, repeatable: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.repeatable = repeatable


_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


class Relay:
    """One request on one upstream connection."""

    __slots__ = ("_idle_s", "_upload", "downstream", "head", "house", "record", "upstream")

    def __init__(self, downstream: Downstream, upstream: Upstream, head: RequestHead, record: ExchangeRecord, house: House) -> None:
        self.downstream = downstream
        self.upstream = upstream
        self.head = head
        self.record = record
        self.house = house
        self._idle_s = house.deadlines.stream_idle_s or math.inf
        self._upload: Upload | None = None

    async def carry(self, outbound: bytes) -> tuple[ResponseHead, bool]:
        """Send the request, bring the answer. The final response head, and whether the downstream connection goes on.

        Raises Fault, CallerLeft, StaleConnection.
        """
        downstream, upstream, head = self.downstream, self.upstream, self.head
        downstream.partner = upstream
        try:
            self._send(outbound)
            response = await self._receive_response()
            if response.status == 101:
                check_switch(head, response, self.house.metrics)
                await tunnel(downstream, upstream, response, self.record, self.house, protocol=head.upgrade or b"")
                return response, False
            if head.upgrade is not None:
                self.house.metrics.upgrades["refused"] += 1
            early = False
            if self._upload is not None and not self._upload.done:
                early = True
                await self._upload.stop()
            goes_on = head.keep_alive and not early and not self.house.closing
            if response.length == len(upstream.received) and response.framing == Framing.LENGTH:  # all of it is here: one write, no wait
                self._count(response.length)
                first = forward_response(response, minor=head.minor, keep_alive=goes_on, chunked=False)
                self._write(first + upstream.take(response.length))
                if downstream.choked:
                    await self._drain()
            else:
                goes_on = await self._bring(response, goes_on=goes_on)
            upstream.reusable = response.keep_alive and not early and not upstream.received
            self.record.outcome = "injected"
            return response, goes_on and not (head.upgrade and downstream.received)
        except (Ended, FramingError, TimeoutError) as error:
            raise self._cut(error) from None
        finally:
            downstream.partner = None
            upstream.deadline_at = math.inf
            if self._upload is not None:
                await self._upload.stop()

    def _send(self, outbound: bytes) -> None:
        """Send head and body: at once where all of it is here, else what is here and the rest by an Upload. Raises Fault."""
        head, upstream, downstream = self.head, self.upstream, self.downstream
        length = head.length
        whole = head.framing != Framing.CHUNKED and not head.expects_continue and len(downstream.received) >= length
        if not whole:
            upstream.write(outbound)
            self._upload = Upload(downstream, upstream, head, self.record, self.house)
            try:
                self._upload.start()
            except FramingError as error:
                raise Fault("bad_request", str(error)) from None
            return
        if length:
            outbound += downstream.take(length)
            self.record.bytes_in += length
            self.house.metrics.body_bytes_in += length
        if downstream.paused:
            downstream.listen()
        upstream.write(outbound)
        upstream.deadline_at = self.house.now() + (self.house.deadlines.response_s or math.inf)

    async def _receive_response(self) -> ResponseHead:
        """The final response head (or a 101); interim ones go down as they come."""
        upstream, house = self.upstream, self.house
        limit = house.limits.response_head_bytes
        scanned = interim = interim_bytes = 0
        while True:
            received = upstream.received
            end = received.find(b"\r\n\r\n", scanned) if received else -1
            if end < 0:
                if len(received) > limit or (received and find_bad_byte(received, scanned)):
                    raise Fault("upstream_protocol", "bad_response: the response head is too large or holds a bare CR, LF or control")
                scanned = max(0, len(received) - 3)
                try:
                    more = not self.downstream.ended and await upstream.fill()
                except TimeoutError:
                    raise Fault("response_timeout", "response_timeout: no answer within ROBIN_UPSTREAM_RESPONSE_TIMEOUT") from None
                if not more or self._upload is not None or self.downstream.ended:
                    self._tell_end(more=more, spoke=interim > 0)
                continue
            if end + 4 > limit:
                raise Fault("upstream_protocol", "bad_response: the response head is too large")
            raw = upstream.take(end + 4)
            response = upstream.forms.read(raw, method=self.head.method, fields_max=house.limits.response_fields)
            if response.status >= 200 or response.status == 101:
                self.record.upstream_status = response.status
                return response
            scanned = 0
            interim += 1
            interim_bytes += len(raw)
            if interim > _INTERIM_MAX or interim_bytes > _INTERIM_BYTES:
                raise Fault("upstream_protocol", "bad_response: too many interim responses")
            await self._pass_interim(response)

    async def _pass_interim(self, response: ResponseHead) -> None:
        """A 1xx goes down to a 1.1 caller; a 100 lets the body go."""
        if response.status == 100 and self._upload is not None:
            self._upload.proceed()
        if self.head.minor == 1:
            self.downstream.write(forward_response(response, minor=1, keep_alive=True, chunked=False))
            await self._drain()

    def _tell_end(self, *, more: bool, spoke: bool) -> None:
        """Raise what ended the wait for an answer, if something did. `spoke`: an interim response came: it is no stale connection."""
        if self._upload is not None and self._upload.fault is not None:
            raise self._upload.fault
        if self.downstream.ended:
            raise CallerLeft
        if not more:
            if self.upstream.received or spoke:
                raise Fault("upstream_closed", "upstream_closed: the upstream closed within its response head")
            begun = self.record.bytes_in or (self._upload is not None and self._upload.began)  # a chunk line without data counts
            repeatable = self.head.method in _REPEATABLE and not begun
            raise StaleConnection("reset" if self.upstream.broken else "eof", repeatable=repeatable)

    async def _bring(self, response: ResponseHead, *, goes_on: bool) -> bool:
        """Bring the final answer down. Whether the downstream connection can go on after it."""
        framing, minor = response.framing, self.head.minor
        unframed = framing >= Framing.CHUNKED
        chunked = unframed and minor == 1
        goes_on = goes_on and chunked is unframed
        first = forward_response(response, minor=minor, keep_alive=goes_on, chunked=chunked)
        if framing == Framing.NONE:
            self._write(first)
        elif framing == Framing.LENGTH:
            await self._bring_length(response.length, first)
        elif framing == Framing.CHUNKED:
            await self._bring_chunked(first, response.outline.hop, chunked=chunked)
        else:
            await self._bring_rest(first, chunked=chunked)
        if self.downstream.choked:
            await self._drain()
        return goes_on

    async def _bring_length(self, left: int, first: bytes) -> None:
        """A body of known length; its head goes down with the first bytes of it that are here."""
        upstream = self.upstream
        while True:
            if left and upstream.received:
                size = min(left, len(upstream.received))
                left -= size
                self._count(size)
                first = first + upstream.take(size) if first else upstream.take(size)
            if first:
                self._write(first)
                first = b""
            if not left:
                return
            await self._next_piece()

    async def _bring_chunked(self, first: bytes, hop: frozenset[bytes], *, chunked: bool) -> None:
        """A chunked body: taken apart and, for an HTTP/1.1 caller, chunked anew."""
        upstream = self.upstream
        decoder = ChunkedDecoder()
        while True:
            if upstream.received:
                first += self._decode(decoder, chunked=chunked)
            if decoder.done and chunked:
                first += last_chunk(forward_trailers(decoder.trailers, self.house.rewriting, hop))
            if first:
                self._write(first)
                first = b""
            if decoder.done:
                return
            await self._next_piece(partial=bool(upstream.received) and not decoder.eager)

    async def _bring_rest(self, first: bytes, *, chunked: bool) -> None:
        """A body that ends with its connection: chunked for an HTTP/1.1 caller."""
        upstream = self.upstream
        while True:
            if upstream.received:
                first += self._take_rest(chunked=chunked)
            if first:
                self._write(first)
                first = b""
            if upstream.ended:
                if upstream.broken:
                    raise Ended
                if chunked:
                    self._write(last_chunk([]))
                return
            await self._next_piece(may_end=True)

    # These two return what is to be written and keep nothing: a waiting frame would hold the piece once more.

    def _decode(self, decoder: ChunkedDecoder, *, chunked: bool) -> bytes:
        pieces, used = decoder.decode(self.upstream.received)
        if used:
            self.upstream.take(used)
        payload = b"".join(pieces)
        self._count(len(payload))
        return chunk(payload) if chunked and payload else payload

    def _take_rest(self, *, chunked: bool) -> bytes:
        piece = self.upstream.take(len(self.upstream.received))
        self._count(len(piece))
        return chunk(piece) if chunked else piece

    def _write(self, octets: bytes) -> None:
        """Write to the caller; with the first bytes of the answer, the caller has seen a head."""
        if self.record.status is None:
            self.record.status = self.record.upstream_status
            self.record.ttfb_s = self.house.clock() - self.record.started_at
        self.downstream.write(octets)

    def _count(self, octets: int) -> None:
        self.record.bytes_out += octets
        self.house.metrics.body_bytes_out += octets

    async def _next_piece(self, *, partial: bool = False, may_end: bool = False) -> None:
        """Let the caller take what was written, then wait for more from the upstream.

        `partial`: what is in `received` already was looked at and is not enough. `may_end`: the end is part of the answer.
        """
        downstream, upstream = self.downstream, self.upstream
        if downstream.choked:
            upstream.hold()
            await self._drain()
        if upstream.received and not partial:
            await asyncio.sleep(0)  # a flood of small chunks: others have their turn
            if downstream.ended:
                raise CallerLeft
            return
        upstream.deadline_at = self.house.now() + self._idle_s
        more = await upstream.fill()
        if downstream.ended:
            raise CallerLeft
        if not more and not may_end:
            raise Ended

    async def _drain(self) -> None:
        """Wait until the caller took what was written. Raises CallerLeft, Ended."""
        downstream = self.downstream
        if not downstream.choked:
            return  # the deadline may be that of a body that still comes up
        while downstream.choked:
            if downstream.ended:
                raise CallerLeft
            downstream.deadline_at = self.house.now() + self._idle_s
            try:
                await downstream.drain()
            except TimeoutError:
                downstream.reset()  # it takes no more, as if it had left; a part must not look like the whole
                raise CallerLeft from None
        uploading = self._upload is not None and not self._upload.done
        downstream.deadline_at = self.house.now() + self._idle_s if uploading else math.inf

    def _cut(self, error: Exception) -> Exception:
        """The exchange broke after its start: who left decides what it is called."""
        if self.downstream.ended:
            return CallerLeft()
        if isinstance(error, TimeoutError):
            return Fault("upstream_closed", "idle: no byte within ROBIN_STREAM_IDLE_TIMEOUT")
        if isinstance(error, FramingError):
            return Fault("upstream_protocol", f"bad_response: {error}")
        return Fault("upstream_closed", "cut: the answer of the upstream broke off")
