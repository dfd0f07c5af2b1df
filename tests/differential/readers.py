"""Two foreign parsers that read one forwarded request: h11, and CPython's own http.server and http.client.

Each raises when the bytes are not exactly one whole message. Field names come in lower case, since h11 gives them so.
"""

import http.client
import io
from dataclasses import dataclass
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler

import h11

Fields = tuple[tuple[bytes, bytes], ...]

http.client._MAXHEADERS = 2000  # type: ignore[attr-defined] # its limit of 100 would hide what it makes of Robin's own limit, 100 and ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One request as one parser sees it."""

    method: bytes
    target: bytes
    fields: Fields
    body: bytes
    trailers: Fields


class NotOneMessage(AssertionError):
    """The bytes are no message, more than one, or an unfinished one."""


def read_with_h11(raw: bytes) -> Reading:
    """h11 as a server, all bytes at once, then EOF."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(raw)
    request = server.next_event()
    if not isinstance(request, h11.Request):
        raise NotOneMessage(f"h11 sees {request!r}")
    body = bytearray()
    while isinstance(event := server.next_event(), h11.Data):
        body += event.data
    if not isinstance(event, h11.EndOfMessage):
        raise NotOneMessage(f"h11 sees {event!r} where the message should end")
    if server.trailing_data[0]:
        raise NotOneMessage(f"h11 sees more bytes: {server.trailing_data[0][:80]!r}")
    return Reading(
        method=bytes(request.method),
        target=bytes(request.target),
        fields=tuple(request.headers),
        body=bytes(body),
        trailers=tuple(event.headers),
    )


class _Request(BaseHTTPRequestHandler):
    """http.server's reading of a head, without a socket or an answer."""

    def __init__(self, stream: io.BytesIO) -> None:
        self.rfile = stream
        self.refusal = ""

    def read(self) -> bool:
        self.raw_requestline = self.rfile.readline(1 << 17)
        return self.parse_request()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.refusal = f"{code} {message} {explain}"


class _Unclosed(io.BytesIO):
    """http.client closes its file at the end of a message; what lies behind the message is still to be looked at."""

    def close(self) -> None:
        pass


class _Stream:
    """What http.client wants of a socket: a file to read from."""

    def __init__(self, raw: bytes) -> None:
        self.file = _Unclosed(raw)

    def makefile(self, mode: str) -> io.BytesIO:
        return self.file


def read_with_stdlib(raw: bytes) -> Reading:
    """http.server for the request line and the fields, http.client for the body's framing. It tells no trailers."""
    stream = io.BytesIO(raw)
    request = _Request(stream)
    if not request.read():
        raise NotOneMessage(f"http.server refuses it: {request.refusal}")
    at = stream.tell()
    lines = raw[:at].split(b"\r\n")
    fields = tuple((name.lower().encode("latin-1"), value.strip(" \t").encode("latin-1")) for name, value in request.headers.raw_items())
    framed = [(name, value) for name, value in fields if name in {b"content-length", b"transfer-encoding"}]
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % line for line in framed or [(b"content-length", b"0")]) + b"\r\n"
    source = _Stream(head + raw[at:])
    response = HTTPResponse(source)  # type: ignore[arg-type]
    response.begin()
    body = response.read()
    if rest := source.file.read():
        raise NotOneMessage(f"http.client sees more bytes: {rest[:80]!r}")
    method, target = lines[0].split(b" ")[:2]
    if (request.command.encode("latin-1"), request.path.lstrip("/")) != (method, target.decode("latin-1").lstrip("/")):
        raise NotOneMessage(f"http.server sees {request.command!r} {request.path!r}")
    return Reading(method=method, target=target, fields=fields, body=body, trailers=())
