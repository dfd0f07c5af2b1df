"""Relay one final response to the caller: its head, then its body as it arrives, with back-pressure and framing made anew."""

from robin.model.message import Framing
from robin.proxy.attempt import Attempt
from robin.proxy.tunnel import check_switch, tunnel
from robin.transport.stream import StreamClosed
from robin.wire.forwarding import Direction, forward_response, forward_trailers, redact_trailers
from robin.wire.framing import ChunkedDecoder, chunk, last_chunk
from robin.wire.shape import ParsedResponse


async def relay_response(attempt: Attempt, response: ParsedResponse) -> bool:
    """Relay `response`. Returns True if the caller's connection can be reused; the upstream connection is marked `reusable` if it can.

    Raises Fault, CallerLeft, StreamClosed, FramingError, TimeoutError.
    """
    downstream, upstream, head = attempt.downstream, attempt.upstream, attempt.head
    if response.status == 101:
        check_switch(head, attempt.upgrade, response, attempt.engine.metrics)
        await tunnel(
            downstream, upstream, attempt.head, response, attempt.route, attempt.record, attempt.engine, protocol=attempt.upgrade or b""
        )
        return False
    if attempt.upgrade is not None:
        attempt.engine.metrics.upgrades["refused"] += 1
    early = attempt.body is not None and await attempt.body.stop()
    reusable = not early and downstream.can_serve_another(head)
    if response.length == len(upstream.received) and response.framing == Framing.LENGTH:  # all of it is here: one write, no wait
        _count(attempt, response.length)
        own, rules = attempt.own_fields, attempt.route.header_rules
        head_bytes = forward_response(response, rules=rules, minor=head.minor, keep_alive=reusable, chunked=False, own=own)
        _write(attempt, head_bytes + upstream.take(response.length))
        if downstream.write_blocked:
            await attempt.flush_downstream()
    else:
        reusable = await _relay_body(attempt, response, reusable=reusable)
    upstream.reusable = response.keep_alive and not early and not upstream.received and not downstream.ending
    attempt.record.outcome = "forwarded"
    return reusable and not (attempt.upgrade and downstream.received)


def discard_response(attempt: Attempt, response: ParsedResponse) -> None:
    """Drop a response that the caller does not get. Its connection is kept if the whole body is here already, else closed."""
    upstream = attempt.upstream
    if response.framing == Framing.NONE or (response.framing == Framing.LENGTH and response.length == len(upstream.received)):
        upstream.take(len(upstream.received) if response.framing == Framing.LENGTH else 0)
        upstream.reusable = response.keep_alive and not upstream.received


async def _relay_body(attempt: Attempt, response: ParsedResponse, *, reusable: bool) -> bool:
    """Relay head and body. Returns True if the caller's connection can be reused."""
    framing, minor = response.framing, attempt.head.minor
    unframed = framing >= Framing.CHUNKED
    chunked = unframed and minor == 1
    reusable = reusable and chunked is unframed
    own, rules = attempt.own_fields, attempt.route.header_rules
    first = forward_response(response, rules=rules, minor=minor, keep_alive=reusable, chunked=chunked, own=own)
    if framing == Framing.NONE:
        _write(attempt, first)
    elif framing == Framing.LENGTH:
        await _relay_length(attempt, response.length, first)
    elif framing == Framing.CHUNKED:
        await _relay_chunked(attempt, first, response.connection_options, chunked=chunked)
    else:
        await _relay_until_close(attempt, first, chunked=chunked)
    if attempt.downstream.write_blocked:
        await attempt.flush_downstream()
    return reusable


async def _relay_length(attempt: Attempt, left: int, first: bytes) -> None:
    """A body of known length; its head is written with the first bytes of it that are here."""
    upstream = attempt.upstream
    while True:
        if left and upstream.received:
            size = min(left, len(upstream.received))
            left -= size
            _count(attempt, size)
            first = first + upstream.take(size) if first else upstream.take(size)
        if first:
            _write(attempt, first)
            first = b""
        if not left:
            return
        await attempt.next_piece()


async def _relay_chunked(attempt: Attempt, first: bytes, options: frozenset[bytes], *, chunked: bool) -> None:
    """A chunked body: decoded and, for an HTTP/1.1 caller, chunked anew.

    `end_response` ends it behind a whole chunk of the upstream, with a last chunk of our own.
    """
    upstream = attempt.upstream
    decoder = ChunkedDecoder()
    while True:
        if upstream.received:
            first += _decode(attempt, decoder, chunked=chunked)
        if decoder.done and chunked:
            trailers = redact_trailers(decoder.trailers, attempt.tokens) if decoder.trailers else decoder.trailers
            first += last_chunk(forward_trailers(trailers, options, attempt.route.header_rules, Direction.DOWNSTREAM))
        ended = decoder.done
        if attempt.downstream.ending and not ended and chunked and decoder.between_chunks:
            first += last_chunk([])
            ended = True
        if first:
            _write(attempt, first)
            first = b""
        if ended:
            return
        await attempt.next_piece(partial=bool(upstream.received) and not decoder.eager)


async def _relay_until_close(attempt: Attempt, first: bytes, *, chunked: bool) -> None:
    """A body that ends with its connection: chunked for an HTTP/1.1 caller."""
    upstream = attempt.upstream
    while True:
        if upstream.received:
            first += _take_all(attempt, chunked=chunked)
        if first:
            _write(attempt, first)
            first = b""
        if upstream.eof:
            if upstream.was_reset:
                raise StreamClosed
            if chunked:
                _write(attempt, last_chunk([]))
            return
        await attempt.next_piece(may_end=True)


# The next two return what is to be written and keep no reference: a waiting frame would hold the piece once more.


def _decode(attempt: Attempt, decoder: ChunkedDecoder, *, chunked: bool) -> bytes:
    pieces, used = decoder.decode(attempt.upstream.received)
    if used:
        attempt.upstream.take(used)
    payload = b"".join(pieces)
    _count(attempt, len(payload))
    return chunk(payload) if chunked and payload else payload


def _take_all(attempt: Attempt, *, chunked: bool) -> bytes:
    piece = attempt.upstream.take(len(attempt.upstream.received))
    _count(attempt, len(piece))
    return chunk(piece) if chunked else piece


def _write(attempt: Attempt, octets: bytes) -> None:
    """Write to the caller. With the first bytes of the response, the caller has seen a head."""
    record = attempt.record
    if record.status is None:
        record.status = record.upstream_status
        record.ttfb_s = attempt.engine.clock() - record.started_at
    attempt.downstream.write(octets)


def _count(attempt: Attempt, octets: int) -> None:
    attempt.record.bytes_out += octets
    attempt.engine.metrics.body_bytes_out += octets
