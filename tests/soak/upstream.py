"""The upstream of a soak: it verifies every token and every body, answers what the target asks for, and makes the mischief it is told.

It writes each request into its ledger before it goes on. What must never arrive is told as a `violation`.
"""

import asyncio
import base64
import contextlib
import hashlib
import random
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop
from tests.soak import frames
from tests.soak.ledger import DeliveryLedger, Seen
from tests.soak.mix import AUDIENCE, FRAMED_IN_TURN, KINDS, NUMBER, Kind, body_of, events_of, framing_of, receipt_of
from tests.soak.phases import Mischief
from tests.soak.wire import Window, Wire, Wrong
from tests.soak.worker import orders, tell

from robin.testing.connection import PeerLeft
from robin.testing.inspection import TokenRefused, inspect_token
from robin.testing.message import MalformedRequest, RequestHead, parse_head, read_body
from robin.transport.tasks import TaskOwner

IDLE_S = 6.0  # announced as 4: Robin gives a connection up before we do
LINGER_S = 2.0
_PIECE_BYTES = 32 * 1024
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEEP = b"Keep-Alive: timeout=4\r\n"
_VIOLATIONS_MAX = 50
_SKEW_S = 0.5  # a token may pass its end while it is on the wire


class Request:
    """One request as it is being served."""

    def __init__(self, head: RequestHead, kind: Kind, number: int, size: int) -> None:
        self.head = head
        self.kind = kind
        self.number = number
        self.size = size


class Dropped(Exception):
    """Mischief: the connection was dropped on purpose."""


class Upstream:
    """One listener and its mischief. `cuts`: connections dropped within or before an answer, or behind one unannounced."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.mischief = Mischief()
        self.cuts = 0
        self.violations = 0
        self._settings = settings
        self._ledger = DeliveryLedger(Path(settings["ledger"]))
        self._dice = random.Random(settings["seed"])
        self._tokens: dict[bytes, float] = {}
        self._grudges: set[Wire] = set()  # kept connections that will be dropped when their next request comes
        self._tasks = TaskOwner(self._failed)
        self._tls: ssl.SSLContext | None = None
        self._authority = b""

    async def serve(self, told: AsyncIterator[dict[str, Any]]) -> None:
        """Listen, and obey until nothing more is told."""
        if leaf := self._settings.get("leaf"):
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
            self._tls.load_cert_chain(*leaf)
        server = await asyncio.get_running_loop().create_server(
            self._connection, "127.0.0.1", self._settings["port"], ssl=self._tls, backlog=1024
        )
        port = server.sockets[0].getsockname()[1]
        self._authority = f"{self._settings['name']}:{port}".encode()
        tell(listening=port)
        async for order in told:
            if "mischief" in order:
                await self._change(Mischief(**order["faults"]))
            elif "leaf" in order:
                assert self._tls is not None
                self._tls.load_cert_chain(*order["files"])  # handshakes from now on show this one
                tell(leaf=True)
        server.close()
        await self._tasks.close()

    async def _change(self, mischief: Mischief) -> None:
        """Other mischief from now on, and nothing pending of the old; tell how many connections that hit."""
        self.mischief = mischief
        self.cuts += len(self._grudges)
        for wire in list(self._grudges):
            self._grudges.discard(wire)
            wire.transport.close()  # behind its last answer, which may still be on its way
        tell(mischief=True, cuts=self.cuts)
        self.cuts = 0

    def violation(self, text: str) -> None:
        """Something arrived that never must."""
        self.violations += 1
        if self.violations <= _VIOLATIONS_MAX:
            tell(violation=text)

    def _failed(self, name: str, error: BaseException) -> None:
        self.violation(f"{name}: {type(error).__name__}: {error}")

    def _connection(self) -> Wire:
        return Wire(self._accept, tls=self._tls is not None, keep_bytes=0, patience_s=IDLE_S)

    def _accept(self, wire: object) -> None:
        assert isinstance(wire, Wire)
        self._tasks.start(self._run(wire), "connection")

    async def _run(self, wire: Wire) -> None:
        try:
            if self._chance(self.mischief.on_accept):
                await self._drop(wire)
            while await self._exchange(wire):
                pass
        except (PeerLeft, Dropped):
            pass
        finally:
            self._grudges.discard(wire)
            wire.transport.close()

    def _chance(self, share: float) -> bool:
        return share > 0.0 and self._dice.random() < share

    async def _drop(self, wire: Wire, *, reset: bool | None = None) -> None:
        """End the connection with RST or, half the time, with FIN. Raises Dropped."""
        self.cuts += 1
        if reset or (reset is None and self._chance(0.5)):
            await wire.reset()
        else:
            await wire.close()
        raise Dropped

    async def _exchange(self, wire: Wire) -> bool:
        """Serve one request. Whether the connection goes on."""
        try:
            raw = await wire.read_until(b"\r\n\r\n")
        except TimeoutError:
            return False
        if wire in self._grudges:
            await self._drop(wire, reset=True)
        try:
            request = self._judge(parse_head(bytes(raw)))
        except (MalformedRequest, ValueError, KeyError) as error:
            self.violation(f"not a request of ours: {error!r}: {bytes(raw[:300])!r}")
            return False
        self._ledger.note(request.number, NUMBER[request.kind.name], Seen.BEGAN)
        serve = _SERVED_APART.get(request.kind.name)
        try:
            if serve is not None:
                return await serve(self, wire, request)
            await self._receive(wire, request)
            return await self._answer(wire, request)
        except (MalformedRequest, Wrong) as error:
            self.violation(f"{request.kind.name} {request.number}: {error}")
            return False
        except TimeoutError:
            self.violation(f"{request.kind.name} {request.number}: nothing came for {IDLE_S:g} s: {bytes(raw[:300])!r}")
            return False

    def _judge(self, head: RequestHead) -> Request:
        """The request that this head asks for; whatever Robin must not forward, or must add, is looked at."""
        path, _, query = head.target.partition(b"?")
        _, name, digits, size = path.decode("ascii").split("/")
        number = int(digits)
        request = Request(head, KINDS[NUMBER[name]], number, int(size))
        if query != b"unrecorded=%d" % number or head.method.decode() != request.kind.method or head.version != b"HTTP/1.1":
            raise ValueError("the request line was changed")
        if head.values(b"host") != [self._authority]:
            self.violation(f"{name} {number}: Host {head.values(b'host')!r}")
        if head.values(b"x-api-key") or len(head.values(b"via")) != 1 or head.values(b"x-number") != [digits.encode()]:
            self.violation(f"{name} {number}: fields {head.fields!r}")
        self._check_token(head, f"{name} {number}")
        return request

    def _check_token(self, head: RequestHead, label: str) -> None:
        values = head.values(b"authorization")
        if len(values) != 1 or not values[0].startswith(b"Bearer "):
            self.violation(f"{label}: {len(values)} Authorization fields, or not of a token")
            return
        token, now = values[0][7:], time.time()
        ends_at = self._tokens.get(token)
        if ends_at is None:
            try:
                claims = inspect_token(token, jwks=self._settings["jwks"], issuer=self._settings["issuer"], audience=AUDIENCE, now=now)
            except TokenRefused as refused:
                self.violation(f"{label}: a token that is refused: {refused.reason}")
                return
            ends_at = self._tokens[token] = float(claims["exp"])
            tell(token=hashlib.sha256(token).hexdigest()[:16])
        if ends_at + _SKEW_S <= now:
            self.violation(f"{label}: a token {now - ends_at:.3f} s behind its end")

    async def _receive(self, wire: Wire, request: Request) -> None:
        """The request's body, checked; then it counts as delivered."""
        if request.kind.method == "POST":
            window = Window(request.number, request.size)
            trailers = await read_body(wire, request.head.fields, body=window.feed)
            window.finish()
            if request.kind.name == "chunked" and trailers != ((b"X-Sum", b"%d" % request.number),):
                raise Wrong(f"trailers {trailers!r}")
        self._delivered(request)

    def _delivered(self, request: Request) -> None:
        self._ledger.note(request.number, NUMBER[request.kind.name], Seen.WHOLE)

    async def _answer(self, wire: Wire, request: Request) -> bool:
        """The answer, as long as mischief lets it. Whether the connection goes on."""
        if self._chance(self.mischief.before):
            await self._drop(wire)
        pieces, goes_on = _render(request)
        if self._chance(self.mischief.amid):
            await self._drop_amid(wire, pieces)
        for piece in pieces:
            await wire.send(piece)
            if request.kind.name == "sse":
                await asyncio.sleep(0.02)
        if goes_on and self._chance(self.mischief.closes):
            return await self._end_unannounced(wire)
        return goes_on

    async def _drop_amid(self, wire: Wire, pieces: list[bytes]) -> None:
        whole = self._dice.randrange(len(pieces))
        for piece in pieces[:whole]:
            await wire.send(piece)
        part = pieces[whole][: self._dice.randrange(len(pieces[whole]))]
        if part:
            await wire.send(part)
        await self._drop(wire, reset=b"close\r\n" in pieces[0] or None)  # a FIN would be the proper end of a close-delimited body

    async def _end_unannounced(self, wire: Wire) -> bool:
        """Behind a whole answer: now, a moment later, or just when the next request comes."""
        style = self._dice.randrange(3)
        if style == 2:
            self._grudges.add(wire)
            return True
        self.cuts += 1
        if style == 1:
            await asyncio.sleep(self._dice.random() * 0.02)
        return False

    # kinds that are served apart

    async def _deny(self, wire: Wire, request: Request) -> bool:
        """A final answer instead of 100: the body must not come."""
        await wire.send(_plain(request, b"denied %d\n" % request.number, status=b"403 Forbidden", close=True))
        window = Window(request.number, 0)
        await self._linger(wire, window.feed)
        return False

    async def _stop_early(self, wire: Wire, request: Request) -> bool:
        """An answer while the upload runs."""
        await wire.send(_plain(request, b"enough %d\n" % request.number, status=b"413 Content Too Large", close=True))
        await self._linger(wire, lambda _: None)
        return False

    async def _linger(self, wire: Wire, body: Callable[[bytes], object]) -> None:
        """Read on for a little, so that the answer is not lost in a reset."""
        with contextlib.suppress(PeerLeft, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while piece := await wire.read_some():
                    body(piece)

    async def _expect(self, wire: Wire, request: Request) -> bool:
        if request.head.values(b"expect") != [b"100-continue"]:
            raise Wrong(f"Expect {request.head.values(b'expect')!r}")
        await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await self._receive(wire, request)
        return await self._answer(wire, request)

    async def _read_slowly(self, wire: Wire, request: Request) -> bool:
        if request.head.values(b"content-length") != [b"%d" % request.size]:
            raise Wrong(f"Content-Length {request.head.values(b'content-length')!r}")
        window = Window(request.number, request.size)
        while window.at < request.size:
            window.feed(await wire.read_exactly(min(_PIECE_BYTES, request.size - window.at)))
            await asyncio.sleep(0.03)
        self._delivered(request)
        return await self._answer(wire, request)

    async def _echo(self, wire: Wire, request: Request) -> bool:
        """A WebSocket that echoes until it is told to close."""
        keys = request.head.values(b"sec-websocket-key")
        if len(keys) != 1 or request.head.values(b"upgrade") != [b"websocket"]:
            raise Wrong(f"a handshake with {request.head.fields!r}")
        self._delivered(request)
        if self._chance(self.mischief.before):
            await self._drop(wire)
        accept = base64.b64encode(hashlib.sha1(keys[0] + _GUID).digest())
        await wire.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: %b\r\nX-Number: %d\r\n\r\n" % (accept, request.number)
        )
        while True:
            if self._chance(self.mischief.amid):
                await self._drop(wire)
            opcode, payload = await frames.read_frame(wire)
            await wire.send(frames.frame(opcode, payload))
            if opcode == frames.CLOSE:
                return False


_SERVED_APART: dict[str, Callable[[Upstream, Wire, Request], Awaitable[bool]]] = {
    "denied": Upstream._deny,
    "early": Upstream._stop_early,
    "expect": Upstream._expect,
    "deep": Upstream._read_slowly,
    "websocket": Upstream._echo,
}


def _render(request: Request) -> tuple[list[bytes], bool]:
    """The answer in pieces, and whether the connection goes on after it."""
    name, number = request.kind.name, request.number
    if request.kind.method == "POST":
        return [_plain(request, receipt_of(number, request.size), status=b"201 Created")], True
    if name == "sse":
        return [_head(request, b"Transfer-Encoding: chunked"), *(_chunk(event) for event in events_of(number)), b"0\r\n\r\n"], True
    body = body_of(number, request.size)
    if name == "head":
        return [_head(request, b"Content-Length: %d" % len(body))], True
    if name not in FRAMED_IN_TURN and name != "slowread":
        return [_plain(request, body)], True
    pieces = [body[at : at + _PIECE_BYTES] for at in range(0, len(body), _PIECE_BYTES)]
    framing = framing_of(request.kind, number)
    if framing == "length":
        return [_head(request, b"Content-Length: %d" % len(body)), *pieces], True
    if framing == "chunked":
        return [_head(request, b"Transfer-Encoding: chunked"), *(_chunk(piece) for piece in pieces), b"0\r\n\r\n"], True
    return [_head(request, b"Connection: close"), *pieces], False


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def _head(request: Request, framing: bytes, *, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nX-Number: %d\r\nContent-Type: application/octet-stream\r\n%b%b\r\n\r\n" % (
        status,
        request.number,
        b"" if framing.startswith(b"Connection") else _KEEP,
        framing,
    )


def _plain(request: Request, body: bytes, *, status: bytes = b"200 OK", close: bool = False) -> bytes:
    return _head(request, b"Content-Length: %d%b" % (len(body), b"\r\nConnection: close" if close else b""), status=status) + body


async def main() -> None:
    """The first line on stdin holds the settings."""
    told = orders()
    await Upstream(await anext(told)).serve(told)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    sys.exit(0)
