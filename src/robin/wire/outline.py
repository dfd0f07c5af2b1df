"""What the fields of a head say together, and a memo of it: heads differ in values from message to message, hardly ever in outline.

Rules a reader must keep: an Outline is a pure function of the Fields of a head and its minor version. It is remembered only where every
Field of it is lasting, by the identity of those Fields, so two heads share one only if they differ in nothing but values of shared ones,
which no verdict depends on; what is read each time is pointed at by place. When the memo is full it starts anew.
"""

import re
from collections.abc import Iterator
from typing import Final, TypeVar

from robin.model.faults import Fault
from robin.model.message import Field, Framing, Outline, RequestOutline, ResponseOutline
from robin.wire.fields import Role, fields_of

_Drawn = TypeVar("_Drawn", bound=Outline)

_MEMO_OUTLINES: Final = 128
_MEMO_FIELDS: Final = 64  # a head of more fields is read anew each time

_requests: Final[tuple[dict[tuple[Field, ...], RequestOutline], ...]] = ({}, {})  # by minor version
_responses: Final[tuple[dict[tuple[Field, ...], ResponseOutline], ...]] = ({}, {})


def outline_request(lines: list[bytes], minor: int) -> RequestOutline:
    """The outline of a request's field lines. Raises Fault: bad_request, expectation_failed."""
    fields = fields_of(lines)
    outline = _requests[minor].get(fields)
    if outline is None:
        outline = _draw_request(fields, minor)
        _remember(_requests[minor], outline)
    return outline


def outline_response(lines: list[bytes], minor: int) -> ResponseOutline:
    """The outline of a response's field lines. Raises Fault `bad_request`, for the caller to name anew."""
    fields = fields_of(lines)
    outline = _responses[minor].get(fields)
    if outline is None:
        outline = _draw_response(fields, minor)
        _remember(_responses[minor], outline)
    return outline


def blanks_of(lines: list[bytes], outline: Outline) -> list[bytes]:
    """The values of the shared fields, in order."""
    return [line.partition(b":")[2].strip(b" \t") for line, field in zip(lines, outline.fields, strict=True) if field.shared]


def _remember(memo: dict[tuple[Field, ...], _Drawn], outline: _Drawn) -> None:
    if len(outline.fields) <= _MEMO_FIELDS and all(field.lasting for field in outline.fields):
        if len(memo) >= _MEMO_OUTLINES:
            for known in memo.values():
                known.form = None  # forms are large, and the last head of a connection may keep its outline for long
            memo.clear()
            re.purge()  # else Python's own cache of patterns keeps them too
        memo[outline.fields] = outline


def bad(reason: str, text: str) -> Fault:
    """The refusal of a head that breaks a rule."""
    return Fault("bad_request", f"{reason}: {text}")


def _draw_request(fields: tuple[Field, ...], minor: int) -> RequestOutline:
    """Take from the few fields that frame, route or guard what they say."""
    outline = RequestOutline(fields, minor)
    hosts = 0
    for field, at in _places(fields):
        role = field.role
        if role == Role.HOST:
            hosts += 1 if field.meaning else 2
            outline.host = field.value
        elif role == Role.UPGRADE:
            outline.upgrades += 1
            outline.upgrade = field.value.lower()
        elif role == Role.TRACEPARENT:
            outline.trace_at, outline.traceparent = at, field.value
        elif role == Role.WEBSOCKET_KEY:
            outline.key_at, outline.websocket_key = at, field.value
        elif not _read_framing(outline, field, at, minor):
            _read_rare(outline, role, field.value, minor)
    if hosts != 1:
        raise bad("bad_host", "exactly one valid Host is required")
    return outline


def _draw_response(fields: tuple[Field, ...], minor: int) -> ResponseOutline:
    outline = ResponseOutline(fields, minor)
    for field, at in _places(fields):
        role = field.role
        if _read_framing(outline, field, at, minor):
            continue
        if role == Role.UPGRADE:
            outline.upgrade = field.value.lower() if outline.upgrade is None else b","
        elif role == Role.KEEP_ALIVE:
            outline.layout.idle_at, outline.idle_s = at, field.meaning
        elif role == Role.WEBSOCKET_ACCEPT:
            outline.accept_at, outline.websocket_accept = at, field.value
    outline.layout.length_at = outline.length_at
    return outline


def _places(fields: tuple[Field, ...]) -> Iterator[tuple[Field, int]]:
    """The fields that play a role, and the place of its value among the blanks where it is shared, else -1."""
    place = -1
    for field in fields:
        place += field.shared
        if field.role:
            yield field, place if field.shared else -1


def _read_framing(outline: Outline, field: Field, at: int, minor: int) -> bool:
    """Whether it was one of the fields that both ways frame the message or end at this hop. Raises Fault."""
    if field.role == Role.CONNECTION:
        _read_connection(outline, field.meaning, minor)
    elif field.role == Role.LENGTH:
        _frame_once(outline, Framing.LENGTH)
        if at >= 0:
            outline.length_at = at
        elif field.meaning is None:
            raise bad_length()
        else:
            outline.length = field.meaning
    elif field.role == Role.CODING:
        _frame_once(outline, Framing.CHUNKED)
        if not field.meaning or minor == 0:
            raise bad("bad_te", "Transfer-Encoding must be exactly one `chunked`, on HTTP/1.1 only")
    else:
        return False
    return True


def _frame_once(outline: Outline, framing: int) -> None:
    if outline.framing != Framing.NONE:
        raise bad("bad_framing", "at most one of Content-Length and Transfer-Encoding, and once")
    outline.framing = framing


def bad_length() -> Fault:
    """Content-Length is not what it must be."""
    return bad("bad_length", "Content-Length must be one decimal number up to 2^63-1")


def _read_connection(outline: Outline, options: frozenset[bytes], minor: int) -> None:
    """Connection lists the fields that end here, and whether the connection goes on (RFC 9110 7.6.1, RFC 9112 9.3)."""
    outline.hop |= options
    if b"close" in outline.hop:
        outline.keep_alive = False
    elif minor == 0 and b"keep-alive" in options:
        outline.keep_alive = True


def _read_rare(outline: RequestOutline, role: int, value: bytes, minor: int) -> None:
    """The fields that guard or are only noted; a repeated Origin or Sec-Fetch-Site counts as foreign."""
    if role == Role.ORIGIN:
        outline.origin = value if outline.origin is None else b"null"
    elif role == Role.FETCH_SITE:
        outline.fetch_site = value if outline.fetch_site is None else b"cross-site"
    elif role == Role.VIA:
        outline.via = value if outline.via is None else outline.via + b", " + value
    elif role == Role.EXPECT:
        _read_expect(outline, value, minor)
    elif role == Role.TE:
        outline.te_trailers = outline.te_trailers or any(part.strip(b" \t").lower() == b"trailers" for part in value.split(b","))
    elif role == Role.MAX_FORWARDS:
        if outline.max_forwards is not None:
            raise bad("bad_field", "Max-Forwards must not be repeated")
        outline.max_forwards = value


def _read_expect(outline: RequestOutline, value: bytes, minor: int) -> None:
    if minor == 0:
        return  # RFC 9110 10.1.1: an HTTP/1.0 expectation is ignored
    if value.lower() != b"100-continue":
        raise Fault("expectation_failed", "expectation: only `100-continue` is supported")
    outline.expects_continue = True
