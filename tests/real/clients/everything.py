"""Routes that general HTTP clients are put through: echo, files with ranges, redirects, streams, expectations, trailers, early answers."""

import asyncio
import gzip
import hashlib
import re
from collections.abc import Awaitable, Callable

from tests.real.parts.guarded import Exchange

LARGE = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(131_072))  # 4 MiB, no part like another
ETAG = '"robin-large"'


class Everything:
    """`Everything().route` for a GuardedServer. `half_way` is set in the middle of /paused, which goes on once `go_on` is set."""

    def __init__(self) -> None:
        self.half_way = asyncio.Event()
        self.go_on = asyncio.Event()
        self.left_early = 0
        self._routes: dict[str, Callable[[Exchange], Awaitable[None]]] = {
            "/echo": self._echo,
            "/large": self._large,
            "/gzip": self._gzip,
            "/redirect": self._redirect,
            "/status": self._status,
            "/paused": self._paused,
            "/endless": self._endless,
            "/trailers": self._trailers,
            "/hints": self._hints,
            "/refuse-early": self._refuse_early,
            "/cookies": self._cookies,
            "/until-close": self._until_close,
        }

    async def route(self, exchange: Exchange) -> None:
        """Answer one request."""
        chosen = self._routes.get(exchange.path)
        if chosen is None:
            await exchange.hash_body()
            await exchange.reply(404, b"nothing here")
        else:
            await chosen(exchange)

    async def _echo(self, exchange: Exchange) -> None:
        body = await exchange.hash_body()
        fields = [
            [name.decode("latin-1"), value.decode("latin-1")] for name, value in exchange.seen.head.fields if name != b"Authorization"
        ]
        trailers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in exchange.trailers]
        await exchange.tell(
            {"method": exchange.method, "target": exchange.seen.target, "fields": fields, "body": body, "trailers": trailers}
        )

    async def _large(self, exchange: Exchange) -> None:
        """GET and HEAD with one byte range (RFC 9110 14)."""
        await exchange.hash_body()
        usual = (("ETag", ETAG), ("Accept-Ranges", "bytes"), ("Content-Type", "application/octet-stream"))
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", exchange.seen.value("Range") or "")
        if wanted is None:
            await exchange.reply(200, LARGE, *usual)
            return
        first, last = wanted[1], wanted[2]
        begin = int(first) if first else len(LARGE) - int(last)
        end = min(int(last), len(LARGE) - 1) if first and last else len(LARGE) - 1
        if begin >= len(LARGE):
            await exchange.reply(416, b"", ("Content-Range", f"bytes */{len(LARGE)}"))
        else:
            await exchange.reply(206, LARGE[begin : end + 1], ("Content-Range", f"bytes {begin}-{end}/{len(LARGE)}"), *usual)

    async def _gzip(self, exchange: Exchange) -> None:
        await exchange.hash_body()
        assert "gzip" in (exchange.seen.value("Accept-Encoding") or "")
        await exchange.reply(200, gzip.compress(b"plain words " * 1000), ("Content-Encoding", "gzip"), ("Content-Type", "text/plain"))

    async def _redirect(self, exchange: Exchange) -> None:
        await exchange.hash_body()
        await exchange.reply(int(exchange.query.get("status", "302")), b"over there", ("Location", exchange.query.get("to", "/echo")))

    async def _status(self, exchange: Exchange) -> None:
        await exchange.hash_body()
        status = int(exchange.query["is"])
        if status in {204, 304}:
            await exchange.interim(status, "Bodiless", ("ETag", ETAG))
        else:
            await exchange.reply(status, b"status body")

    async def _paused(self, exchange: Exchange) -> None:
        await exchange.hash_body()
        await exchange.begin_chunked(("Content-Type", "text/event-stream"))
        await exchange.chunk(b"data: first\n\n")
        self.half_way.set()
        await self.go_on.wait()
        await exchange.chunk(b"data: second\n\n")
        await exchange.end_chunked()

    async def _endless(self, exchange: Exchange) -> None:
        await exchange.hash_body()
        await exchange.begin_chunked()
        try:
            while True:
                await exchange.chunk(b"on and on " * 1000)
        except ConnectionError:
            self.left_early += 1
            raise

    async def _trailers(self, exchange: Exchange) -> None:
        await exchange.hash_body()
        await exchange.begin_chunked(("Trailer", "X-Sum"))
        await exchange.chunk(b"summed")
        await exchange.end_chunked(("X-Sum", hashlib.sha256(b"summed").hexdigest()))

    async def _hints(self, exchange: Exchange) -> None:
        await exchange.interim(103, "Early Hints", ("Link", "</style.css>; rel=preload"))
        await exchange.hash_body()
        await exchange.reply(200, b"after the hints")

    async def _refuse_early(self, exchange: Exchange) -> None:
        """A final answer before the body is read: 413, then a lingering close (RFC 9112 9.6), so that no reset overtakes the answer."""
        await exchange.reply(413, b"too large for us", close=True)
        await exchange.connection.wait_ended()

    async def _cookies(self, exchange: Exchange) -> None:
        await exchange.hash_body()
        if exchange.seen.value("Cookie") is None:
            await exchange.reply(200, b"set", ("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2; Path=/"))
        else:
            await exchange.reply(200, (exchange.seen.value("Cookie") or "").encode())

    async def _until_close(self, exchange: Exchange) -> None:
        """A body that ends with the connection."""
        await exchange.hash_body()
        await exchange.connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n", LARGE)
        exchange.closing = True
