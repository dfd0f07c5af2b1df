"""How each kind of exchange goes, from its caller's side: what is sent, and what must come back, byte for byte."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from tests.soak import frames
from tests.soak.ledger import Result
from tests.soak.mix import MESSAGES, PLACEHOLDER, Kind, body_of, events_of, framing_of, receipt_of, target_of
from tests.soak.wire import AnswerHead, Body, Exactly, Short, Window, Wire, Wrong, read_answer_body, read_answer_head, read_problem

from robin.model.faults import FAULTS
from robin.testing.connection import PeerLeft

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CRLF2 = b"\r\n\r\n"
_SLOW_PIECE_BYTES = 16 * 1024


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One exchange under way; `wire` and `mark` say what had come on its connection before it began."""

    number: int
    kind: Kind
    size: int
    began: int
    started_at: float
    wire: Wire | None = None
    mark: int = 0

    def on(self, wire: Wire) -> Wire:
        """It goes over this connection, and is the next to be answered on it."""
        self.wire, self.mark = wire, wire.taken
        return wire

    @property
    def heard(self) -> bool:
        """Whether a byte of an answer came."""
        return self.wire is not None and self.wire.received_count > self.mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it ended."""

    result: Result
    status: int = 0
    code: str = ""
    octets: int = 0


class Connections(Protocol):
    """Where connections to Robin come from."""

    async def take(self) -> Wire:
        """A kept one that is open and clean, or a new one."""
        ...

    async def fresh(self, *, slow: bool = False) -> Wire:
        """A new one; `slow`: its caller holds little."""
        ...

    def give(self, wire: Wire) -> None:
        """Keep it for the next."""
        ...

    def cut(self, size: int) -> int:
        """A place to cut `size` bytes in two."""
        ...

    def chance(self, share: float) -> bool:
        """True in `share` of the cases."""
        ...


def head_of(exchange: Exchange, *fields: str, version: str = "1.1") -> bytes:
    """The request head: with a credential of its own, which must not arrive."""
    more = "".join(f"{field}\r\n" for field in fields)
    return (
        f"{exchange.kind.method} {target_of(exchange.kind, exchange.number, exchange.size)} HTTP/{version}\r\nHost: localhost\r\n"
        f"Authorization: Bearer {PLACEHOLDER}\r\nX-Api-Key: {PLACEHOLDER}\r\nX-Number: {exchange.number}\r\n{more}\r\n"
    ).encode()


async def receive(wire: Wire, exchange: Exchange, body: Body) -> tuple[Outcome, AnswerHead]:
    """The answer, right or refused; raises Wrong for anything else."""
    head = await read_answer_head(wire)
    return await judge(wire, exchange, head, body), head


async def judge(wire: Wire, exchange: Exchange, head: AnswerHead, body: Body) -> Outcome:
    """The rest of the answer that begins with `head`."""
    if b"proxy-status" in head.fields:
        return await _refusal(wire, exchange, head)
    if head.fields.get(b"x-number") != b"%d" % exchange.number:
        raise Wrong(f"the answer to {head.fields.get(b'x-number')!r}")
    if head.status != exchange.kind.answered_by:
        raise Wrong(f"status {head.status}")
    head_only = exchange.kind.method == "HEAD"
    await read_answer_body(wire, head, body.feed, head_only=head_only)
    if not head_only:
        _finish_body(exchange, body)
    return Outcome(result=Result.RIGHT, status=head.status, octets=body.at)


def _finish_body(exchange: Exchange, body: Body) -> None:
    """All of it must have come; only what the end of a connection frames can be cut short without a sign."""
    try:
        body.finish()
    except Short as error:
        if framing_of(exchange.kind, exchange.number) != "close":
            raise Wrong(str(error)) from None
        raise


async def _refusal(wire: Wire, exchange: Exchange, head: AnswerHead) -> Outcome:
    """Robin's own answer, as its fault table has it (sidecar spec section 7)."""
    problem = await read_problem(wire, head, head_only=exchange.kind.method == "HEAD")
    said, _, rest = head.fields[b"proxy-status"].decode("latin-1").partition('; details="')
    code = rest.rstrip('"')
    kind = FAULTS.get(code)
    if kind is None or said != f"robin; error={kind.error}" or head.status != kind.status or b"x-number" in head.fields:
        raise Wrong(f"a refusal that no table has: {head.status} {head.fields!r}")
    if exchange.kind.method != "HEAD" and (
        head.fields.get(b"content-type") != b"application/problem+json" or json.loads(problem)["code"] != code
    ):
        raise Wrong(f"a refusal without its problem body: {problem[:200]!r}")
    return Outcome(result=Result.REFUSED, status=head.status, code=code)


def expected(exchange: Exchange) -> Body:
    """The body of the right answer."""
    number, size = exchange.number, exchange.size
    if exchange.kind.name == "denied":
        return Exactly(b"denied %d\n" % number)
    if exchange.kind.name == "early":
        return Exactly(b"enough %d\n" % number)
    if exchange.kind.method == "POST":
        return Exactly(receipt_of(number, size))
    if exchange.kind.name == "sse":
        return Exactly(b"".join(events_of(number)))
    return Window(number, size)


async def _finish(callers: Connections, wire: Wire, exchange: Exchange) -> Outcome:
    """Read the answer, then keep the connection if it may be kept."""
    outcome, head = await receive(wire, exchange, expected(exchange))
    if head.goes_on and wire.clean:
        callers.give(wire)
    else:
        wire.transport.close()
    return outcome


async def ask(callers: Connections, exchange: Exchange) -> Outcome:
    """Head and body in one write, on a kept connection."""
    wire = exchange.on(await callers.take())
    if exchange.kind.method == "POST":
        request = head_of(exchange, f"Content-Length: {exchange.size}") + body_of(exchange.number, exchange.size)
    else:
        request = head_of(exchange)
    await wire.send(request)
    return await _finish(callers, wire, exchange)


async def split(callers: Connections, exchange: Exchange) -> Outcome:
    """The same, torn into two writes at any place."""
    wire = exchange.on(await callers.take())
    request = head_of(exchange, f"Content-Length: {exchange.size}") + body_of(exchange.number, exchange.size)
    at = callers.cut(len(request))
    await wire.send(request[:at])
    await asyncio.sleep(0)
    await wire.send(request[at:])
    return await _finish(callers, wire, exchange)


async def upload_chunked(callers: Connections, exchange: Exchange) -> Outcome:
    """Two or more chunks, and a trailer."""
    wire = exchange.on(await callers.take())
    body = body_of(exchange.number, exchange.size)
    await wire.send(head_of(exchange, "Transfer-Encoding: chunked", "Trailer: X-Sum"))
    while body:
        at = callers.cut(len(body)) if len(body) > 2000 else len(body)
        await wire.send(b"%x\r\n%b\r\n" % (at, body[:at]))
        body = body[at:]
    await wire.send(b"0\r\nX-Sum: %d\r\n\r\n" % exchange.number)
    return await _finish(callers, wire, exchange)


async def expect(callers: Connections, exchange: Exchange) -> Outcome:
    """The body waits for the 100."""
    wire = exchange.on(await callers.take())
    await wire.send(head_of(exchange, f"Content-Length: {exchange.size}", "Expect: 100-continue"))
    head = await read_answer_head(wire, interim_too=True)
    if head.status != 100:
        return await _parting(wire, exchange, head)
    await wire.send(body_of(exchange.number, exchange.size))
    return await _finish(callers, wire, exchange)


async def be_denied(callers: Connections, exchange: Exchange) -> Outcome:
    """A final answer comes instead of the 100."""
    wire = exchange.on(await callers.take())
    await wire.send(head_of(exchange, f"Content-Length: {exchange.size}", "Expect: 100-continue"))
    return await _parting(wire, exchange, await read_answer_head(wire))


async def be_stopped(callers: Connections, exchange: Exchange) -> Outcome:
    """The answer comes while half of the upload is still to be sent."""
    wire = exchange.on(await callers.fresh())
    await wire.send(head_of(exchange, f"Content-Length: {exchange.size}"), body_of(exchange.number, exchange.size // 2))
    return await _parting(wire, exchange, await read_answer_head(wire))


async def _parting(wire: Wire, exchange: Exchange, head: AnswerHead) -> Outcome:
    """The rest of an answer behind which the connection ends."""
    outcome = await judge(wire, exchange, head, expected(exchange))
    wire.transport.close()
    return outcome


async def ask_10(callers: Connections, exchange: Exchange) -> Outcome:
    """HTTP/1.0, every other time asking to keep the connection."""
    wire = exchange.on(await callers.fresh())
    keep = exchange.number % 2 == 0
    await wire.send(head_of(exchange, *(["Connection: keep-alive"] if keep else []), version="1.0"))
    outcome, head = await receive(wire, exchange, expected(exchange))
    if b"transfer-encoding" in head.fields:
        raise Wrong("a chunked answer to HTTP/1.0")
    if head.fields.get(b"connection", b"").lower() == b"keep-alive" and not keep:
        raise Wrong("kept alive, and nobody asked")
    wire.transport.close()
    return outcome


async def watch(callers: Connections, exchange: Exchange) -> Outcome:
    """An event stream or a large download, at full speed."""
    wire = exchange.on(await callers.fresh())
    await wire.send(head_of(exchange))
    return await _finish(callers, wire, exchange)


async def read_slowly(callers: Connections, exchange: Exchange) -> Outcome:
    """A large download by a caller that takes its time."""
    wire = exchange.on(await callers.fresh(slow=True))
    await wire.send(head_of(exchange))
    head = await read_answer_head(wire)
    if b"proxy-status" in head.fields:
        return await _parting(wire, exchange, head)
    window = Window(exchange.number, exchange.size)
    while window.at < exchange.size:
        window.feed(await wire.read_exactly(min(_SLOW_PIECE_BYTES, exchange.size - window.at)))
        await asyncio.sleep(0.02)
    wire.transport.close()
    return Outcome(result=Result.RIGHT, status=head.status, octets=window.at)


async def write_slowly(callers: Connections, exchange: Exchange) -> Outcome:
    """A small upload in eight drips."""
    wire = exchange.on(await callers.fresh())
    body = body_of(exchange.number, exchange.size)
    await wire.send(head_of(exchange, f"Content-Length: {exchange.size}"))
    drip = -(-len(body) // 8)
    for at in range(0, len(body), drip):
        await asyncio.sleep(0.1)
        await wire.send(body[at : at + drip])
    return await _finish(callers, wire, exchange)


async def upload_deep(callers: Connections, exchange: Exchange) -> Outcome:
    """A large upload to an upstream that takes its time."""
    wire = exchange.on(await callers.fresh())
    await wire.send(head_of(exchange, f"Content-Length: {exchange.size}"), body_of(exchange.number, exchange.size))
    return await _finish(callers, wire, exchange)


async def tear_upload(callers: Connections, exchange: Exchange) -> Outcome:
    """Leave in the middle of an upload: the upstream must never take it for whole."""
    wire = exchange.on(await callers.fresh())
    part = body_of(exchange.number, exchange.size)[: callers.cut(exchange.size)]
    await wire.send(head_of(exchange, f"Content-Length: {exchange.size}") + part)
    return await _leave(callers, wire)


async def leave_answer(callers: Connections, exchange: Exchange) -> Outcome:
    """Leave in the middle of a large answer."""
    wire = exchange.on(await callers.fresh())
    await wire.send(head_of(exchange))
    head = await read_answer_head(wire)
    if b"proxy-status" in head.fields:
        return await _parting(wire, exchange, head)
    await wire.read_some()
    return await _leave(callers, wire)


async def _leave(callers: Connections, wire: Wire) -> Outcome:
    if callers.chance(0.5):
        await asyncio.sleep(0.02)
    if callers.chance(0.5):
        await wire.reset()
    else:
        wire.transport.abort()  # FIN, or RST where something is unread
    return Outcome(result=Result.LEFT)


async def dawdle(callers: Connections, exchange: Exchange) -> Outcome:
    """A head that never ends: Robin gives up on it (ROBIN_HEADER_TIMEOUT)."""
    wire = exchange.on(await callers.fresh())
    await wire.send(head_of(exchange)[:-2])
    outcome = await _parting(wire, exchange, await read_answer_head(wire))
    if outcome.code == "request_timeout":
        return Outcome(result=Result.RIGHT, status=408)
    return outcome


async def converse(callers: Connections, exchange: Exchange) -> Outcome:
    """A WebSocket: some messages, each echoed, then the closing handshake."""
    wire = exchange.on(await callers.fresh())
    key = base64.b64encode(os.urandom(16))
    await wire.send(
        head_of(exchange, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key.decode()}")
    )
    head = await read_answer_head(wire)
    if b"proxy-status" in head.fields:
        return await _parting(wire, exchange, head)
    if head.status != 101 or head.fields.get(b"x-number") != b"%d" % exchange.number:
        raise Wrong(f"a handshake answered {head.status} {head.fields!r}")
    if head.fields.get(b"sec-websocket-accept") != base64.b64encode(hashlib.sha1(key + _GUID).digest()):
        raise Wrong("a handshake with another key")
    for message in range(MESSAGES):
        payload = body_of(exchange.number + message, exchange.size)
        await wire.send(frames.frame(frames.BINARY, payload, os.urandom(4)))
        opcode, echo = await frames.read_frame(wire)
        if opcode == frames.CLOSE:
            return await _farewell(wire, echo)
        if (opcode, echo) != (frames.BINARY, payload):
            raise Wrong(f"message {message} of {len(payload)} bytes came back as opcode {opcode}, {len(echo)} bytes")
    farewell = (1000).to_bytes(2)
    await wire.send(frames.frame(frames.CLOSE, farewell, os.urandom(4)))
    opcode, echo = await frames.read_frame(wire)
    if opcode != frames.CLOSE:
        raise Wrong(f"opcode {opcode} instead of Close")
    if echo != farewell:
        return await _farewell(wire, echo)
    wire.transport.close()
    return Outcome(result=Result.RIGHT, status=101)


async def _farewell(wire: Wire, payload: bytes) -> Outcome:
    """Robin drains: the Close frame is its own."""
    if payload[:2] != frames.GOING_AWAY.to_bytes(2):
        raise Wrong(f"Close {payload!r}")
    with contextlib.suppress(PeerLeft):  # it need not wait for us
        await wire.send(frames.frame(frames.CLOSE, payload[:2], os.urandom(4)))
    wire.transport.close()
    return Outcome(result=Result.GOODBYE, status=101)


JOURNEYS: dict[str, Callable[[Connections, Exchange], Awaitable[Outcome]]] = {
    "get": ask,
    "head": ask,
    "delete": ask,
    "post": ask,
    "split": split,
    "chunked": upload_chunked,
    "expect": expect,
    "denied": be_denied,
    "early": be_stopped,
    "http10": ask_10,
    "sse": watch,
    "large": watch,
    "websocket": converse,
    "slowread": read_slowly,
    "slowwrite": write_slowly,
    "deep": upload_deep,
    "torn": tear_upload,
    "left": leave_answer,
    "loris": dawdle,
}
