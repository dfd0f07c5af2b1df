"""Relay one final response to the caller: its head, then its body as it arrives, with back-pressure and framing made anew."""

import math

from robin.model.message import Framing
from robin.proxy.drain import CLOSING
from robin.proxy.relay import Relay
from robin.proxy.tunnel import check_switch, tunnel
from robin.transport.stream import StreamClosed
from robin.wire.forwarding import Direction, forward_response, forward_trailers
from robin.wire.framing import ChunkedDecoder, chunk, last_chunk
from robin.wire.shape import ParsedResponse


async def relay_response(relay: Relay, response: ParsedResponse) -> bool:
    """Relay `response`. Returns True if the caller's connection can be reused; the upstream connection is marked `reusable` if it can.

    Raises Fault, CallerLeft, StreamClosed, FramingError, TimeoutError.
    """
    downstream, upstream, head = relay.downstream, relay.upstream, relay.head
    if response.status == 101:
        check_switch(head, relay.upgrade, response, relay.engine.metrics)
        await tunnel(downstream, upstream, response, relay.route, relay.record, relay.engine, protocol=relay.upgrade or b"")
        return False
    if relay.upgrade is not None:
        relay.engine.metrics.upgrades["refused"] += 1
    early = relay.body is not None and await relay.body.stop()
    reusable = head.keep_alive and not early and relay.engine.drain.state != CLOSING
    if downstream.expires_at != math.inf and relay.engine.now() >= downstream.expires_at:
        reusable = False  # who called is not known any more
    if response.length == len(upstream.received) and response.framing == Framing.LENGTH:  # all of it is here: one write, no wait
        _count(relay, response.length)
        head_bytes = forward_response(response, rules=relay.route.header_rules, minor=head.minor, keep_alive=reusable, chunked=False)
        _write(relay, head_bytes + upstream.take(response.length))
        if downstream.write_blocked:
            await relay.flush_downstream()
    else:
        reusable = await _relay_body(relay, response, reusable=reusable)
    upstream.reusable = response.keep_alive and not early and not upstream.received
    relay.record.outcome = "forwarded"
    return reusable and not (relay.upgrade and downstream.received)


async def _relay_body(relay: Relay, response: ParsedResponse, *, reusable: bool) -> bool:
    """Relay head and body. Returns True if the caller's connection can be reused."""
    framing, minor = response.framing, relay.head.minor
    unframed = framing >= Framing.CHUNKED
    chunked = unframed and minor == 1
    reusable = reusable and chunked is unframed
    first = forward_response(response, rules=relay.route.header_rules, minor=minor, keep_alive=reusable, chunked=chunked)
    if framing == Framing.NONE:
        _write(relay, first)
    elif framing == Framing.LENGTH:
        await _relay_length(relay, response.length, first)
    elif framing == Framing.CHUNKED:
        await _relay_chunked(relay, first, response.connection_options, chunked=chunked)
    else:
        await _relay_until_close(relay, first, chunked=chunked)
    if relay.downstream.write_blocked:
        await relay.flush_downstream()
    return reusable


async def _relay_length(relay: Relay, left: int, first: bytes) -> None:
    """A body of known length; its head is written with the first bytes of it that are here."""
    upstream = relay.upstream
    while True:
        if left and upstream.received:
            size = min(left, len(upstream.received))
            left -= size
            _count(relay, size)
            first = first + upstream.take(size) if first else upstream.take(size)
        if first:
            _write(relay, first)
            first = b""
        if not left:
            return
        await relay.next_piece()


async def _relay_chunked(relay: Relay, first: bytes, options: frozenset[bytes], *, chunked: bool) -> None:
    """A chunked body: decoded and, for an HTTP/1.1 caller, chunked anew."""
    upstream = relay.upstream
    decoder = ChunkedDecoder()
    while True:
        if upstream.received:
            first += _decode(relay, decoder, chunked=chunked)
        if decoder.done and chunked:
            first += last_chunk(forward_trailers(decoder.trailers, options, relay.route.header_rules, Direction.DOWNSTREAM))
        if first:
            _write(relay, first)
            first = b""
        if decoder.done:
            return
        await relay.next_piece(partial=bool(upstream.received) and not decoder.eager)


async def _relay_until_close(relay: Relay, first: bytes, *, chunked: bool) -> None:
    """A body that ends with its connection: chunked for an HTTP/1.1 caller."""
    upstream = relay.upstream
    while True:
        if upstream.received:
            first += _take_all(relay, chunked=chunked)
        if first:
            _write(relay, first)
            first = b""
        if upstream.eof:
            if upstream.was_reset:
                raise StreamClosed
            if chunked:
                _write(relay, last_chunk([]))
            return
        await relay.next_piece(may_end=True)


# The next two return what is to be written and keep no reference: a waiting frame would hold the piece once more.


def _decode(relay: Relay, decoder: ChunkedDecoder, *, chunked: bool) -> bytes:
    pieces, used = decoder.decode(relay.upstream.received)
    if used:
        relay.upstream.take(used)
    payload = b"".join(pieces)
    _count(relay, len(payload))
    return chunk(payload) if chunked and payload else payload


def _take_all(relay: Relay, *, chunked: bool) -> bytes:
    piece = relay.upstream.take(len(relay.upstream.received))
    _count(relay, len(piece))
    return chunk(piece) if chunked else piece


def _write(relay: Relay, octets: bytes) -> None:
    """Write to the caller. With the first bytes of the response, the caller has seen a head."""
    record = relay.record
    if record.status is None:
        record.status = record.upstream_status
        record.ttfb_s = relay.engine.clock() - record.started_at
    relay.downstream.write(octets)


def _count(relay: Relay, octets: int) -> None:
    relay.record.bytes_out += octets
    relay.engine.metrics.body_bytes_out += octets
