"""A server of JSON documents at fixed paths, such as OpenID discovery and JWKS: `GET` and `HEAD` only, rendered anew for each request."""

import json
from collections.abc import Callable, Mapping

from robin.testing.authority import IdentityAuthority
from robin.testing.connection import ScriptedConnection
from robin.testing.message import MalformedRequest, parse_head, read_body
from robin.testing.server import ScriptedServer

Document = Callable[[], Mapping[str, object]]


class DocumentServer(ScriptedServer):
    """`documents` maps a path to what makes its document; entries may be added while it runs."""

    def __init__(self, documents: Mapping[str, Document] | None = None, *, port: int = 0) -> None:
        super().__init__(self._serve, port=port, keep_bytes=0)
        self.documents = dict(documents or {})

    def publish(self, authority: IdentityAuthority) -> None:
        """Serve this authority's discovery document and keys where its issuer URL says they are."""
        self.documents["/.well-known/openid-configuration"] = authority.discovery
        self.documents["/openid/v1/jwks"] = authority.jwks

    async def _serve(self, connection: ScriptedConnection) -> None:
        try:
            while True:
                head = parse_head(await connection.read_until(b"\r\n\r\n"))
                await read_body(connection, head.fields, body=lambda _: None)
                await connection.send(self._answer(head.method, head.target.partition(b"?")[0].decode("latin-1")))
                if head.version != b"HTTP/1.1" or b"close" in [value.lower() for value in head.values(b"connection")]:
                    return
        except (MalformedRequest, TimeoutError, ValueError):
            return

    def _answer(self, method: bytes, path: str) -> bytes:
        if method not in {b"GET", b"HEAD"}:
            return b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD\r\nContent-Length: 0\r\n\r\n"
        if path not in self.documents:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        body = json.dumps(self.documents[path](), indent=2).encode() + b"\n"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        return head if method == b"HEAD" else head + body
