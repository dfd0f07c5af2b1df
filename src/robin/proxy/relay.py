"""One exchange between two connected streams: the request up, the answer down, both at once, with back-pressure and no coalescing.

Rules a reader must keep: what the upstream says is parsed whole before a byte of it goes down; at most one read of the loop is held a
direction; an upstream connection is `reusable` only after a whole and clean answer with nothing behind it.
"""

import asyncio
import math
from typing import Final, NoReturn

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

    __slots__ = ("_idle_s", "_interim", "_interim_bytes", "_scanned", "_upload", "downstream", "head", "house", "record", "upstream")

    def __init__(self, downstream: Downstream, upstream: Upstream, head: RequestHead, record: ExchangeRecord, house: House) -> None:
        self.downstream = downstream
        self.upstream = upstream
        self.head = head
        self.record = record
        self.house = house
        self._idle_s = house.deadlines.stream_idle_s or math.inf
        self._upload: Upload | None = None
        self._scanned = self._interim = self._interim_bytes = 0

    async def carry(self, outbound: bytes) -> tuple[ResponseHead, bool]:
        """Send the request, bring the answer. The final response head, and whether the downstream connection goes on.

        Raises Fault, CallerLeft, StaleConnection.
        """
        downstream, upstream, head = self.downstream, self.upstream, self.head
        downstream.partner = upstream
        try:
            self._send(outbound)
            while not upstream.received or (response := self._take_head()) is None:
                if self._interim and downstream.choked:
                    await self._drain()
                    continue
                if upstream.ended or downstream.ended:
                    self._tell_end()
                try:
                    await upstream.arrival()
                finally:
                    upstream.resumed()
                if self._upload is not None or downstream.ended:
                    self._check_caller()
            if response.status == 101:
                return await self._switch(response), False
            if head.upgrade is not None:
                self.house.metrics.upgrades["refused"] += 1
            early = self._upload is not None and await self._upload.stop()
            goes_on = head.keep_alive and not early and not self.house.closing
            if response.length == len(upstream.received) and response.framing == Framing.LENGTH:  # all of it is here: one write, no wait
                self._count(response.length)
                self._write(
                    forward_response(response, minor=head.minor, keep_alive=goes_on, chunked=False) + upstream.take(response.length)
                )
                if downstream.choked:
                    await self._drain()
            else:
                goes_on = await self._bring(response, goes_on=goes_on)
            upstream.reusable = response.keep_alive and not early and not upstream.received
            self.record.outcome = "forwarded"
            return response, goes_on and not (head.upgrade and downstream.received)
        except (Ended, FramingError, TimeoutError) as error:
            raise self._cut(error) from None
        finally:
            downstream.partner = None
            upstream.deadline_at = math.inf
            if self._upload is not None:
                await self._upload.stop()

    async def _switch(self, response: ResponseHead) -> ResponseHead:
        """Let both sides speak another protocol, until the end of either. Raises Fault."""
        head, house = self.head, self.house
        check_switch(head, response, house.metrics)
        await tunnel(self.downstream, self.upstream, response, self.record, house, protocol=head.upgrade or b"")
        return response

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
        now = self.house.now
        upstream.deadline_at = now() + (self.house.deadlines.response_s or math.inf)

    def _take_head(self) -> ResponseHead | None:
        """The final response head (or a 101), once it is here; interim ones go down as they come. Raises Fault."""
        upstream, house = self.upstream, self.house
        limit = house.limits.response_head_bytes
        while True:
            received = upstream.received
            end = received.find(b"\r\n\r\n", self._scanned)
            if end < 0:
                if len(received) > limit or find_bad_byte(received, self._scanned):
                    raise Fault("upstream_protocol", "bad_response: the response head is too large or holds a bare CR, LF or control")
                self._scanned = max(0, len(received) - 3)
                return None
            if end + 4 > limit:
                raise Fault("upstream_protocol", "bad_response: the response head is too large")
            raw = upstream.take(end + 4)
            response = upstream.forms.read(raw, method=self.head.method, fields_max=house.limits.response_fields)
            if response.status >= 200 or response.status == 101:
                self.record.upstream_status = response.status
                return response
            self._scanned = 0
            self._pass_interim(response, len(raw))
            if self.downstream.choked:
                return None

    def _pass_interim(self, response: ResponseHead, octets: int) -> None:
        """A 1xx goes down to a 1.1 caller; a 100 lets the body go. Raises Fault."""
        self._interim += 1
        self._interim_bytes += octets
        if self._interim > _INTERIM_MAX or self._interim_bytes > _INTERIM_BYTES:
            raise Fault("upstream_protocol", "bad_response: too many interim responses")
        if response.status == 100 and self._upload is not None:
            self._upload.proceed()
        if self.head.minor == 1:
            self.downstream.write(forward_response(response, minor=1, keep_alive=True, chunked=False))

    def _check_caller(self) -> None:
        """Raise what keeps the caller from being answered, if something does."""
        if self._upload is not None and self._upload.fault is not None:
            raise self._upload.fault
        if self.downstream.ended:
            raise CallerLeft

    def _tell_end(self) -> NoReturn:
        """Raise what ended the wait for an answer. After an interim response it is no stale connection."""
        self._check_caller()
        if self.upstream.received or self._interim:
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
            clock = self.house.clock
            self.record.ttfb_s = clock() - self.record.started_at
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
        more = not upstream.ended
        if more:
            upstream.deadline_at = self.house.now() + self._idle_s
            try:
                await upstream.arrival()
            finally:
                upstream.resumed()
            more = not upstream.ended or len(upstream.received) > 0
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
        if isinstance(error, TimeoutError) and self.record.upstream_status is None:
            return Fault("response_timeout", "response_timeout: no answer within ROBIN_UPSTREAM_RESPONSE_TIMEOUT")
        if isinstance(error, TimeoutError):
            return Fault("upstream_closed", "idle: no byte within ROBIN_STREAM_IDLE_TIMEOUT")
        if isinstance(error, FramingError):
            return Fault("upstream_protocol", f"bad_response: {error}")
        return Fault("upstream_closed", "cut: the answer of the upstream broke off")
