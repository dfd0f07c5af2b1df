"""HTTP/1.1 heads from bytes: llhttp judges the syntax, and we refuse what it lets through (RFC 9112; sidecar spec section 5).

Rules a reader must keep: this is the only file that sees httptools. A parser is fed exactly one head, cut at its CRLF CRLF by us, and is
then thrown away, so nothing behind a head can change what the head meant; bodies are delimited by `wire.framing`, because httptools
does not tell where a body ends. No exception text of the parser goes further: it may quote field values.
"""

import re
from typing import Final

import httptools

from robin.model.faults import Fault
from robin.model.message import Framing, RequestHead, ResponseHead

FOLD: Final = bytes(byte + 32 if 65 <= byte <= 90 else (0x2D if byte == 0x5F else byte) for byte in range(256))
"""`name.translate(FOLD)`: lower case, `_` as `-`: the form in which names are compared."""

METHODS: Final = {
    name.encode(): name
    for name in (
        "GET HEAD POST PUT PATCH DELETE OPTIONS ACL BIND CHECKOUT COPY LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY "
        "PROPFIND PROPPATCH PURGE QUERY REBIND REPORT SEARCH SUBSCRIBE UNBIND UNLINK UNLOCK UNSUBSCRIBE"
    ).split()
}
REFUSED_METHODS: Final = frozenset({b"CONNECT", b"TRACE"})
LENGTH_MAX: Final = 2**63 - 1

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([^\x00-\x20\x7f-\xff]+) HTTP/1\.([01])\r\n")
_REQUEST_LINE_ANY = re.compile(rb"(" + _TOKEN + rb") ([^ ]+) ([A-Z]+)/([0-9])\.([0-9])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?\r\n")
_ABSOLUTE = re.compile(rb"(?i:http)://([^/?]*)([^\x00]*)\Z")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z._~\-]{1,255})(?::([0-9]{1,5}))?\Z")
_BAD_BYTES = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CONTROL_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:^|[,;])[ \t]*timeout[ \t]*=[ \t]*([0-9]{1,6})[ \t]*(?:[,;]|$)", re.IGNORECASE)

_FRAMING_NAMES: Final = frozenset({b"host", b"content-length"})
_HOP_NOTHING: Final = frozenset({b"keep-alive"})
_HOP_CLOSE: Final = frozenset({b"close"})

# What the walk over the fields must look at; any other field is only carried.
_CONNECTION, _HOST_FIELD, _LENGTH, _CODING, _UPGRADE = range(5)
_EXPECT, _ORIGIN, _FETCH_SITE, _VIA, _TE, _FORWARDS, _TRACE, _KEY, _KEEP, _ACCEPT = range(5, 15)
_REQUEST_FIELDS: Final = {
    b"connection": _CONNECTION,
    b"host": _HOST_FIELD,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"upgrade": _UPGRADE,
    b"expect": _EXPECT,
    b"origin": _ORIGIN,
    b"sec-fetch-site": _FETCH_SITE,
    b"via": _VIA,
    b"te": _TE,
    b"max-forwards": _FORWARDS,
    b"traceparent": _TRACE,
    b"sec-websocket-key": _KEY,
}
_RESPONSE_FIELDS: Final = {
    b"connection": _CONNECTION,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"upgrade": _UPGRADE,
    b"keep-alive": _KEEP,
    b"sec-websocket-accept": _ACCEPT,
}


class _Collector:
    """What llhttp calls: it gathers field lines and notes that the head ended."""

    __slots__ = ("complete", "fields")

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.complete = True


def find_bad_byte(partial: bytes | bytearray, start: int) -> bool:
    """Whether an unfinished head already holds a byte no head may hold (bare CR or LF, a control): refuse now, do not wait for its end."""
    return _BAD_BYTES.search(partial, start) is not None


def _bad(reason: str, text: str) -> Fault:
    return Fault("bad_request", f"{reason}: {text}")


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
    collector = _Collector()
    try:
        httptools.HttpRequestParser(collector).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # Connection: upgrade; whether it is taken is judged below, by Connection only
    except httptools.HttpParserError:
        raise _refuse_head(head) from None
    if not collector.complete:
        raise _bad("bad_head", "the head does not end where it should")
    if len(collector.fields) > fields_max:
        raise Fault("head_too_large", "too_many_fields: the head has more field lines than ROBIN_MAX_FIELDS")
    request = RequestHead(method, target, 1 if minor == b"1" else 0, [])
    _read_request_fields(request, collector.fields)
    if target[0] != 0x2F or b"#" in target:
        _read_target(request)
    return request


def _refuse_line(head: bytes) -> Fault:
    """Say what is wrong with a request line that is not `token SP target SP HTTP/1.[01]`."""
    line = _REQUEST_LINE_ANY.match(head)
    if line is not None:
        name, _, protocol, major, minor = line.groups()
        if protocol not in {b"HTTP", b"RTSP", b"ICE"}:
            return _bad("bad_line", "the protocol in the request line is not HTTP")
        if protocol != b"HTTP" or (major, minor) not in {(b"1", b"0"), (b"1", b"1")}:
            return Fault("version_not_supported", "version: only HTTP/1.0 and HTTP/1.1 are served")
        if name in REFUSED_METHODS or name not in METHODS:
            return _refuse_method(name)
        return _bad("bad_target", "the request target holds a control or non-ASCII byte")
    return _bad("bad_line", "the request line must be `METHOD SP target SP HTTP/1.1`")


def _refuse_method(name: bytes) -> Fault:
    if name in REFUSED_METHODS:
        return Fault("method_refused", "method: CONNECT and TRACE are not served by a reverse proxy")
    return Fault("method_unknown", "method: the method is not registered (methods are case-sensitive)")


def _refuse_head(head: bytes) -> Fault:
    """Llhttp refused the head: name the framing field if there is one, for the reader of the refusal; the verdict is the same."""
    folded = head.translate(FOLD)
    if b"\r\ntransfer-encoding:" in folded:
        return _bad("bad_te", "Transfer-Encoding must be exactly one `chunked`, without Content-Length")
    if b"\r\ncontent-length:" in folded:
        return _bad("bad_length", "Content-Length must be one decimal number")
    return _bad("bad_field", "the head is not valid HTTP/1.1 (RFC 9112)")


def _read_request_fields(request: RequestHead, lines: list[tuple[bytes, bytes]]) -> None:
    """Fold, trim and keep every field; then take from the few that frame, route or guard what they say."""
    fields = request.fields
    special = []
    for name, raw in lines:
        folded = name.translate(FOLD)
        value = raw.strip(b" \t")
        fields.append((name, folded, value))
        known = _REQUEST_FIELDS.get(folded)
        if known is not None:
            special.append((known, name, value))
    hosts = lengths = codings = upgrades = 0
    for known, name, value in special:
        if known == _HOST_FIELD:
            hosts += 1
            request.host = value
        elif known == _CONNECTION:
            _read_connection(request, value)
        elif known == _LENGTH:
            lengths += 1
            _read_length(request, name, value)
        elif known == _CODING:
            codings += 1
            _read_coding(request, name, value)
        elif known == _UPGRADE:
            upgrades += 1
            request.upgrade = value.lower()
        else:
            _read_rare(request, known, value)
    if hosts != 1 or _port_is_bad(_HOST.match(request.host)):
        raise _bad("bad_host", "exactly one valid Host is required")
    if lengths > 1 or codings > 1 or (lengths and codings):
        raise _bad("bad_framing", "at most one of Content-Length and Transfer-Encoding, and once")
    if request.expects_continue and not request.length and request.framing is not Framing.CHUNKED:
        request.expects_continue = False  # there is no body to hold back
    if upgrades:
        _read_upgrade(request, upgrades)


def _read_rare(request: RequestHead, known: int, value: bytes) -> None:
    """The fields that guard or are only noted; a repeated Origin or Sec-Fetch-Site counts as foreign."""
    if known == _ORIGIN:
        request.origin = value if request.origin is None else b"null"
    elif known == _FETCH_SITE:
        request.fetch_site = value if request.fetch_site is None else b"cross-site"
    elif known == _VIA:
        request.via = value if request.via is None else request.via + b", " + value
    elif known == _EXPECT:
        _read_expect(request, value)
    elif known == _TE:
        request.te_trailers = request.te_trailers or any(part.strip(b" \t").lower() == b"trailers" for part in value.split(b","))
    elif known == _FORWARDS:
        request.max_forwards = value
    elif known == _TRACE:
        request.traceparent = value
    elif known == _KEY:
        request.websocket_key = value


def _port_is_bad(host: re.Match[bytes] | None) -> bool:
    return host is None or (host[1] is not None and int(host[1]) > 65535)


def _read_connection(head: RequestHead | ResponseHead, value: bytes) -> None:
    """Connection lists the fields that end here (RFC 9110 7.6.1); it can never name Host or Content-Length away."""
    folded = value.translate(FOLD)
    if folded == b"keep-alive":
        options = _HOP_NOTHING
    elif folded == b"close":
        options = _HOP_CLOSE
    else:
        options = frozenset(part.strip(b" \t") for part in folded.split(b","))
    head.hop = head.hop | options if head.hop else options
    if b"close" in head.hop:
        head.keep_alive = False
    elif b"keep-alive" in options and head.minor == 0:
        head.keep_alive = True
    if not _FRAMING_NAMES.isdisjoint(head.hop):
        head.hop -= _FRAMING_NAMES


def _read_length(head: RequestHead | ResponseHead, name: bytes, value: bytes) -> None:
    """Content-Length as llhttp let it through: digits, perhaps with leading zeros, perhaps beyond 2^63-1, perhaps a `_` twin."""
    if b"_" in name or not value.isdigit() or len(value) > 4096:
        raise _bad("bad_length", "Content-Length must be one decimal number")
    digits = value.lstrip(b"0")
    if len(digits) > 19 or (length := int(digits or b"0")) > LENGTH_MAX:
        raise _bad("bad_length", "Content-Length exceeds 2^63-1")
    head.framing, head.length = Framing.LENGTH, length


def _read_coding(head: RequestHead | ResponseHead, name: bytes, value: bytes) -> None:
    if b"_" in name or value.lower() != b"chunked" or head.minor == 0:
        raise _bad("bad_te", "Transfer-Encoding must be exactly one `chunked`, on HTTP/1.1 only")
    head.framing = Framing.CHUNKED


def _read_expect(request: RequestHead, value: bytes) -> None:
    if request.minor == 0:
        return  # RFC 9110 10.1.1: an HTTP/1.0 expectation is ignored
    if value.lower() != b"100-continue":
        raise Fault("expectation_failed", "expectation: only `100-continue` is supported")
    request.expects_continue = True


def _read_upgrade(request: RequestHead, count: int) -> None:
    """Keep `upgrade` only where a switch is possible at all; with a body it is refused, else dropped and served plainly (G1)."""
    asked = b"upgrade" in request.hop
    if asked and (request.framing is Framing.CHUNKED or request.length):
        raise _bad("bad_upgrade", "an upgrade request cannot have a body")
    if not asked or count > 1 or request.method != "GET" or request.minor == 0 or b"," in (request.upgrade or b""):
        request.upgrade = None


def _read_target(request: RequestHead) -> None:
    """Absolute-form and asterisk-form (RFC 9112 3.2): the authority of an `http:` target replaces Host."""
    target = request.target
    if b"#" in target:
        raise _bad("bad_target", "a fragment has no place in a request target")
    if target == b"*" and request.method == "OPTIONS":
        return
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        raise _bad("bad_target", "the target must start with `/` or `http://`")
    authority, rest = absolute.groups()
    if _port_is_bad(_HOST.match(authority)):
        raise _bad("bad_host", "the authority of the target is not valid")
    request.host = authority
    if not rest and request.method == "OPTIONS":
        request.target = b"*"
    else:
        request.target = rest if rest[:1] == b"/" else b"/" + rest


def parse_response(head: bytes, *, method: str, fields_max: int) -> ResponseHead:
    """One response head to a request of `method`, from `HTTP/` to its CRLF CRLF. Raises Fault `upstream_protocol`."""
    line = _STATUS_LINE.match(head)
    if line is None:
        raise _broken("the status line is not valid")
    minor, digits, reason = line.groups()
    collector = _Collector()
    try:
        httptools.HttpResponseParser(collector).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        raise _broken("the head is not valid HTTP/1.1") from None
    if not collector.complete or len(collector.fields) > fields_max:
        raise _broken("the head is unfinished or has too many fields")
    response = ResponseHead(int(digits), reason or b"", 1 if minor == b"1" else 0, [])
    _read_response_fields(response, collector.fields)
    if method == "HEAD" or response.status < 200 or response.status in {204, 304}:
        response.framing = Framing.NONE
    elif response.framing is Framing.NONE:
        response.framing, response.keep_alive = Framing.CLOSE, False
    return response


def _broken(text: str) -> Fault:
    return Fault("upstream_protocol", f"bad_response: {text}")


def _read_response_fields(response: ResponseHead, lines: list[tuple[bytes, bytes]]) -> None:
    fields = response.fields
    special = []
    for name, raw in lines:
        folded = name.translate(FOLD)
        value = raw.strip(b" \t")
        fields.append((name, folded, value))
        known = _RESPONSE_FIELDS.get(folded)
        if known is not None:
            special.append((known, name, value))
    lengths = codings = 0
    try:
        for known, name, value in special:
            if known == _LENGTH:
                lengths += 1
                _read_length(response, name, value)
            elif known == _CONNECTION:
                _read_connection(response, value)
            elif known == _CODING:
                codings += 1
                _read_coding(response, name, value)
            elif known == _UPGRADE:
                response.upgrade = value.lower() if response.upgrade is None else b","
            elif known == _KEEP:
                timeout = _KEEP_ALIVE_TIMEOUT.search(value)
                response.idle_s = int(timeout[1]) if timeout else None
            else:
                response.websocket_accept = value
    except Fault as fault:
        raise _broken(fault.detail) from None
    if lengths > 1 or codings > 1 or (lengths and codings):
        raise _broken("at most one of Content-Length and Transfer-Encoding, and once")


def is_token(text: bytes) -> bool:
    """Whether `text` is an RFC 9110 token."""
    return re.fullmatch(_TOKEN, text) is not None


def trailer_is_valid(name: bytes, value: bytes) -> bool:
    """Whether a trailer line is a token and a value without controls."""
    return is_token(name) and _CONTROL_IN_VALUE.search(value) is None
