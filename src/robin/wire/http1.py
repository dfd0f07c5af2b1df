"""HTTP/1.1 heads from bytes: llhttp judges the syntax of every head, and we refuse what it accepts and should not (RFC 9112).

Rules a reader must keep: this is the only file that sees httptools. A parser is fed exactly one head, cut at its CRLF CRLF by us, and is
then thrown away, so nothing behind a head can change what the head meant; bodies are delimited by `wire.framing`, because httptools
does not report where a body ends. No exception text of the parser is passed on: it may quote field values.
"""

import re
from dataclasses import dataclass
from typing import Final

import httptools

from robin.model.faults import Fault
from robin.model.message import Framing, canonical_name
from robin.wire.fields import TOKEN, host_is_valid, parse_keep_alive, parse_length
from robin.wire.shape import HeadShape, ParsedRequest, ParsedResponse, ShapeStore

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

METHODS: Final = {
    name.encode(): name
    for name in (
        "GET HEAD POST PUT PATCH DELETE OPTIONS ACL BIND CHECKOUT COPY LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY "
        "PROPFIND PROPPATCH PURGE QUERY REBIND REPORT SEARCH SUBSCRIBE UNBIND UNLINK UNLOCK UNSUBSCRIBE"
    ).split()
}
REFUSED_METHODS: Final = frozenset({b"CONNECT", b"TRACE"})

_REQUESTS: Final = ShapeStore(rb"([A-Z-]+) (/[!\x22$-~]*) HTTP/1\.([01])\r\n")
_RESPONSES: Final = ShapeStore(rb"HTTP/1\.([01]) ([2-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")

_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([^\x00-\x20\x7f-\xff]+) HTTP/1\.([01])\r\n")
_REQUEST_LINE_ANY = re.compile(rb"(" + TOKEN + rb") ([^ ]+) ([A-Z]+)/([0-9])\.([0-9])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?\r\n")
_ABSOLUTE = re.compile(rb"([A-Za-z]+)://([^/?]*)([^\x00]*)\Z")
_BAD_BYTES = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestForms:
    """What a listener takes beyond origin-form (RFC 9112 3.2); the defaults are those of a reverse proxy.

    `connect`: CONNECT in authority-form. `schemes`: of targets in absolute-form.
    """

    connect: bool = False
    schemes: frozenset[bytes] = frozenset({b"http"})


REVERSE_PROXY: Final = RequestForms()


class _Judge:
    """What llhttp calls when it accepts a head. Only then are the lines split, since they cannot be anything but fields any more."""

    __slots__ = ("accepted",)

    def __init__(self) -> None:
        self.accepted = False

    def on_headers_complete(self) -> None:
        self.accepted = True


def find_bad_byte(partial: bytes | bytearray, start: int) -> bool:
    """Whether an unfinished head already holds a byte no head may hold (bare CR or LF, a control): refuse now, do not wait for its end."""
    return _BAD_BYTES.search(partial, start) is not None


def parse_request(raw: bytes, *, target_bytes: int, fields_max: int, forms: RequestForms = REVERSE_PROXY) -> ParsedRequest:
    """One request head, from its method to its CRLF CRLF.

    Raises Fault: bad_request (its detail starts with a reason word), target_too_long, head_too_large, method_refused, method_unknown,
    version_not_supported, expectation_failed.
    """
    line = _REQUEST_LINE.match(raw)
    if line is None:
        raise _refuse_line(raw, forms)
    name, target, minor = line.groups()
    method = METHODS.get(name) or _parse_rare_method(name, forms)
    if len(target) > target_bytes:
        raise Fault("target_too_long", "target_too_long: the request target exceeds {max_target_size}")
    judge = _Judge()
    try:
        httptools.HttpRequestParser(judge).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # CONNECT, or Connection: upgrade; whether it is taken is judged below
    except httptools.HttpParserError:
        raise _refuse_head(raw) from None
    if not judge.accepted:
        raise bad("bad_head", "the head does not end where it should")
    if raw.count(b"\r\n") - 2 > fields_max:
        raise Fault("head_too_large", "too_many_fields: the head has more field lines than {max_fields}")
    shape, values = _REQUESTS.parse_fields(raw[line.end() : -4])
    head = build_request(method, target, 1 if minor == b"1" else 0, shape, values)
    if target[0] != 0x2F or b"#" in target or method == "CONNECT":
        _parse_target(head, forms)
    return head


def build_request(
    method: str, target: bytes, minor: int, shape: HeadShape, values: tuple[bytes, ...], *, known_host: bytes | None = None
) -> ParsedRequest:
    """The facts of a head whose syntax was judged, in origin-form. `known_host` is a Host known to be valid. Raises Fault."""
    if shape.defect is not None:
        raise bad(*shape.defect)
    if shape.host_at < 0:
        if method != "CONNECT" or minor or b"host" in shape.names:  # Python's http.client before 3.12: CONNECT in HTTP/1.0, without Host
            raise bad("bad_host", "exactly one valid Host is required")
    elif values[shape.host_at] != known_host and not host_is_valid(values[shape.host_at]):
        raise bad("bad_host", "exactly one valid Host is required")
    head = ParsedRequest(method, target, minor, shape, values)
    if head.framing == Framing.LENGTH:
        head.length = _parse_length(values[shape.framing_at])
    elif head.framing == Framing.CHUNKED:
        _check_chunked(values[shape.framing_at], minor)
    if shape.asks_for_more:
        _parse_rare_fields(head)
    return head


def bad(reason: str, text: str) -> Fault:
    """The refusal of a head that breaks a rule."""
    return Fault("bad_request", f"{reason}: {text}")


def _parse_length(digits: bytes) -> int:
    """What Content-Length announces. Raises Fault `bad_request`."""
    length = int(digits) if len(digits) < 19 and digits.isdigit() else parse_length(digits)
    if length is None:
        raise bad("bad_length", "Content-Length must be one decimal number up to 2^63-1")
    return length


def _check_chunked(value: bytes, minor: int) -> None:
    if value.lower() != b"chunked" or minor == 0:
        raise bad("bad_te", "Transfer-Encoding must be exactly one `chunked`, on HTTP/1.1 only")


def _parse_rare_method(name: bytes, forms: RequestForms) -> str:
    if name == b"CONNECT" and forms.connect:
        return "CONNECT"
    raise _refuse_method(name)


def _refuse_line(head: bytes, forms: RequestForms) -> Fault:
    """Describe what is wrong with a request line that is not `token SP target SP HTTP/1.[01]`."""
    line = _REQUEST_LINE_ANY.match(head)
    if line is not None:
        name, _, protocol, major, minor = line.groups()
        if protocol not in {b"HTTP", b"RTSP", b"ICE"} or (protocol == b"HTTP" and major == b"0"):
            return bad("bad_line", "the protocol in the request line is not HTTP")
        if protocol != b"HTTP" or (major, minor) not in {(b"1", b"0"), (b"1", b"1")}:
            return Fault("version_not_supported", "version: only HTTP/1.0 and HTTP/1.1 are served")
        if name not in METHODS and not (name == b"CONNECT" and forms.connect):
            return _refuse_method(name)
        return bad("bad_target", "the request target holds a control or non-ASCII byte")
    return bad("bad_line", "the request line must be `METHOD SP target SP HTTP/1.1`")


def _refuse_method(name: bytes) -> Fault:
    if name in REFUSED_METHODS:
        return Fault("method_refused", "method: CONNECT and TRACE are not served by a reverse proxy")
    return Fault("method_unknown", "method: the method is not registered (methods are case-sensitive)")


def _refuse_head(head: bytes) -> Fault:
    """Llhttp refused the head: name the framing field if there is one, for the reader of the refusal; the verdict is the same."""
    text = canonical_name(head)
    if b"\r\ntransfer-encoding:" in text:
        return bad("bad_te", "Transfer-Encoding must be exactly one `chunked`, without Content-Length")
    if b"\r\ncontent-length:" in text:
        return bad("bad_length", "Content-Length must be one decimal number")
    return bad("bad_field", "the head is not valid HTTP/1.1 (RFC 9112)")


def _parse_rare_fields(head: ParsedRequest) -> None:
    """The fields that guard, ask for more, or are only noted; a repeated Origin or Sec-Fetch-Site counts as foreign. Raises Fault."""
    origins, sites, via = head.values(b"origin"), head.values(b"sec-fetch-site"), head.values(b"via")
    if origins:
        head.origin = origins[0] if len(origins) == 1 else b"null"
    if sites:
        head.fetch_site = sites[0] if len(sites) == 1 else b"cross-site"
    if via:
        head.via = b", ".join(via)
    head.accepts_trailers = any(part.strip(b" \t").lower() == b"trailers" for value in head.values(b"te") for part in value.split(b","))
    hops = head.values(b"max-forwards")
    if len(hops) > 1:
        raise bad("bad_field", "Max-Forwards must not be repeated")
    head.max_forwards = hops[0] if hops else None
    has_body = head.length > 0 or head.framing == Framing.CHUNKED
    if head.minor == 1:  # RFC 9110 10.1.1: an HTTP/1.0 expectation is ignored
        for expectation in head.values(b"expect"):
            if expectation.lower() != b"100-continue":
                raise Fault("expectation_failed", "expectation: only `100-continue` is supported")
            head.expects_continue = has_body
    protocols = head.values(b"upgrade")
    if protocols:
        _parse_upgrade(head, protocols, has_body=has_body)


def _parse_upgrade(head: ParsedRequest, protocols: list[bytes], *, has_body: bool) -> None:
    """Set `upgrade` only where a switch is possible at all; with a body it is refused, else dropped and served plainly.

    An offer of h2c is never taken, so a body does no harm: curl --http2 and Java's HttpClient offer it with every first POST.
    """
    protocol = protocols[-1].lower()
    if b"upgrade" not in head.connection_options or protocol == b"h2c":
        return
    if has_body:
        raise bad("bad_upgrade", "an upgrade request cannot have a body")
    if len(protocols) == 1 and head.minor == 1 and b"," not in protocol:
        head.upgrade = protocol


def _parse_target(head: ParsedRequest, forms: RequestForms) -> None:
    """Absolute-form, authority-form and asterisk-form (RFC 9112 3.2). Raises Fault `bad_request`."""
    target = head.target
    if b"#" in target:
        raise bad("bad_target", "a fragment has no place in a request target")
    if head.method == "CONNECT":
        _parse_authority(head)
        return
    if target == b"*" and head.method == "OPTIONS":
        return
    absolute = _ABSOLUTE.match(target)
    if absolute is None or absolute[1].lower() not in forms.schemes:
        raise bad("bad_target", "the target must start with `/` or `http://`")
    scheme, authority, rest = absolute.groups()
    if not host_is_valid(authority):
        raise bad("bad_host", "the authority of the target is not valid")
    head.target_scheme, head.target_authority = scheme.lower(), authority
    if not rest and head.method == "OPTIONS":
        head.target = b"*"
    else:
        head.target = rest if rest[:1] == b"/" else b"/" + rest
    head.path = head.target.partition(b"?")[0]


def _parse_authority(head: ParsedRequest) -> None:
    """The target of CONNECT is host:port (RFC 9110 9.3.6); it has no path, and a body has no meaning."""
    if not host_is_valid(head.target) or not head.target.rpartition(b":")[2].isdigit():
        raise bad("bad_target", "the target of CONNECT must be host:port")
    if head.framing != Framing.NONE:
        raise bad("bad_framing", "CONNECT cannot have a body")
    head.target_authority, head.path = head.target, b""


def parse_response(raw: bytes, *, method: str, fields_max: int) -> ParsedResponse:
    """One response head to a request of `method`, from `HTTP/` to its CRLF CRLF. Raises Fault `upstream_protocol`."""
    line = _STATUS_LINE.match(raw)
    if line is None:
        raise _broken("the status line is not valid")
    minor, digits, reason = line.groups()
    judge = _Judge()
    try:
        httptools.HttpResponseParser(judge).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        if not (judge.accepted and digits == b"101"):  # a bare 101 pauses llhttp after its head: judged as a switch, not as syntax
            raise _broken("the head is not valid HTTP/1.1") from None
    if not judge.accepted or raw.count(b"\r\n") - 2 > fields_max:
        raise _broken("the head is unfinished or has too many fields")
    shape, values = _RESPONSES.parse_fields(raw[line.end() : -4])
    return build_response(method, int(digits), reason or b"", 1 if minor == b"1" else 0, shape, values)


def build_response(method: str, status: int, reason: bytes, minor: int, shape: HeadShape, values: tuple[bytes, ...]) -> ParsedResponse:
    """The facts of a head whose syntax was judged. Raises Fault `upstream_protocol`."""
    head = ParsedResponse(status, reason, minor, shape, values)
    try:
        if shape.defect is not None:
            raise bad(*shape.defect)
        if head.framing == Framing.LENGTH:
            head.length = _parse_length(values[shape.framing_at])
        elif head.framing == Framing.CHUNKED:
            _check_chunked(values[shape.framing_at], minor)
    except Fault as fault:
        raise _broken(fault.detail) from None
    if shape.keep_alive_at >= 0:
        head.idle_s = parse_keep_alive(values[shape.keep_alive_at])
    if shape.asks_for_more:
        protocols = head.values(b"upgrade")
        if protocols:
            head.upgrade = protocols[0].lower() if len(protocols) == 1 else b","  # two name none that could have been asked for
    if method == "HEAD" or status < 200 or status in {204, 304}:
        head.framing = Framing.NONE
    elif head.framing == Framing.NONE:
        head.framing, head.keep_alive = Framing.CLOSE, False
    return head


def _broken(text: str) -> Fault:
    return Fault("upstream_protocol", f"bad_response: {text}")
