"""Field lines: what one line says, whether it travels, and a memo of lines seen lately (RFC 9110 section 5).

Rules a reader must keep: a line gets here only after llhttp accepted its whole head, so a line is `token:value` without CR, LF or NUL.
Reading a line is pure, so the memo changes only speed: callers repeat most of their lines from request to request. Lines that may carry
a secret, and long ones, are never remembered; when the memo is full it starts anew. A shared Field must not depend on any value.
"""

import re
from collections.abc import Callable
from typing import Final

from robin.model.message import Field

FOLD: Final = bytes(byte + 32 if 65 <= byte <= 90 else (0x2D if byte == 0x5F else byte) for byte in range(256))
"""`name.translate(FOLD)`: lower case, `_` as `-`: the form in which names are compared."""


class Role:
    """What the walk over a head must look at; NONE is carried only. Plain numbers: an enum costs 150 ns a look on CPython 3.11."""

    NONE: Final = 0
    HOST: Final = 1
    CONNECTION: Final = 2
    LENGTH: Final = 3
    CODING: Final = 4
    UPGRADE: Final = 5
    EXPECT: Final = 6
    ORIGIN: Final = 7
    FETCH_SITE: Final = 8
    VIA: Final = 9
    TE: Final = 10
    MAX_FORWARDS: Final = 11
    TRACEPARENT: Final = 12
    WEBSOCKET_KEY: Final = 13
    KEEP_ALIVE: Final = 14
    WEBSOCKET_ACCEPT: Final = 15


_ROLES: Final[dict[bytes, int]] = {
    b"host": Role.HOST,
    b"connection": Role.CONNECTION,
    b"content-length": Role.LENGTH,
    b"transfer-encoding": Role.CODING,
    b"upgrade": Role.UPGRADE,
    b"expect": Role.EXPECT,
    b"origin": Role.ORIGIN,
    b"sec-fetch-site": Role.FETCH_SITE,
    b"via": Role.VIA,
    b"te": Role.TE,
    b"max-forwards": Role.MAX_FORWARDS,
    b"traceparent": Role.TRACEPARENT,
    b"sec-websocket-key": Role.WEBSOCKET_KEY,
    b"keep-alive": Role.KEEP_ALIVE,
    b"sec-websocket-accept": Role.WEBSOCKET_ACCEPT,
}

# Their values differ from message to message: read each time, from the blank that the outline points at.
_EACH_TIME: Final = frozenset({Role.LENGTH, Role.KEEP_ALIVE, Role.TRACEPARENT, Role.WEBSOCKET_KEY, Role.WEBSOCKET_ACCEPT})

# Hop-by-hop, both ways (RFC 9110 7.6.1); Content-Length is made anew.
HOP: Final = frozenset(
    b"connection proxy-connection keep-alive te trailer transfer-encoding upgrade proxy-authenticate http2-settings content-length".split()
)
# Never go up as they came: made anew, injected, or a claim about the way that only a proxy may make.
_NEVER_UP: Final = HOP | frozenset(b"host via expect authorization proxy-authorization forwarded x-real-ip".split())

LENGTH_MAX: Final = 2**63 - 1
_FRAMING_NAMES: Final = frozenset({b"host", b"content-length"})
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z._~\-]{1,255})(?::([0-9]{1,5}))?\Z")
_KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:^|[,;])[ \t]*timeout[ \t]*=[ \t]*([0-9]{1,6})[ \t]*(?:[,;]|$)", re.IGNORECASE)

_MEMO_LINES: Final = 1024
_MEMO_LINES_PER_NAME: Final = 16  # a name with more different lines than that is read anew each time: remembering them would gain nothing
_MEMO_NAME_BYTES: Final = 64
_MEMO_LINE_BYTES: Final = 192
_SECRET_NAME = re.compile(rb"auth|cookie|key|token|secret|password|credential|session|signature")


def read_line(line: bytes) -> Field:
    """One field line without its CRLF; outer SP and HTAB of the value are trimmed."""
    name, _, raw = line.partition(b":")
    value = raw.strip(b" \t")
    field = _name_field(name, value)
    field.line = line + b"\r\n" if len(raw) == len(value) + 1 and raw[0] == 0x20 else b"%b: %b\r\n" % (name, value)
    read = _MEANINGS.get(field.role)
    if read is not None:
        field.meaning = read(name, value)
    return field


def _name_field(name: bytes, value: bytes) -> Field:
    """What the name alone decides."""
    folded = name.translate(FOLD)
    field = Field(name, folded, value, _ROLES.get(folded, Role.NONE))
    field.goes_up = folded not in _NEVER_UP and not folded.startswith(b"x-forwarded-")
    field.goes_down = folded not in HOP
    return field


def _read_host(_: bytes, value: bytes) -> bool:
    """Whether it is a valid host[:port]."""
    return host_is_valid(value)


def _read_connection(_: bytes, value: bytes) -> frozenset[bytes]:
    """The options, folded; it can never name Host or Content-Length away."""
    return frozenset(part.strip(b" \t") for part in value.translate(FOLD).split(b",")) - _FRAMING_NAMES


def read_length(name: bytes, value: bytes) -> int | None:
    """Content-Length as llhttp let it through: digits, perhaps with leading zeros, perhaps beyond 2^63-1, perhaps a `_` twin; None: bad."""
    if b"_" in name or not value.isdigit():
        return None
    digits = value.lstrip(b"0")
    if len(digits) > 19 or (length := int(digits or b"0")) > LENGTH_MAX:
        return None
    return length


def _read_coding(name: bytes, value: bytes) -> bool:
    """Whether Transfer-Encoding is exactly `chunked`."""
    return b"_" not in name and value.lower() == b"chunked"


def read_keep_alive(_: bytes, value: bytes) -> int | None:
    """The announced timeout in seconds."""
    timeout = _KEEP_ALIVE_TIMEOUT.search(value)
    return int(timeout[1]) if timeout else None


def host_is_valid(value: bytes) -> bool:
    """Whether `value` is host[:port] (RFC 9110 7.2), of the characters that names and addresses really have."""
    host = _HOST.match(value)
    return host is not None and (host[1] is None or int(host[1]) <= 65535)


_MEANINGS: Final[dict[int, Callable[[bytes, bytes], object]]] = {
    Role.HOST: _read_host,
    Role.CONNECTION: _read_connection,
    Role.LENGTH: read_length,
    Role.CODING: _read_coding,
    Role.KEEP_ALIVE: read_keep_alive,
}


class _Fields(dict[bytes, Field]):
    """`fields[line]`: what that line is. A shared Field for a line of a plain name, however it is written, else one of its own."""

    def __missing__(self, line: bytes) -> Field:
        name = line.partition(b":")[0]
        field = _shared.get(name)
        if field is None:
            return self._learn(line, name)
        if field.spare and len(line) <= _MEMO_LINE_BYTES:
            field.spare -= 1
            self._keep(line, field)
        return field

    def _learn(self, line: bytes, name: bytes) -> Field:
        """A line of a name not seen lately, or of one that may not be shared."""
        field = _name_field(name, b"")
        secret = _SECRET_NAME.search(field.folded) is not None
        if field.role == Role.NONE or (field.role in _EACH_TIME and b"_" not in name):
            return _share(field, secret=secret) if 0 < len(name) <= _MEMO_NAME_BYTES else read_line(line)
        field = read_line(line)
        if len(line) <= _MEMO_LINE_BYTES and not (secret and field.value):
            field.lasting = True
            self._keep(line, field)
        return field

    def _keep(self, line: bytes, field: Field) -> None:
        if len(self) >= _MEMO_LINES:
            self.clear()
        self[line] = field


def _share(field: Field, *, secret: bool) -> Field:
    """Make it the shared Field of its name."""
    if len(_shared) >= _MEMO_LINES:
        _shared.clear()
        _fields.clear()  # its lines lead to those
    field.shared = field.lasting = True
    field.spare = 0 if secret else _MEMO_LINES_PER_NAME
    _shared[field.name] = field
    return field


_shared: Final[dict[bytes, Field]] = {}
_fields: Final = _Fields()


def fields_of(lines: list[bytes]) -> tuple[Field, ...]:
    """What each of the lines of a head is; the same lines, and other values of shared ones, give the same objects."""
    return tuple(map(_fields.__getitem__, lines))
