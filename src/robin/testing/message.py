"""One HTTP/1.1 request as a test server saw it: its exact bytes beside their meaning; strict where a test must notice.

Rules: the head ends at CRLF CRLF, the body is framed by Content-Length or by `Transfer-Encoding: chunked`, never by both. Anything else
is a MalformedRequest: a proxy under test must never send it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

HEAD_LIMIT_BYTES = 1 << 20
BODY_LIMIT_BYTES = 64 << 20
PIECE_BYTES = 64 << 10

Fields = tuple[tuple[bytes, bytes], ...]


class MalformedRequest(Exception):
    """The bytes are not one well-framed request."""


class ByteSource(Protocol):
    """The source of the bytes; each call raises ConnectionError if the peer leaves before they arrive."""

    async def read_until(self, marker: bytes, *, limit_bytes: int = HEAD_LIMIT_BYTES) -> bytes:
        """Read up to and including `marker`."""
        ...

    async def read_exactly(self, size: int) -> bytes:
        """Read exactly `size` bytes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """A request line and its fields; `head` is their exact bytes, with the empty line."""

    head: bytes
    method: bytes
    target: bytes
    version: bytes
    fields: Fields

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of every field line with this name, in order."""
        wanted = name.lower()
        return [value for field, value in self.fields if field.lower() == wanted]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRequest(RequestHead):
    """A whole request; `framed_body` is the body with its chunk lines and trailers; `body` is its meaning."""

    framed_body: bytes
    body: bytes
    trailers: Fields

    @property
    def raw(self) -> bytes:
        """Every byte of the message, as it came."""
        return self.head + self.framed_body


def parse_head(head: bytes) -> RequestHead:
    """A head that ends with CRLF CRLF."""
    lines = head[:-4].split(b"\r\n")
    parts = lines[0].split(b" ")
    if len(parts) != 3 or not all(parts):
        raise MalformedRequest(f"request line {lines[0]!r}")
    return RequestHead(head=head, method=parts[0], target=parts[1], version=parts[2], fields=parse_fields(lines[1:]))


def parse_fields(lines: list[bytes]) -> Fields:
    """Field lines as (name, value); names keep their case, values lose only their surrounding SP and HTAB."""
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip() or b"\n" in line or b"\r" in line:
            raise MalformedRequest(f"field line {line!r}")
        fields.append((name, value.strip(b" \t")))
    return tuple(fields)


async def read_request(source: ByteSource) -> ReceivedRequest:
    """Read the next whole request."""
    head = parse_head(await source.read_until(b"\r\n\r\n"))
    framed, body = bytearray(), bytearray()

    def keep(piece: bytes) -> None:
        if len(body) + len(piece) > BODY_LIMIT_BYTES:
            raise MalformedRequest("a body is over this server's limit; read it in parts")
        body.extend(piece)

    trailers = await read_body(source, head.fields, body=keep, framed=framed.extend)
    return ReceivedRequest(
        head=head.head,
        method=head.method,
        target=head.target,
        version=head.version,
        fields=head.fields,
        framed_body=bytes(framed),
        body=bytes(body),
        trailers=trailers,
    )


async def read_body(
    source: ByteSource, fields: Fields, *, body: Callable[[bytes], object], framed: Callable[[bytes], object] = lambda _: None
) -> Fields:
    """Read the body that these fields frame: `body` gets its bytes, `framed` every byte, piece by piece. Returns the trailers."""
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    codings = [value for name, value in fields if name.lower() == b"transfer-encoding"]
    if lengths and codings:
        raise MalformedRequest("Content-Length and Transfer-Encoding together")
    if codings:
        if [coding.lower() for coding in codings] != [b"chunked"]:
            raise MalformedRequest(f"Transfer-Encoding {codings!r}")
        return await _read_chunked(source, body, framed)
    if lengths:
        if len(lengths) != 1 or not lengths[0].isdigit() or len(lengths[0]) > 19:
            raise MalformedRequest(f"Content-Length {lengths!r}")
        await _read_pieces(source, int(lengths[0]), body, framed)
    return ()


async def _read_pieces(source: ByteSource, size: int, *hearers: Callable[[bytes], object]) -> None:
    while size:
        piece = await source.read_exactly(min(size, PIECE_BYTES))
        size -= len(piece)
        for hear in hearers:
            hear(piece)


async def _read_chunked(source: ByteSource, body: Callable[[bytes], object], framed: Callable[[bytes], object]) -> Fields:
    while True:
        line = await source.read_until(b"\r\n", limit_bytes=4096)
        framed(line)
        digits = line[:-2].partition(b";")[0]
        if not 0 < len(digits) <= 16 or digits.strip(b"0123456789abcdefABCDEF"):
            raise MalformedRequest(f"chunk size line {line!r}")
        if (size := int(digits, 16)) == 0:
            break
        await _read_pieces(source, size, body, framed)
        end = await source.read_exactly(2)
        framed(end)
        if end != b"\r\n":
            raise MalformedRequest("a chunk does not end with CRLF")
    lines: list[bytes] = []
    while (line := await source.read_until(b"\r\n")) != b"\r\n":
        framed(line)
        lines.append(line[:-2])
    framed(line)
    return parse_fields(lines)
