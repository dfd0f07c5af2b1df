"""A scriptable upstream on loopback, plain or TLS, that records the exact bytes of each connection.

A script is `async def script(connection: ScriptedConnection) -> None`, run once per connection; the connection closes when it returns. The
peer's leaving ends a script quietly; any other error in it, a MalformedRequest above all, is raised again when the upstream closes.
"""

import asyncio
import ssl

from robin.testing.connection import KEEP_BYTES, WINDOW_BYTES, ScriptedConnection
from robin.testing.message import ReceivedRequest
from robin.testing.server import Script, ScriptedServer


def response(status: int = 200, body: bytes = b"", *fields: tuple[str, str], reason: str = "OK") -> bytes:
    """One response with Content-Length; `fields` come before it, in order."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {status} {reason}\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


def answer(*responses: bytes, close: bool = False) -> Script:
    """Answer the n-th request of the whole upstream with the n-th response, the last one for ever; `close` after each."""
    replies = list(responses or (response(),))

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await connection.send(replies.pop(0) if len(replies) > 1 else replies[0])
            if close:
                return

    return script


async def hold(connection: ScriptedConnection) -> None:
    """Read everything, answer nothing, until the peer leaves."""
    await connection.wait_ended()


class RecordingUpstream(ScriptedServer):
    """`async with RecordingUpstream(script) as upstream:` listens on `upstream.url`; `script` may be replaced at any time.

    Every connection ever accepted stays in `connections`: for tests, which end.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        keep_bytes: int = KEEP_BYTES,
        window_bytes: int = WINDOW_BYTES,
        patience_s: float = 10.0,
    ) -> None:
        super().__init__(
            script or answer(), tls=tls, host=host, port=port, keep_bytes=keep_bytes, window_bytes=window_bytes, patience_s=patience_s
        )
        self.connections: list[ScriptedConnection] = []
        self._arrived = asyncio.Event()

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every whole request that scripts have read, by connection."""
        return [request for connection in self.connections for request in connection.requests]

    async def connection(self, index: int = 0, *, timeout_s: float = 10.0) -> ScriptedConnection:
        """The index-th accepted connection, waiting for it."""
        async with asyncio.timeout(timeout_s):
            while len(self.connections) <= index:
                self._arrived.clear()
                await self._arrived.wait()
        return self.connections[index]

    def accepted(self, connection: ScriptedConnection) -> None:
        """Keep it, numbered."""
        connection.index = len(self.connections)
        self.connections.append(connection)
        self._arrived.set()
