"""A scriptable upstream on loopback, plain or TLS, that records the exact bytes of each connection.

A script is `async def script(connection: ScriptedConnection) -> None`, run once per connection; the connection closes when it returns. The
peer's leaving ends a script quietly; any other error in it, a MalformedRequest above all, is raised again when the upstream closes.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from robin.testing.connection import KEEP_BYTES, WINDOW_BYTES, PeerLeft, ScriptedConnection
from robin.testing.message import ReceivedRequest
from robin.transport.tasks import TaskOwner

Script = Callable[[ScriptedConnection], Awaitable[None]]


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


class RecordingUpstream:
    """`async with RecordingUpstream(script) as upstream:` listens on `upstream.url`; `script` may be replaced at any time."""

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
        self.script: Script = script or answer()
        self.tls = tls
        self.host = host
        self.port = port
        self.connections: list[ScriptedConnection] = []
        self.failures: list[BaseException] = []
        self._keep_bytes = keep_bytes
        self._window_bytes = window_bytes
        self._patience_s = patience_s
        self._accepted = asyncio.Event()
        self._tasks = TaskOwner(lambda _, error: self.failures.append(error))
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """`http://` or `https://` with the literal address."""
        return self.url_as(f"[{self.host}]" if ":" in self.host else self.host)

    def url_as(self, name: str) -> str:
        """The URL by another name, such as `localhost`."""
        return f"{'https' if self.tls else 'http'}://{name}:{self.port}"

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every whole request that scripts have read, by connection."""
        return [request for connection in self.connections for request in connection.requests]

    async def start(self) -> Self:
        """Listen; the second time on the same port as the first."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, self.host, self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop_listening(self) -> None:
        """Refuse new connections; open ones go on. `start` listens again."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def connection(self, index: int = 0, *, timeout_s: float = 10.0) -> ScriptedConnection:
        """The index-th accepted connection, waiting for it."""
        async with asyncio.timeout(timeout_s):
            while len(self.connections) <= index:
                self._accepted.clear()
                await self._accepted.wait()
        return self.connections[index]

    async def close(self) -> None:
        """Stop listening, end scripts, drop connections, then raise what went wrong in a script."""
        await self.stop_listening()
        await self._tasks.close()
        for connection in self.connections:
            connection.transport.abort()
        if self.failures:
            raise BaseExceptionGroup("the upstream's script failed", self.failures)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self.close()
        except BaseExceptionGroup as failures:
            if error is None:
                raise
            error.add_note(f"the upstream's script failed too: {failures.exceptions!r}")

    def _protocol(self) -> ScriptedConnection:
        return ScriptedConnection(
            self._accept,
            tls=self.tls is not None,
            keep_bytes=self._keep_bytes,
            window_bytes=self._window_bytes,
            patience_s=self._patience_s,
        )

    def _accept(self, connection: ScriptedConnection) -> None:
        connection.index = len(self.connections)
        self.connections.append(connection)
        self._accepted.set()
        self._tasks.start(self._run(connection), f"script {connection.index}")

    async def _run(self, connection: ScriptedConnection) -> None:
        try:
            await self.script(connection)
        except PeerLeft:
            pass
        finally:
            connection.ended = connection.ended or "closed"
            connection.transport.close()
