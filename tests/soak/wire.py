"""One connection, at either end: answers taken apart strictly, bodies checked against the pattern as they come."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from tests.soak.mix import PATTERN, place_of

from robin.testing.connection import WINDOW_BYTES, ScriptedConnection
from robin.testing.message import MalformedRequest, parse_fields, read_body

PATIENCE_S = 45.0
_PROBLEM_MAX = 4096


class Wrong(Exception):
    """Bytes that must never be seen; the message says what was wrong with them."""


class Short(Exception):
    """A body that ended early and yet properly."""


class Wire(ScriptedConnection):
    """A connection that keeps nothing of what it read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As its parent, but uvloop's transports do not call themselves asyncio's."""
        self.transport = transport  # type: ignore[assignment]
        self._writable.set()
        self._on_made(self)

    async def reset(self) -> None:
        """As its parent, but a connection that ends in this very moment is left alone."""
        if self.transport.is_closing():
            self.ended = self.ended or "closed"
        else:
            await super().reset()

    @property
    def taken(self) -> int:
        """How many bytes were read off it."""
        return self.received_count - len(self._unread)

    @property
    def clean(self) -> bool:
        """Whether it is open and nothing is left on it."""
        return self.ended is None and not self._unread


async def connect(host: str, port: int, *, window_bytes: int = WINDOW_BYTES, receive_buffer: int = 0) -> Wire:
    """A connection to Robin; `receive_buffer` makes the kernel hold little."""
    loop = asyncio.get_running_loop()

    def build() -> Wire:
        return Wire(lambda _: None, keep_bytes=0, window_bytes=window_bytes, patience_s=PATIENCE_S)

    if not receive_buffer:
        _, wire = await loop.create_connection(build, host, port)
        return wire
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await loop.sock_connect(sock, (host, port))
        _, wire = await loop.create_connection(build, sock=sock)
    except BaseException:
        sock.close()
        raise
    return wire


class Window:
    """Checks piece by piece that a body is the one of exchange `number`."""

    def __init__(self, number: int, size: int) -> None:
        self._place = place_of(number)
        self._size = size
        self.at = 0

    def feed(self, piece: bytes) -> None:
        """The next piece of the body."""
        if self.at + len(piece) > self._size or not PATTERN.startswith(piece, self._place + self.at):
            raise Wrong(f"body differs within {len(piece)} bytes behind {self.at} of {self._size}")
        self.at += len(piece)

    def finish(self) -> None:
        """The body has ended."""
        if self.at != self._size:
            raise Short(f"body ended at {self.at} of {self._size}")


class Exactly:
    """Checks that a body is these bytes."""

    def __init__(self, wanted: bytes) -> None:
        self._wanted = wanted
        self.at = 0

    def feed(self, piece: bytes) -> None:
        """The next piece of the body."""
        if not self._wanted.startswith(piece, self.at):
            raise Wrong(f"body has {piece[:80]!r} at {self.at}")
        self.at += len(piece)

    def finish(self) -> None:
        """The body has ended."""
        if self.at != len(self._wanted):
            raise Wrong(f"body ended at {self.at} of {len(self._wanted)}")


Body = Window | Exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerHead:
    """The head of a final answer; `interim` are the statuses of the answers before it."""

    status: int
    fields: dict[bytes, bytes]
    interim: tuple[int, ...]

    @property
    def goes_on(self) -> bool:
        """Whether the connection may be used again once the body is read, as an HTTP/1.1 caller sees it."""
        framed = b"content-length" in self.fields or b"transfer-encoding" in self.fields or self.status in {204, 304}
        return framed and self.fields.get(b"connection", b"").lower() != b"close"


async def read_answer_head(wire: Wire, *, interim_too: bool = False) -> AnswerHead:
    """The next final answer's head, or any answer's where `interim_too`. Raises Wrong, PeerLeft, TimeoutError."""
    interim: list[int] = []
    while True:
        raw = await wire.read_until(b"\r\n\r\n")
        lines = bytes(raw[:-4]).split(b"\r\n")
        version, _, rest = lines[0].partition(b" ")
        if version != b"HTTP/1.1" or not rest[:3].isdigit() or rest[3:4] != b" ":
            raise Wrong(f"status line {lines[0][:80]!r}")
        status = int(rest[:3])
        if status >= 200 or status == 101 or interim_too:
            break
        interim.append(status)
    try:
        pairs = parse_fields(lines[1:])
    except MalformedRequest as error:
        raise Wrong(str(error)) from None
    fields = {name.lower(): value for name, value in pairs}
    if len(fields) != len(pairs):
        raise Wrong(f"a repeated field in {raw[:400]!r}")
    return AnswerHead(status=status, fields=fields, interim=tuple(interim))


async def read_answer_body(wire: Wire, head: AnswerHead, body: Callable[[bytes], object], *, head_only: bool = False) -> None:
    """The body that this head frames, to `body` piece by piece. Raises Wrong, PeerLeft, TimeoutError."""
    if head_only or head.status in {204, 304}:
        return
    if b"content-length" in head.fields or b"transfer-encoding" in head.fields:
        try:
            await read_body(wire, tuple(head.fields.items()), body=body)
        except MalformedRequest as error:
            raise Wrong(str(error)) from None
        return
    while piece := await wire.read_some():
        body(piece)


async def read_problem(wire: Wire, head: AnswerHead, *, head_only: bool) -> bytes:
    """The body of a refusal."""
    parts: list[bytes] = []

    def keep(piece: bytes) -> None:
        parts.append(piece)
        if sum(len(part) for part in parts) > _PROBLEM_MAX:
            raise Wrong("a problem body beyond all measure")

    await read_answer_body(wire, head, keep, head_only=head_only)
    return b"".join(parts)
