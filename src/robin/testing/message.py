"""One HTTP/1.1 request as a test server saw it: its exact bytes beside their meaning; strict where a test must notice.

Rules: the head ends at CRLF CRLF, the body is framed by Content-Length or by `Transfer-Encoding: chunked`, never by both. Anything else
is a MalformedRequest: a proxy under test must never send it.
"""

from dataclasses import dataclass
from typing import Protocol

HEAD_LIMIT_BYTES = 1 << 20
BODY_LIMIT_BYTES = 64 << 20

Fields = tuple[tuple[bytes, bytes], ...]


class MalformedRequest(Exception):
    """The bytes are not one well-framed request."""


class ByteSource(Protocol):
    """Where the bytes come from; each call raises ConnectionError when the peer has left before they came."""

    async def read_until(self, marker: bytes, *, limit_bytes: int = HEAD_LIMIT_BYTES) -> bytes:
        """Bytes up to and with `marker`."""
        ...

    async def read_exactly(self, size: int) -> bytes:
        """`size` bytes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRequest:
    """`head` ends with the empty line; `framed_body` is the body with its chunk lines and trailers; `body` is its meaning."""

    head: bytes
    framed_body: bytes
    method: bytes
    target: bytes
    version: bytes
    fields: Fields
    body: bytes
    trailers: Fields

    @property
    def raw(self) -> bytes:
        """Every byte of the message, as it came."""
        return self.head + self.framed_body

    def values(self, name: bytes) -> list[bytes]:
        """The values of every field line with this name, in order."""
        wanted = name.lower()
        return [value for field, value in self.fields if field.lower() == wanted]


def parse_head(head: bytes) -> tuple[bytes, bytes, bytes, Fields]:
    """Method, target, version and field lines of a head that ends with CRLF CRLF."""
    lines = head[:-4].split(b"\r\n")
    parts = lines[0].split(b" ")
    if len(parts) != 3 or not all(parts):
        raise MalformedRequest(f"request line {lines[0]!r}")
    return parts[0], parts[1], parts[2], parse_fields(lines[1:])


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
    """The next request, whole."""
    head = await source.read_until(b"\r\n\r\n")
    method, target, version, fields = parse_head(head)
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    codings = [value for name, value in fields if name.lower() == b"transfer-encoding"]
    if lengths and codings:
        raise MalformedRequest("Content-Length and Transfer-Encoding together")
    framed, body = b"", b""
    trailers: Fields = ()
    if codings:
        if [coding.lower() for coding in codings] != [b"chunked"]:
            raise MalformedRequest(f"Transfer-Encoding {codings!r}")
        framed, body, trailers = await _read_chunked(source)
    elif lengths:
        if len(lengths) != 1 or not lengths[0].isdigit():
            raise MalformedRequest(f"Content-Length {lengths!r}")
        if int(lengths[0]) > BODY_LIMIT_BYTES:
            raise MalformedRequest(f"a body of {int(lengths[0])} bytes is over this server's limit; read it in parts")
        framed = body = await source.read_exactly(int(lengths[0]))
    return ReceivedRequest(
        head=head, framed_body=framed, method=method, target=target, version=version, fields=fields, body=body, trailers=trailers
    )


async def _read_chunked(source: ByteSource) -> tuple[bytes, bytes, Fields]:
    framed, body = bytearray(), bytearray()
    while True:
        line = await source.read_until(b"\r\n", limit_bytes=4096)
        framed += line
        try:
            size = int(line[:-2].partition(b";")[0], 16)
        except ValueError:
            raise MalformedRequest(f"chunk size line {line!r}") from None
        if len(body) + size > BODY_LIMIT_BYTES:
            raise MalformedRequest("a chunked body is over this server's limit; read it in parts")
        if size == 0:
            break
        chunk = await source.read_exactly(size + 2)
        if chunk[-2:] != b"\r\n":
            raise MalformedRequest("a chunk does not end with CRLF")
        framed += chunk
        body += chunk[:-2]
    lines: list[bytes] = []
    while (line := await source.read_until(b"\r\n")) != b"\r\n":
        framed += line
        lines.append(line[:-2])
    framed += b"\r\n"
    return bytes(framed), bytes(body), parse_fields(lines)
