"""Send one request, and receive the head of its final response; interim responses go to the caller as they come (RFC 9110 section 15.2)."""

from typing import Final

from robin.model.faults import Fault
from robin.model.message import Framing
from robin.proxy.attempt import Attempt
from robin.proxy.request_body import StreamedBody
from robin.wire.forwarding import forward_interim, redact_echo
from robin.wire.framing import FramingError
from robin.wire.http1 import find_bad_byte
from robin.wire.shape import ParsedResponse

_INTERIM_MAX: Final = 16
_INTERIM_BYTES: Final = 65536


async def send_request(attempt: Attempt, outbound: bytes) -> ParsedResponse:
    """Send `outbound`, a request head as bytes, and its body. Returns the head of the final response, or of a 101.

    The caller has seen nothing of that response yet. Raises Fault, CallerLeft, StaleConnection, StreamClosed, TimeoutError.
    """
    downstream, upstream = attempt.downstream, attempt.upstream
    attempt.check_before_send()
    attempt.record.credential = attempt.record.offered
    _send(attempt, outbound)
    while not upstream.received or (response := _take_response_head(attempt)) is None:
        if attempt.interim and downstream.write_blocked:
            await attempt.flush_downstream()
            continue
        if upstream.eof or downstream.eof:
            attempt.classify_eof(begun=len(upstream.received) > 0)
        try:
            await upstream.wait_readable()
        finally:
            upstream.wait_done()
        if attempt.body is not None or downstream.eof:
            attempt.check_caller()
    return response


def _send(attempt: Attempt, outbound: bytes) -> None:
    """Send head and body: in one write where all of it is here, else what is here, and the rest by a StreamedBody. Raises Fault."""
    head, upstream, downstream, held = attempt.head, attempt.upstream, attempt.downstream, attempt.held
    length = head.length
    if held is not None:
        outbound += held.octets
    elif head.framing == Framing.CHUNKED or head.expects_continue or len(downstream.received) < length:
        upstream.write(outbound)
        attempt.body = StreamedBody(downstream, upstream, head, attempt.route, attempt.record, attempt.engine)
        try:
            attempt.body.start()
        except FramingError as error:
            raise Fault("bad_request", str(error)) from None
        return
    elif length:
        outbound += downstream.take(length)
        attempt.record.bytes_in += length
        attempt.engine.metrics.body_bytes_in += length
    if downstream.paused:
        downstream.resume_reading()
    upstream.write(outbound)
    upstream.deadline_at = attempt.engine.now() + attempt.route.deadlines.response_s


def _take_response_head(attempt: Attempt) -> ParsedResponse | None:
    """The head of the final response, or of a 101, once it is here. Raises Fault: `upstream_protocol`, what the route does not accept."""
    upstream, limits = attempt.upstream, attempt.engine.limits
    while True:
        received = upstream.received
        end = received.find(b"\r\n\r\n", attempt.scanned)
        if end < 0:
            if len(received) > limits.response_head_bytes or find_bad_byte(received, attempt.scanned):
                raise _broken("the response head is too large or holds a bare CR, LF or control")
            attempt.scanned = max(0, len(received) - 3)
            return None
        if end + 4 > limits.response_head_bytes:
            raise _broken("the response head is too large")
        raw = upstream.take(end + 4)
        response = upstream.parser.parse(raw, method=attempt.head.method, fields_max=limits.response_fields)
        if attempt.tokens and redact_echo(response, attempt.tokens):
            attempt.record.notes["echoed"] = True
        if response.status >= 200 or response.status == 101:
            attempt.record.upstream_status = response.status
            if attempt.route.accept_response is not None:
                attempt.own_fields += attempt.route.accept_response(response)
            return response
        attempt.scanned = 0
        _forward_interim(attempt, response, len(raw))
        if attempt.downstream.write_blocked:
            return None


def _forward_interim(attempt: Attempt, response: ParsedResponse, octets: int) -> None:
    """Relay a 1xx; a 100 lets the request body go. Raises Fault."""
    attempt.interim += 1
    attempt.interim_bytes += octets
    if attempt.interim > _INTERIM_MAX or attempt.interim_bytes > _INTERIM_BYTES:
        raise _broken("too many interim responses")
    if response.status == 100 and attempt.body is not None:
        attempt.body.got_continue()
    if attempt.route.relays_interim:
        attempt.downstream.write(forward_interim(response, attempt.route.header_rules, minor=attempt.head.minor))


def _broken(text: str) -> Fault:
    return Fault("upstream_protocol", f"bad_response: {text}")
