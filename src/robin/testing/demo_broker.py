"""A demonstration broker: it verifies the identity token of each request and echoes, as JSON, what it saw; never the token itself.

`GET /stream?events=N` answers with server-sent events, one each `every_s`; every other target is echoed. A request whose token is refused
gets 401 with the reason before its body is read. It forwards nothing and holds no credential: a stand-in for a real broker.
"""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from robin.testing.connection import PeerLeft, ScriptedConnection
from robin.testing.inspection import TokenRefused, inspect_token
from robin.testing.message import MalformedRequest, RequestHead, parse_head, read_body
from robin.testing.server import ScriptedServer
from robin.transport.clock import Clock, SystemClock

IDLE_S = 75.0
EVENTS_MOST = 60
FAREWELL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRequest:
    """One request as the broker judged it. `reason` is None when it was accepted; `fingerprint` is the token's sha256, first 12 digits."""

    method: str
    target: str
    status: int
    reason: str | None
    fingerprint: str | None
    claims: Mapping[str, Any]


class DemoBroker(ScriptedServer):
    """`async with DemoBroker(jwks=authority.jwks, issuer=..., audience=...) as broker:`; `on_request` is called with each request."""

    def __init__(
        self,
        *,
        jwks: Callable[[], Mapping[str, Any]],
        issuer: str,
        audience: str,
        port: int = 0,
        clock: Clock | None = None,
        every_s: float = 1.0,
        on_request: Callable[[JudgedRequest], None] | None = None,
    ) -> None:
        super().__init__(self._serve, port=port, keep_bytes=0, patience_s=IDLE_S)
        self._jwks = jwks
        self._issuer = issuer
        self._audience = audience
        self._clock = clock or SystemClock()
        self._every_s = every_s
        self._on_request = on_request or (lambda _: None)

    async def _serve(self, connection: ScriptedConnection) -> None:
        try:
            while await self._serve_one(connection):
                pass
        except MalformedRequest:
            await _dismiss(connection, _reply(400, {"error": "malformed request"}, persistent=False))
        except (TimeoutError, ValueError):
            return

    async def _serve_one(self, connection: ScriptedConnection) -> bool:
        """Serve one request. Returns True if the connection can be reused."""
        request = parse_head(await connection.read_until(b"\r\n\r\n"))
        persistent = request.version == b"HTTP/1.1" and b"close" not in [value.lower() for value in request.values(b"connection")]
        judged = self._judge(request)
        self._on_request(judged)
        if judged.reason is not None:
            await _dismiss(connection, _reply(401, {"error": "invalid_token", "reason": judged.reason}, persistent=False))
            return False
        if b"100-continue" in [value.lower() for value in request.values(b"expect")]:
            await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        digest, sizes = hashlib.sha256(), [0]

        def hear(piece: bytes) -> None:
            sizes[0] += len(piece)
            digest.update(piece)

        trailers = await read_body(connection, request.fields, body=hear)
        path, _, query = request.target.partition(b"?")
        if request.method == b"GET" and path == b"/stream" and request.version == b"HTTP/1.1":
            await self._stream(connection, judged, query)
            return persistent
        seen = self._echo(request, judged)
        seen["request"]["trailers"] = [_shown(name, value, judged) for name, value in trailers]
        seen["request"]["body"] = {"bytes": sizes[0], "sha256": digest.hexdigest()}
        reply = _reply(200, seen, persistent=persistent)
        await connection.send(reply[: reply.index(b"\r\n\r\n") + 4] if request.method == b"HEAD" else reply)
        return persistent

    def _judge(self, request: RequestHead) -> JudgedRequest:
        shown = request.values(b"authorization")
        scheme, _, token = shown[0].partition(b" ") if len(shown) == 1 else (b"", b"", b"")
        claims: Mapping[str, Any] = {}
        reason, fingerprint = None, None
        if len(shown) != 1:
            reason = "missing" if not shown else "repeated"
        elif scheme.lower() != b"bearer":
            reason = "scheme"
        else:
            fingerprint = fingerprint_of(token)
            try:
                claims = inspect_token(token, jwks=self._jwks(), issuer=self._issuer, audience=self._audience, now=self._clock.wall())
            except TokenRefused as refused:
                reason = refused.reason
        return JudgedRequest(
            method=request.method.decode("latin-1"),
            target=request.target.decode("latin-1"),
            status=200 if reason is None else 401,
            reason=reason,
            fingerprint=fingerprint,
            claims=claims,
        )

    def _echo(self, request: RequestHead, judged: JudgedRequest) -> dict[str, Any]:
        return {
            "identity": {
                "verified": ["signature", "issuer", "audience", "expiry"],
                "expires_in_s": round(judged.claims["exp"] - self._clock.wall(), 1),
                "token_sha256": judged.fingerprint,
                "claims": judged.claims,
            },
            "request": {
                "method": judged.method,
                "target": judged.target,
                "fields": [_shown(name, value, judged) for name, value in request.fields],
            },
        }

    async def _stream(self, connection: ScriptedConnection, judged: JudgedRequest, query: bytes) -> None:
        name, _, asked = query.partition(b"=")
        count = min(int(asked), EVENTS_MOST) if name == b"events" and asked.isdigit() and len(asked) < 9 else 5
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n"
        await connection.send(head.encode())
        for number in range(1, count + 1):
            event = json.dumps({"event": number, "of": count, "sub": judged.claims.get("sub"), "token_sha256": judged.fingerprint})
            text = f"data: {event}\n\n".encode()
            await connection.send(b"%x\r\n%s\r\n" % (len(text), text))
            if number < count:
                await asyncio.sleep(self._every_s)
            if connection.ended is not None:
                raise PeerLeft("the reader of the stream left")
        await connection.send(b"0\r\n\r\n")


def fingerprint_of(token: bytes) -> str:
    """The first 12 hex digits of the token's sha256: enough to tell tokens apart, nothing to use."""
    return hashlib.sha256(token).hexdigest()[:12]


async def _dismiss(connection: ScriptedConnection, reply: bytes) -> None:
    """Send the last answer and FIN, then read what still comes for a while, so that a reset does not overtake the answer."""
    await connection.send(reply)
    connection.half_close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_S):
            await connection.wait_ended()


def _shown(name: bytes, value: bytes, judged: JudgedRequest) -> str:
    """A field line as it came, but for the token."""
    if name.lower() == b"authorization":
        value = f"Bearer (hidden, sha256 {judged.fingerprint})".encode()
    return (name + b": " + value).decode("latin-1")


def _reply(status: int, document: Mapping[str, Any], *, persistent: bool) -> bytes:
    body = json.dumps(document, indent=2).encode() + b"\n"
    reasons = {200: "OK", 400: "Bad Request", 401: "Unauthorized"}
    lines = [
        f"HTTP/1.1 {status} {reasons[status]}",
        "Content-Type: application/json",
        "Cache-Control: no-store",
        f"Content-Length: {len(body)}",
        *([] if persistent else ["Connection: close"]),
        *(['WWW-Authenticate: Bearer error="invalid_token"'] if status == 401 else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body
