"""HTTP/1.1 heads from bytes: llhttp judges the syntax, and we refuse what it lets through (RFC 9112).

Rules a reader must keep: this is the only file that sees httptools. A parser is fed exactly one head, cut at its CRLF CRLF by us, and is
then thrown away, so nothing behind a head can change what the head meant; bodies are delimited by `wire.framing`, because httptools
does not tell where a body ends. No exception text of the parser goes further: it may quote field values.
"""

import re
from typing import Final

import httptools

from robin.model.faults import Fault
from robin.model.message import Framing, Layout, RequestHead, RequestOutline, ResponseHead, ResponseOutline
from robin.wire.fields import FOLD, host_is_valid, read_keep_alive, read_length
from robin.wire.outline import bad, bad_length, blanks_of, outline_request, outline_response

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

METHODS: Final = {
    name.encode(): name
    for name in (
        "GET HEAD POST PUT PATCH DELETE OPTIONS ACL BIND CHECKOUT COPY LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY "
        "PROPFIND PROPPATCH PURGE QUERY REBIND REPORT SEARCH SUBSCRIBE UNBIND UNLINK UNLOCK UNSUBSCRIBE"
    ).split()
}
REFUSED_METHODS: Final = frozenset({b"CONNECT", b"TRACE"})

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([^\x00-\x20\x7f-\xff]+) HTTP/1\.([01])\r\n")
_REQUEST_LINE_ANY = re.compile(rb"(" + TOKEN + rb") ([^ ]+) ([A-Z]+)/([0-9])\.([0-9])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?\r\n")
_ABSOLUTE = re.compile(rb"(?i:http)://([^/?]*)([^\x00]*)\Z")
_BAD_BYTES = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CONTROL_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class _Judge:
    """What llhttp calls when it accepts a head. The fields are read by `wire.fields` then, from lines that cannot be anything else."""

    __slots__ = ("accepted",)

    def __init__(self) -> None:
        self.accepted = False

    def on_headers_complete(self) -> None:
        self.accepted = True


def find_bad_byte(partial: bytes | bytearray, start: int) -> bool:
    """Whether an unfinished head already holds a byte no head may hold (bare CR or LF, a control): refuse now, do not wait for its end."""
    return _BAD_BYTES.search(partial, start) is not None


def parse_request(head: bytes, *, target_bytes: int, fields_max: int) -> RequestHead:
    """One request head, from its method to its CRLF CRLF.

    Raises Fault: bad_request (its detail starts with a reason word), target_too_long, head_too_large, method_refused, method_unknown,
    version_not_supported, expectation_failed.
    """
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise _refuse_line(head)
    name, target, minor = line.groups()
    method = METHODS.get(name)
    if method is None:
        raise _refuse_method(name)
    if len(target) > target_bytes:
        raise Fault("target_too_long", "target_too_long: the request target exceeds ROBIN_MAX_TARGET_SIZE")
    judge = _Judge()
    try:
        httptools.HttpRequestParser(judge).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # Connection: upgrade; whether it is taken is judged below, by Connection only
    except httptools.HttpParserError:
        raise _refuse_head(head) from None
    if not judge.accepted:
        raise bad("bad_head", "the head does not end where it should")
    lines = head[line.end() : -4].split(b"\r\n") if len(head) - line.end() > 4 else []
    if len(lines) > fields_max:
        raise Fault("head_too_large", "too_many_fields: the head has more field lines than ROBIN_MAX_FIELDS")
    outline = outline_request(lines, 1 if minor == b"1" else 0)
    request = read_request(method, target, outline, blanks_of(lines, outline))
    if target[0] != 0x2F or b"#" in target:
        _read_target(request)
    return request


def read_request(method: str, target: bytes, outline: RequestOutline, blanks: list[bytes]) -> RequestHead:
    """A request head of parts that were judged, in origin-form. Raises Fault `bad_request`."""
    request = RequestHead(method, target, outline, blanks)
    if outline.framing == Framing.LENGTH:
        request.length = _read_length(blanks[outline.length_at]) if outline.length_at >= 0 else outline.length
    if outline.upgrades:
        _read_upgrade(request, outline)
    if outline.expects_continue and not request.length and request.framing != Framing.CHUNKED:
        request.expects_continue = False  # there is no body to hold back
    return request


def _read_length(digits: bytes) -> int:
    """What Content-Length says. Raises Fault `bad_request`."""
    length = int(digits) if len(digits) < 19 and digits.isdigit() else read_length(b"", digits)
    if length is None:
        raise bad_length()
    return length


def _refuse_line(head: bytes) -> Fault:
    """Say what is wrong with a request line that is not `token SP target SP HTTP/1.[01]`."""
    line = _REQUEST_LINE_ANY.match(head)
    if line is not None:
        name, _, protocol, major, minor = line.groups()
        if protocol not in {b"HTTP", b"RTSP", b"ICE"} or (protocol == b"HTTP" and major == b"0"):
            return bad("bad_line", "the protocol in the request line is not HTTP")
        if protocol != b"HTTP" or (major, minor) not in {(b"1", b"0"), (b"1", b"1")}:
            return Fault("version_not_supported", "version: only HTTP/1.0 and HTTP/1.1 are served")
        if name in REFUSED_METHODS or name not in METHODS:
            return _refuse_method(name)
        return bad("bad_target", "the request target holds a control or non-ASCII byte")
    return bad("bad_line", "the request line must be `METHOD SP target SP HTTP/1.1`")


def _refuse_method(name: bytes) -> Fault:
    if name in REFUSED_METHODS:
        return Fault("method_refused", "method: CONNECT and TRACE are not served by a reverse proxy")
    return Fault("method_unknown", "method: the method is not registered (methods are case-sensitive)")


def _refuse_head(head: bytes) -> Fault:
    """Llhttp refused the head: name the framing field if there is one, for the reader of the refusal; the verdict is the same."""
    folded = head.translate(FOLD)
    if b"\r\ntransfer-encoding:" in folded:
        return bad("bad_te", "Transfer-Encoding must be exactly one `chunked`, without Content-Length")
    if b"\r\ncontent-length:" in folded:
        return bad("bad_length", "Content-Length must be one decimal number")
    return bad("bad_field", "the head is not valid HTTP/1.1 (RFC 9112)")


def _read_upgrade(request: RequestHead, outline: RequestOutline) -> None:
    """Set `upgrade` only where a switch is possible at all; with a body it is refused, else dropped and served plainly (G1).

    An offer of h2c is never taken, so a body does no harm: curl --http2 and Java's HttpClient offer it with every first POST.
    """
    protocol = outline.upgrade
    if b"upgrade" not in outline.hop or protocol == b"h2c":
        return
    if request.framing == Framing.CHUNKED or request.length:
        raise bad("bad_upgrade", "an upgrade request cannot have a body")
    if outline.upgrades == 1 and request.method == "GET" and request.minor == 1 and b"," not in protocol:
        request.upgrade = protocol


def _read_target(request: RequestHead) -> None:
    """Absolute-form and asterisk-form (RFC 9112 3.2): the authority of an `http:` target replaces Host."""
    target = request.target
    if b"#" in target:
        raise bad("bad_target", "a fragment has no place in a request target")
    if target == b"*" and request.method == "OPTIONS":
        return
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        raise bad("bad_target", "the target must start with `/` or `http://`")
    authority, rest = absolute.groups()
    if not host_is_valid(authority):
        raise bad("bad_host", "the authority of the target is not valid")
    request.host = authority
    if not rest and request.method == "OPTIONS":
        request.target = b"*"
    else:
        request.target = rest if rest[:1] == b"/" else b"/" + rest
    request.path = request.target.partition(b"?")[0]


def parse_response(head: bytes, *, method: str, fields_max: int) -> ResponseHead:
    """One response head to a request of `method`, from `HTTP/` to its CRLF CRLF. Raises Fault `upstream_protocol`."""
    line = _STATUS_LINE.match(head)
    if line is None:
        raise _broken("the status line is not valid")
    minor, digits, reason = line.groups()
    judge = _Judge()
    try:
        httptools.HttpResponseParser(judge).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        if not (judge.accepted and digits == b"101"):  # a bare 101 pauses llhttp after its head: judged as a switch, not as syntax
            raise _broken("the head is not valid HTTP/1.1") from None
    lines = head[line.end() : -4].split(b"\r\n") if len(head) - line.end() > 4 else []
    if not judge.accepted or len(lines) > fields_max:
        raise _broken("the head is unfinished or has too many fields")
    try:
        outline = outline_response(lines, 1 if minor == b"1" else 0)
    except Fault as fault:
        raise _broken(fault.detail) from None
    return read_response(method, int(digits), reason or b"", outline, blanks_of(lines, outline), outline.layout)


def read_response(method: str, status: int, reason: bytes, outline: ResponseOutline, blanks: list[bytes], layout: Layout) -> ResponseHead:
    """A response head, to a request of `method`, of parts that were judged. Raises Fault `upstream_protocol`."""
    response = ResponseHead(status, reason, outline, blanks, layout)
    if layout.length_at >= 0:
        try:
            response.length = _read_length(blanks[layout.length_at])
        except Fault as fault:
            raise _broken(fault.detail) from None
    if layout.idle_at >= 0:  # it may count down: `max=99`, `max=98`
        response.idle_s = read_keep_alive(b"", blanks[layout.idle_at])
    if method == "HEAD" or status < 200 or status in {204, 304}:
        response.framing = Framing.NONE
    elif response.framing == Framing.NONE:
        response.framing, response.keep_alive = Framing.CLOSE, False
    return response


def _broken(text: str) -> Fault:
    return Fault("upstream_protocol", f"bad_response: {text}")


def is_token(text: bytes) -> bool:
    """Whether `text` is an RFC 9110 token."""
    return re.fullmatch(TOKEN, text) is not None


def trailer_is_valid(name: bytes, value: bytes) -> bool:
    """Whether a trailer line is a token and a value without controls."""
    return is_token(name) and _CONTROL_IN_VALUE.search(value) is None
