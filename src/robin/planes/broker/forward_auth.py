"""The forward-auth listener: a proxy asks about a request it has received; 200 allows. The URL path names the proxy's shape.

`/v1/envoy<path>`: method, Host, path and body are those of the request. `/v1/traefik`: X-Forwarded-Method, -Proto, -Host, -Uri and the
body. `/v1/nginx`: X-Original-Method, -Proto, -Host, -URI, and no body; X-Original-Content-Length, -Transfer-Encoding and -Protocol
say whether there is one. HTTP/2 and HTTP/3 need neither field for a body, so there it is unknown without a length.
Only trusted proxies may ask.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from robin.model.caller import Caller
from robin.model.faults import Fault
from robin.model.message import Framing
from robin.model.passport import ReceivedRequest
from robin.model.passport_reasons import Refused
from robin.planes.broker.inbound import received
from robin.planes.broker.responses import OURS, PassportRefusals, render_allowed, render_refusal, status_of
from robin.planes.broker.verifier import Verification, Verifier
from robin.proxy.drain import CLOSING, Drain
from robin.transport.entropy import Entropy
from robin.transport.stream import Stream, StreamClosed
from robin.wire.framing import ChunkedDecoder, FramingError
from robin.wire.head_parser import RequestParser
from robin.wire.http1 import CONTINUE
from robin.wire.shape import ParsedRequest

HEAD_BYTES: Final = 65536
WAIT_S: Final = 10.0
IDLE_S: Final = 75.0  # of a trusted proxy's connection, between two requests
STRANGERS: Final = 64  # connections of others than trusted proxies, so that these always find one
_BODY_FIELDS: Final = ("x-original-content-length", "x-original-transfer-encoding")
_SHAPES: Final = {
    "traefik": ("x-forwarded-method", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-uri"),
    "nginx": ("x-original-method", "x-original-proto", "x-original-host", "x-original-uri", "x-original-protocol"),
}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ForwardAuthConnection(Stream):
    """One connection of a proxy."""

    def begin_closing(self) -> None:
        """Close if idle."""
        if not self.received:
            self.close()


class ForwardAuth:
    """Answers proxies. `new_stream` makes the stream of a connection."""

    __slots__ = ("_drain", "_entropy", "_loop", "_max_body", "_new_stream", "_strangers", "_trusted", "_verifier")

    def __init__(
        self,
        verifier: Verifier,
        *,
        trusted: Sequence[Network],
        max_body_bytes: int,
        drain: Drain,
        entropy: Entropy,
        new_stream: Callable[[], ForwardAuthConnection],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._verifier = verifier
        self._trusted = tuple(trusted)
        self._strangers = 0
        self._max_body = max_body_bytes
        self._drain = drain
        self._entropy = entropy
        self._new_stream = new_stream
        self._loop = loop

    async def serve(self, sock: socket.socket, _: Caller) -> None:
        """Serve one connection to its end."""
        trusted = self._is_trusted(sock)
        if not trusted and self._strangers >= STRANGERS:
            sock.close()
            return
        self._strangers += not trusted
        stream = self._new_stream()
        self._drain.connected(stream)
        try:
            await self._loop.connect_accepted_socket(lambda: stream, sock)
            while self._drain.state != CLOSING and await self._serve_next(stream, trusted=trusted):
                pass
        except (OSError, StreamClosed, TimeoutError, FramingError, Fault):
            pass  # the proxy disconnected, was too slow, or does not speak HTTP/1.1
        finally:
            self._strangers -= not trusted
            self._drain.disconnected(stream)
            stream.close()

    def _is_trusted(self, sock: socket.socket) -> bool:
        try:
            address = ipaddress.ip_address(sock.getpeername()[0].partition("%")[0])
        except (OSError, ValueError):
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._trusted)

    async def _serve_next(self, stream: ForwardAuthConnection, *, trusted: bool) -> bool:
        """Serve one request. Returns True if another may follow."""
        stream.deadline_at = self._loop.time() + (IDLE_S if trusted else WAIT_S)
        if not stream.received and not await stream.fill():
            return False
        stream.deadline_at = self._loop.time() + WAIT_S
        while (end := stream.received.find(b"\r\n\r\n")) < 0:
            if len(stream.received) > HEAD_BYTES or not await stream.fill():
                return False
        try:
            head = RequestParser(target_bytes=HEAD_BYTES, fields_max=100).parse(stream.take(end + 4))
        except Fault as fault:
            stream.write(PassportRefusals().render(fault, request_id=self._entropy.token_hex(12), close=True, head_only=False))
            await stream.flush()
            return False
        one = Verification(
            request=received(head), request_id=self._entropy.token_hex(12), surface=f"forward_auth.{_shape_of(head) or 'unknown'}"
        )
        nginx = _shape_of(head) == "nginx"
        reusable = head.keep_alive
        try:
            if not trusted:
                raise await self._verifier.refuse(one, Refused("proxy_not_trusted"))
            answer = await self._judge(stream, head, one)
        except Refused as refused:
            status, lines = status_of(refused.reason, one.found.profile, one.found.route)
            status = 403 if nginx and 400 <= status < 500 and status != 401 else status
            reusable = False  # what is left of the body is not read
            answer = render_refusal(refused.reason, status, lines, request_id=one.request_id, close=True, head_only=head.method == "HEAD")
        stream.deadline_at = self._loop.time() + WAIT_S
        stream.write(answer)
        await stream.flush()
        return reusable

    async def _judge(self, stream: ForwardAuthConnection, head: ParsedRequest, one: Verification) -> bytes:
        """The answer that allows. Raises Refused, whose record is written."""
        shape = _shape_of(head)
        if shape is None:
            raise await self._verifier.refuse(one, Refused("forward_auth_incomplete", "shape"))
        try:
            if head.upgrade is not None:  # what follows an upgrade is judged by nothing
                raise Refused("transcript_ambiguous", "upgrade")
            one.request = self._original(head, shape)
            _refuse_forged(one.request, shape)
        except Refused as refused:
            raise await self._verifier.refuse(one, refused) from None
        await self._verifier.check_head(one)
        body = None if shape == "nginx" else await self._read_body(stream, head, one)
        if shape == "nginx":
            await self._drop_body(stream, head)
        await self._verifier.admit(one, body)
        return render_allowed(one.found, one.request, remove=shape == "envoy")

    def _original(self, head: ParsedRequest, shape: str) -> ReceivedRequest:
        if shape == "envoy":
            target = head.target.decode("latin-1").removeprefix("/v1/envoy")
            return replace(received(head, target=target or "/"), joined=",")
        request = received(head)
        values = [request.values(name) for name in _SHAPES[shape]]
        if any(len(lines) != 1 or not lines[0] for lines in values):
            raise Refused("forward_auth_incomplete", "original_request")
        method, scheme, authority, target, *protocol = (lines[0] for lines in values)
        if scheme != self._verifier.rules.proof.scheme:
            raise Refused("authority_not_served", "scheme")
        original = received(head, method=method, authority=authority, target=target)
        return replace(original, body_bytes=_announced(original, *protocol)) if protocol else original

    async def _read_body(self, stream: ForwardAuthConnection, head: ParsedRequest, one: Verification) -> bytes:
        if head.length > self._max_body:
            raise await self._verifier.refuse(one, Refused("body_too_large"))
        if head.expects_continue:
            stream.write(CONTINUE)
        try:
            body = await self._collect(stream, head)
        except FramingError:
            raise await self._verifier.refuse(one, Refused("forward_auth_incomplete", "body_framing")) from None
        if body is None:
            raise await self._verifier.refuse(one, Refused("body_too_large"))
        return body

    async def _drop_body(self, stream: ForwardAuthConnection, head: ParsedRequest) -> None:
        if head.length > self._max_body or await self._collect(stream, head) is None:
            raise StreamClosed

    async def _collect(self, stream: ForwardAuthConnection, head: ParsedRequest) -> bytes | None:
        """The body; None where it is larger than the limit."""
        if head.framing == Framing.CHUNKED:
            decoder, pieces, size = ChunkedDecoder(), [], 0
            while True:
                found, used = decoder.decode(stream.received)
                if used:
                    stream.take(used)
                pieces += found
                size += sum(map(len, found))
                if size > self._max_body:
                    return None
                if decoder.done:
                    return b"".join(pieces)
                if not decoder.eager and not await stream.fill():
                    raise StreamClosed
        while len(stream.received) < head.length:
            if not await stream.fill():
                raise StreamClosed
        return stream.take(head.length) if head.length else b""


def _shape_of(head: ParsedRequest) -> str | None:
    path = head.path.decode("latin-1")
    if path in ("/v1/nginx", "/v1/traefik"):
        return path[4:]
    return "envoy" if path.startswith("/v1/envoy/") or path == "/v1/envoy" else None


def _refuse_forged(request: ReceivedRequest, shape: str) -> None:
    """Raise Refused for a header that CGI and WSGI would take for one of ours. Envoy removes it; the others know the name with `-` only."""
    if shape != "envoy" and any("_" in name and name.replace("_", "-").startswith(OURS) for name, _ in request.fields):
        raise Refused("passport_malformed", "underscore")


def _announced(request: ReceivedRequest, protocol: str) -> int | None:
    """The least size of the body that the proxy announces; None where it cannot know whether there is one. Raises Refused."""
    length, coding = (request.values(name) for name in _BODY_FIELDS)
    if len(length) > 1 or not all(value.isascii() and value.isdigit() for value in length):
        raise Refused("forward_auth_incomplete", "body_length")
    if coding or length:
        return 1 if coding else int(length[0][:18])
    return 0 if protocol.startswith("HTTP/1.") else None
