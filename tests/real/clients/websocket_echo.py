"""A WebSocket upstream made of the websockets library: it takes only handshakes with a good identity, and sends back what it gets."""

from types import TracebackType
from typing import Self

from tests.real.parts.guarded import judge
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from robin.testing.authority import IdentityAuthority
from robin.testing.inspection import TokenRefused
from robin.testing.message import RequestHead


class WebSocketEcho:
    """`async with WebSocketEcho(authority) as echo: echo.url`; `closes` has the close code of each connection that ended."""

    def __init__(self, authority: IdentityAuthority, *, limit_bytes: int = 80 << 20) -> None:
        self.tokens: list[str] = []
        self.closes: list[int | None] = []
        self._authority = authority
        self._limit_bytes = limit_bytes
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """As an upstream of Robin."""
        assert self._server is not None
        return f"http://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await serve(self._echo, "127.0.0.1", 0, process_request=self._admit, max_size=self._limit_bytes, ping_interval=None)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        fields = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.raw_items())
        raw = b"".join(b"%b: %b\r\n" % field for field in fields)
        head = RequestHead(head=raw, method=b"GET", target=request.path.encode(), version=b"HTTP/1.1", fields=fields)
        try:
            self.tokens.append(judge(self._authority, head))
        except (AssertionError, TokenRefused) as refused:
            return Response(401, "Unauthorized", Headers(), str(refused).encode())
        return None

    async def _echo(self, connection: ServerConnection) -> None:
        async for message in connection:
            if message == "are you there?":
                waiter = await connection.ping(b"and you?")
                await waiter
            await connection.send(message)
        self.closes.append(connection.close_code)
