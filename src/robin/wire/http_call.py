"""One request of our own and its whole response, sans-I/O: for small calls to issuers, key sets and APIs (RFC 9112).

Rules a reader must keep: the response is bounded in bytes before it is kept; a body whose end is not certain is a Fault; interim responses
are skipped. Heads and chunks are parsed by `wire.http1` and `wire.framing`, as those of relayed responses are.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from robin.model.faults import Fault
from robin.model.message import Framing, ResponseHead
from robin.model.secret import Secret
from robin.wire.fields import is_token
from robin.wire.framing import ChunkedDecoder, FramingError
from robin.wire.http1 import find_bad_byte, parse_response

HEAD_BYTES: Final = 65536
_FIELDS_MAX: Final = 200
_INTERIM_MAX: Final = 16
_TARGET: Final = re.compile(rb"/[\x21-\x7e]*")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_OURS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "expect", "upgrade", "te"})

Fields = Sequence[tuple[str, str | Secret]]
"""Field names and values; a value that must not be seen is a Secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """A whole final response. Names of `fields` are canonical (lower case, `_` as `-`). Its representation shows nothing of the peer."""

    status: int
    fields: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)

    def values(self, name: str) -> list[str]:
        """The values of every field of that canonical name, in order."""
        return [value for known, value in self.fields if known == name]


def render_call(method: str, authority: bytes, target: str, fields: Fields, body: bytes | Secret) -> bytes:
    """The request, with Host, its framing and `Accept-Encoding: identity`. Raises ValueError for what cannot be one request."""
    if not is_token(method.encode("ascii")) or not _TARGET.fullmatch(target.encode("ascii")):
        raise ValueError("the method or the target is not valid")
    payload = body.reveal() if isinstance(body, Secret) else body
    lines = [b"%b %b HTTP/1.1" % (method.encode("ascii"), target.encode("ascii")), b"Host: " + authority, b"Accept-Encoding: identity"]
    for name, value in fields:
        octets = value.reveal() if isinstance(value, Secret) else value.encode("latin-1")
        if name.lower() in _OURS or not is_token(name.encode("ascii")) or not _VALUE.fullmatch(octets):
            raise ValueError(f"the field {name!r} is not valid here")
        lines.append(name.encode("ascii") + b": " + octets)
    if payload or method in {"POST", "PUT", "PATCH"}:
        lines.append(b"Content-Length: %d" % len(payload))
    return b"\r\n".join(lines) + b"\r\n\r\n" + payload


class CallReader:
    """Reads the response to one request of `method`. `response` is set when it is whole; `began`: a byte of it arrived.

    `keep_alive`: the connection can be used again, if nothing follows the response. `idle_s`: how long the peer keeps it, None if it does
    not announce that. `eager`: the rest of the buffer can be read without waiting for more.
    """

    __slots__ = (
        "_body",
        "_decoder",
        "_head",
        "_interim",
        "_left",
        "_limit_bytes",
        "_method",
        "_scanned",
        "began",
        "eager",
        "response",
    )

    def __init__(self, method: str, *, limit_bytes: int) -> None:
        """`limit_bytes`: of the body; heads have a limit of their own."""
        self._method = method
        self._limit_bytes = limit_bytes
        self._head: ResponseHead | None = None
        self._decoder = ChunkedDecoder()
        self._body = bytearray()
        self._left = 0  # of a body with a length
        self._scanned = self._interim = 0
        self.began = False
        self.eager = False
        self.response: HttpResponse | None = None

    @property
    def keep_alive(self) -> bool:
        """As far as the head decides."""
        return self._head is not None and self._head.keep_alive

    @property
    def idle_s(self) -> int | None:
        """The announced `Keep-Alive: timeout=N`."""
        return None if self._head is None else self._head.idle_s

    def read(self, buffer: bytes | bytearray) -> int:
        """Read what `buffer` holds. Returns how many bytes were used; the rest is to be shown again with more. Raises Fault."""
        self.began = self.began or len(buffer) > 0
        used = 0
        while self._head is None and (size := self._read_head(buffer, used)):
            used += size
        if self._head is not None and self.response is None:
            used += self._read_body(bytes(buffer[used:]))
        return used

    def end(self, *, clean: bool) -> None:
        """The connection ended; `clean`: by a FIN, under TLS by close_notify. Raises Fault unless that is the end of the response."""
        if self.response is None:
            if not self.began:
                raise Fault("upstream_closed", "upstream_closed: the upstream closed before it answered")
            if self._head is None or self._head.framing != Framing.CLOSE or not clean:
                raise Fault("upstream_closed", "cut: the connection ended before the response did")
            self._conclude()

    def _read_head(self, buffer: bytes | bytearray, at: int) -> int:
        """The head at `at`: how many bytes it took, 0 while it is not whole."""
        end = buffer.find(b"\r\n\r\n", at + self._scanned)
        size = end + 4 - at if end >= 0 else len(buffer) - at
        if size > HEAD_BYTES:
            raise Fault("upstream_protocol", "bad_response: the response head is too large")
        if end < 0:
            if find_bad_byte(buffer, at + self._scanned):
                raise Fault("upstream_protocol", "bad_response: the response head holds a bare CR, LF or control")
            self._scanned = max(0, size - 3)
            return 0
        head = parse_response(bytes(buffer[at : end + 4]), method=self._method, fields_max=_FIELDS_MAX)
        self._scanned = 0
        if head.status == 101:
            raise Fault("upstream_protocol", "bad_response: a switch of protocols that was not asked for")
        if head.status < 200:
            self._interim += 1
            if self._interim > _INTERIM_MAX:
                raise Fault("upstream_protocol", "bad_response: too many interim responses")
            return size
        self._head = head
        if head.framing == Framing.LENGTH:
            self._left = head.length
            self._check_size(head.length)
        return size

    def _read_body(self, rest: bytes) -> int:
        """The body, or a part of it, at the start of `rest`: how many bytes of it were used."""
        assert self._head is not None
        framing, used, done = self._head.framing, len(rest), False
        if framing == Framing.CHUNKED:
            used, done = self._decode(rest)
        elif framing == Framing.CLOSE:
            self._keep(rest)
        else:
            used = min(self._left, len(rest))
            self._keep(rest[:used])
            self._left -= used
            done = not self._left
        if done:
            self._conclude()
        return used

    def _decode(self, rest: bytes) -> tuple[int, bool]:
        try:
            pieces, used = self._decoder.decode(rest)
        except FramingError as error:
            raise Fault("upstream_protocol", f"bad_response: {error}") from None
        self._keep(b"".join(pieces))
        self.eager = self._decoder.eager
        return used, self._decoder.done

    def _keep(self, piece: bytes) -> None:
        self._check_size(len(self._body) + len(piece))
        self._body += piece

    def _check_size(self, size: int) -> None:
        if size > self._limit_bytes:
            raise Fault("upstream_protocol", f"response_too_large: the response has more than {self._limit_bytes} bytes")

    def _conclude(self) -> None:
        assert self._head is not None
        named = zip(self._head.names, self._head.field_values, strict=True)
        fields = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in named)
        self.response = HttpResponse(status=self._head.status, fields=fields, body=bytes(self._body))
