"""A small loopback server: each accepted connection runs a script, is counted while it lives, and ends when its script ends."""

import asyncio
import contextlib
import socket
import ssl
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Self

from robin.testing.connection import KEEP_BYTES, WINDOW_BYTES, PeerLeft, ScriptedConnection
from robin.transport.tasks import TaskOwner

Script = Callable[[ScriptedConnection], Awaitable[None]]
FAILURES_KEPT = 100


def hold_port(host: str, port: int = 0) -> socket.socket:
    """Bind a port without listening, so that the kernel gives it to nothing that asks for any port.

    A connection to it is refused. A server that sets SO_REUSEADDR can still bind it by its number. Raises OSError for a port in use.
    """
    holder = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((host, port))
    except BaseException:
        holder.close()
        raise
    return holder


@contextlib.contextmanager
def black_hole(host: str, port: int) -> Iterator[None]:
    """The kernel drops each SYN to this place: the queue of the listener is full, and nothing is accepted."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((host, port))
        yield


class ScriptedServer:
    """Listens between `start` and `close`. The peer's leaving ends a script quietly; other errors are kept and raised by `close`."""

    def __init__(
        self,
        script: Script,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        keep_bytes: int = KEEP_BYTES,
        window_bytes: int = WINDOW_BYTES,
        patience_s: float = 10.0,
    ) -> None:
        self.script = script
        self.tls = tls
        self.host = host
        self.port = port
        self.live: set[ScriptedConnection] = set()
        self._left: weakref.WeakSet[ScriptedConnection] = weakref.WeakSet()  # their scripts have ended; the peer may not have noticed
        self.failures: deque[BaseException] = deque(maxlen=FAILURES_KEPT)
        self._keep_bytes = keep_bytes
        self._window_bytes = window_bytes
        self._patience_s = patience_s
        self._tasks = TaskOwner(lambda _, error: self.failures.append(error))
        self._server: asyncio.Server | None = None
        self._holder: socket.socket | None = None

    @property
    def url(self) -> str:
        """`http://` or `https://` with the literal address."""
        return self.url_as(f"[{self.host}]" if ":" in self.host else self.host)

    def url_as(self, name: str) -> str:
        """The URL by another name, such as `localhost`."""
        return f"{'https' if self.tls else 'http'}://{name}:{self.port}"

    async def start(self) -> Self:
        """Listen; the second time on the same port as the first."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, self.host, self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self._release()
        return self

    async def stop_listening(self) -> None:
        """Refuse new connections; open ones go on. `start` listens again."""
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)  # the loop closes the listening socket in its next turn
            self._holder = hold_port(self.host, self.port)

    async def close(self) -> None:
        """Stop listening, end scripts, drop connections, then raise what went wrong in a script."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._release()
        await self._tasks.close()
        for connection in (*self.live, *self._left):
            connection.transport.abort()
        if self.failures:
            raise BaseExceptionGroup("a script of the server failed", list(self.failures))

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self.close()
        except BaseExceptionGroup as failures:
            if error is None:
                raise
            error.add_note(f"a script of the server failed too: {failures.exceptions!r}")

    def accepted(self, connection: ScriptedConnection) -> None:
        """Called with each connection before its script runs; it is in `live` until its script has ended."""

    def _release(self) -> None:
        if self._holder is not None:
            self._holder.close()
            self._holder = None

    def _protocol(self) -> ScriptedConnection:
        return ScriptedConnection(
            self._accept,
            tls=self.tls is not None,
            keep_bytes=self._keep_bytes,
            window_bytes=self._window_bytes,
            patience_s=self._patience_s,
        )

    def _accept(self, connection: ScriptedConnection) -> None:
        self.live.add(connection)
        self.accepted(connection)
        self._tasks.start(self._run(connection), f"script {connection.index}")

    async def _run(self, connection: ScriptedConnection) -> None:
        try:
            await self.script(connection)
        except PeerLeft:
            pass
        finally:
            connection.ended = connection.ended or "closed"
            connection.transport.close()
            self.live.discard(connection)
            self._left.add(connection)
