"""The first message of a TLS client, read without answering it: the server name and the protocols asked for (RFC 8446 section 4.1.2).

Nothing is consumed: the same bytes go to the TLS that is chosen by them. What is malformed is refused rather than guessed at, since a TLS
library may read it differently.
"""

from dataclasses import dataclass
from typing import Final

LIMIT_BYTES: Final = 16384  # of records with their headers; browsers with post-quantum keys send 2 KB
_RECORD_HEADER: Final = 5
_HANDSHAKE_RECORD: Final = 22
_ALERT_RECORD: Final = 21
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_ECH: Final = 0xFE0D  # encrypted_client_hello, RFC 9849
_NAME_BYTES: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")

UNRECOGNIZED_NAME: Final = 112  # alert descriptions, RFC 8446 section 6
NO_APPLICATION_PROTOCOL: Final = 120
DECODE_ERROR: Final = 50


class ClientHelloError(Exception):
    """`code` is `not_tls` or `client_hello_invalid`; `reason` is a few words."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHello:
    """`server_name` is in lower case and without a final dot; `protocols` are in the client's order, empty without ALPN."""

    server_name: bytes | None
    protocols: tuple[bytes, ...]
    ech: bool


class ClientHelloReader:
    """Assembles one ClientHello over any number of records and reads. One is used per connection."""

    __slots__ = ("_message", "_pending", "_seen")

    def __init__(self) -> None:
        self._message = bytearray()  # the payloads of whole records
        self._pending = bytearray()  # of a record that is not whole
        self._seen = 0

    def feed(self, octets: bytes | bytearray) -> ClientHello | None:
        """Add what arrived. Returns None while more is needed. Raises ClientHelloError."""
        if self._seen + len(octets) > LIMIT_BYTES:
            octets = octets[: LIMIT_BYTES - self._seen]  # what follows a whole ClientHello is of no interest
        self._seen += len(octets)
        pending = self._pending
        pending += octets
        while pending:
            _check_record(pending, begun=bool(self._message))
            size = int.from_bytes(pending[3:5], "big")
            if len(pending) < _RECORD_HEADER + size:
                break
            self._message += pending[_RECORD_HEADER : _RECORD_HEADER + size]
            del pending[: _RECORD_HEADER + size]
            if (hello := self._whole()) is not None:
                return hello
        if self._seen >= LIMIT_BYTES:
            raise _invalid("it is larger than 16 KiB")
        return None

    def _whole(self) -> ClientHello | None:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            raise _invalid("the first message is no ClientHello")
        size = 4 + int.from_bytes(message[1:4], "big")
        if len(message) < 4 or len(message) < size:
            if len(message) >= 4 and size > LIMIT_BYTES:
                raise _invalid("it is larger than 16 KiB")
            return None
        if len(message) > size:
            raise _invalid("bytes follow it in its record")
        return _parse(bytes(message[4:]))


def fatal_alert(description: int) -> bytes:
    """The record with which a connection is refused before its handshake."""
    return bytes((_ALERT_RECORD, 3, 1, 0, 2, 2, description))


def _check_record(record: bytearray, *, begun: bool) -> None:
    if record[0] != _HANDSHAKE_RECORD or (len(record) > 1 and record[1] != 3):
        if begun:
            raise _invalid("another record begins within it")
        raise ClientHelloError("not_tls", "the first bytes are no TLS handshake")
    if len(record) >= _RECORD_HEADER and not 0 < int.from_bytes(record[3:5], "big") <= 16384:
        raise _invalid("a record of no or too many bytes")


class _Cursor:
    """Takes length-prefixed vectors off the front of some bytes. Raises ClientHelloError where they end too soon."""

    __slots__ = ("_at", "_octets")

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._octets)

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._octets):
            raise _invalid("a length points behind its end")
        taken = self._octets[self._at : end]
        self._at = end
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        """Bytes behind a length of `width` bytes."""
        return self.take(self.number(width))


def _parse(body: bytes) -> ClientHello:
    cursor = _Cursor(body)
    if cursor.number(2) >> 8 != 3:
        raise _invalid("its version is not of TLS")
    cursor.take(32)  # random
    if len(cursor.vector(1)) > 32:
        raise _invalid("its session id is too long")
    suites = cursor.vector(2)
    if not suites or len(suites) % 2:
        raise _invalid("it has no whole list of cipher suites")
    if not cursor.vector(1):
        raise _invalid("it has no compression methods")
    extensions = _extensions(cursor)
    return ClientHello(
        server_name=_server_name(extensions.get(_SERVER_NAME)),
        protocols=_protocols(extensions.get(_ALPN)),
        ech=_ECH in extensions,
    )


def _extensions(cursor: _Cursor) -> dict[int, bytes]:
    """By type. TLS 1.2 allows a ClientHello without any."""
    found: dict[int, bytes] = {}
    if not cursor:
        return found
    inner = _Cursor(cursor.vector(2))
    if cursor:
        raise _invalid("bytes follow its extensions")
    while inner:
        kind = inner.number(2)
        if kind in found:
            raise _invalid("an extension is repeated")
        found[kind] = inner.vector(2)
    return found


def _server_name(extension: bytes | None) -> bytes | None:
    """RFC 6066 section 3: exactly one name, of type host_name."""
    if extension is None:
        return None
    outer = _Cursor(extension)
    names = _Cursor(outer.vector(2))
    kind, name = names.number(1), names.vector(2).lower()
    if outer or names or kind:
        raise _invalid("its server name is not one host name")
    name = name.removesuffix(b".")
    if not 0 < len(name) <= 253 or not _NAME_BYTES.issuperset(name):
        raise _invalid("its server name has bytes that no host name has")
    return name


def _protocols(extension: bytes | None) -> tuple[bytes, ...]:
    """RFC 7301 section 3.1."""
    if extension is None:
        return ()
    outer = _Cursor(extension)
    names = _Cursor(outer.vector(2))
    found: list[bytes] = []
    while names:
        found.append(names.vector(1))
    if outer or not found or b"" in found:
        raise _invalid("its protocol names are malformed")
    return tuple(found)


def _invalid(reason: str) -> ClientHelloError:
    return ClientHelloError("client_hello_invalid", reason)
