"""An upstream of ours for real clients: it verifies the identity of every request, finds any placeholder key, and lets a route answer.

A route is `async def route(exchange: Exchange) -> None`. A token that is no good, or a placeholder that came through, is an error of the
server, which fails the test when the server is closed.
"""

import asyncio
import hashlib
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from robin.testing.authority import IdentityAuthority
from robin.testing.connection import ScriptedConnection
from robin.testing.inspection import inspect_token
from robin.testing.message import Fields, RequestHead, parse_head, read_body
from robin.testing.server import ScriptedServer

AUDIENCE = "broker.test"
PLACEHOLDER = "placeholder-not-a-key"  # what a client holds in place of a credential
PATIENCE_S = 75.0
BODY_LIMIT_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request that had a good token; `token` is its fingerprint."""

    head: RequestHead
    token: str

    @property
    def method(self) -> str:
        return self.head.method.decode()

    @property
    def target(self) -> str:
        return self.head.target.decode("latin-1")

    def value(self, name: str) -> str | None:
        """The value of the one field with this name."""
        found = self.head.values(name.encode())
        assert len(found) < 2, f"{name} {len(found)} times"
        return found[0].decode("latin-1") if found else None


class Exchange:
    """One request and the way to answer it. A route that does not read the body must answer with `close=True`."""

    def __init__(self, connection: ScriptedConnection, seen: Seen) -> None:
        self.connection = connection
        self.seen = seen
        self.method = seen.method
        parts = urlsplit(seen.target)
        self.path = unquote(parts.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.trailers: Fields = ()
        self.closing = False

    async def hash_body(self, keep: Callable[[bytes], object] = lambda _: None) -> dict[str, Any]:
        """Read the whole body, after a 100 where one is expected; its size and sha256."""
        if (self.seen.value("Expect") or "").lower() == "100-continue":
            await self.interim(100, "Continue")
        digest = hashlib.sha256()
        size = 0

        def take(piece: bytes) -> None:
            nonlocal size
            size += len(piece)
            assert size <= BODY_LIMIT_BYTES, "a body beyond all measure"
            digest.update(piece)
            keep(piece)

        self.trailers = await read_body(self.connection, self.seen.head.fields, body=take)
        return {"bytes": size, "sha256": digest.hexdigest()}

    async def body(self) -> bytes:
        """The whole body."""
        parts: list[bytes] = []
        await self.hash_body(parts.append)
        return b"".join(parts)

    async def interim(self, status: int, reason: str, *fields: tuple[str, str]) -> None:
        """A 1xx response."""
        await self.connection.send(_head(status, reason, fields))

    async def reply(self, status: int, body: bytes = b"", *fields: tuple[str, str], close: bool = False) -> None:
        """A final response with Content-Length."""
        self.closing = self.closing or close
        ending = [("Connection", "close")] if close else []
        head = _head(status, "Answer", [*fields, ("Content-Length", str(len(body))), *ending])
        await self.connection.send(head if self.method == "HEAD" else head + body)

    async def tell(self, document: Any, *fields: tuple[str, str], status: int = 200) -> None:
        """A JSON document."""
        await self.reply(status, json.dumps(document).encode(), ("Content-Type", "application/json"), *fields)

    async def begin_chunked(self, *fields: tuple[str, str]) -> None:
        """The head of a chunked response."""
        await self.connection.send(_head(200, "OK", [*fields, ("Transfer-Encoding", "chunked")]))

    async def chunk(self, piece: bytes) -> None:
        """One chunk, at once."""
        await self.connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await asyncio.sleep(0)  # a route that sends for ever must let the loop notice that the peer left

    async def end_chunked(self, *trailers: tuple[str, str]) -> None:
        """The last chunk."""
        await self.connection.send(b"0\r\n" + b"".join(f"{name}: {value}\r\n".encode() for name, value in trailers) + b"\r\n")


Route = Callable[[Exchange], Awaitable[None]]


class GuardedServer(ScriptedServer):
    """`async with GuardedServer(authority, route, tls=...) as server:`; `seen` has every request in order."""

    def __init__(self, authority: IdentityAuthority, route: Route, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(self._serve, tls=tls, keep_bytes=0, patience_s=PATIENCE_S)
        self.seen: list[Seen] = []
        self.route = route
        self._authority = authority

    @property
    def tokens(self) -> list[str]:
        """Fingerprints of the tokens, in the order of their first coming."""
        return list(dict.fromkeys(one.token for one in self.seen))

    def of(self, path: str) -> list[Seen]:
        """The requests for this path."""
        return [one for one in self.seen if urlsplit(one.target).path == path]

    async def _serve(self, connection: ScriptedConnection) -> None:
        while True:
            try:
                head = parse_head(await connection.read_until(b"\r\n\r\n"))
            except TimeoutError:
                return
            exchange = Exchange(connection, Seen(head=head, token=judge(self._authority, head)))
            self.seen.append(exchange.seen)
            await self.route(exchange)
            if exchange.closing:
                return


def judge(authority: IdentityAuthority, head: RequestHead) -> str:
    """The fingerprint of the one good token; AssertionError or TokenRefused for anything else."""
    assert PLACEHOLDER.encode() not in head.head, f"the placeholder came through: {head.head!r}"
    lines = head.values(b"authorization")
    assert len(lines) == 1, f"{len(lines)} Authorization lines"
    scheme, _, token = lines[0].partition(b" ")
    assert scheme == b"Bearer"
    inspect_token(token, jwks=authority.jwks(), issuer=authority.issuer, audience=AUDIENCE, now=time.time())
    return hashlib.sha256(token).hexdigest()[:12]


def _head(status: int, reason: str, fields: Any) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {status} {reason}\r\n{lines}\r\n".encode("latin-1")
