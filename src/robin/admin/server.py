"""The admin listener's sockets: a small HTTP/1.1 listener of its own, so that probes are served whatever the proxy does.

It faces the pod network: heads of 8 KiB, 64 connections, 5 s for each head and each response, one request at a time per connection. At the
limit the oldest connection is closed, so that idle peers cannot keep the kubelet's probe out. It never forwards anything, and
no byte of a request gets into a log.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

from robin.admin.pages import BROKEN, OVERSIZED, Page, Pages, Response, refuse
from robin.admin.readiness import Readiness
from robin.admin.shared_scrape import SharedScrape
from robin.model.address import is_loopback
from robin.model.faults import Fault
from robin.model.message import Framing, RequestHead
from robin.telemetry.logs import EventLog, stack_of
from robin.transport.listen import Acceptor, BoundSocket
from robin.transport.tasks import TaskOwner
from robin.wire.http1 import parse_request

HEAD_BYTES: Final = 8192
CONNECTIONS: Final = 64
WAIT_S: Final = 5.0
LINGER_S: Final = 1.0
LINGER_READS: Final = 32
_FIELDS_MAX: Final = 100


class AdminServer:
    """Serves the pages on sockets that are bound and listening; they stay their owner's."""

    __slots__ = ("_acceptors", "_bounds", "_events", "_fatal", "_open", "_owner", "_pages", "_wait_s", "_wall")

    def __init__(
        self,
        bounds: Sequence[BoundSocket],
        *,
        status: Callable[[], Readiness],
        scrape: Callable[[str], tuple[str, bytes]],
        begin_drain: Callable[[], None] | None,
        wall: Callable[[], float],
        events: EventLog,
        fatal: Callable[[str, OSError], None],
        pages: Mapping[bytes, Page] = MappingProxyType({}),
        wait_s: float = WAIT_S,
    ) -> None:
        """`begin_drain` may be called again and again; None: no /quitquitquit. `fatal(label, error)`: a listener died.

        `pages` are more, by path.
        """
        self._bounds = tuple(bounds)
        self._pages = Pages(status=status, scrape=SharedScrape(scrape), begin_drain=begin_drain, more=pages)
        self._wall = wall
        self._events = events
        self._fatal = fatal
        self._wait_s = wait_s
        self._owner = TaskOwner(self._failed)
        self._open: dict[asyncio.Task[None], None] = {}  # oldest first
        self._acceptors: list[Acceptor] = []

    def start(self) -> None:
        """Begin to accept connections."""
        loop = asyncio.get_running_loop()
        for bound in self._bounds:
            acceptor = Acceptor(loop, bound, self._take, self._exhausted, self._fatal)
            acceptor.start()
            self._acceptors.append(acceptor)

    async def close(self) -> None:
        """Stop accepting and end every connection; what was written is still sent."""
        for acceptor in self._acceptors:
            acceptor.stop()
        await self._owner.close()

    def _exhausted(self, code: str, text: str) -> None:
        self._events.error("accept_failed", code=code, detail=text)

    def _failed(self, _: str, error: BaseException) -> None:
        self._events.error("admin_failed", code=type(error).__name__, stack=stack_of(error))

    def _take(self, sock: socket.socket, bound: BoundSocket) -> None:
        if len(self._open) >= CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
        sock.setblocking(False)
        task = self._owner.start(self._serve(sock, local=bound.unix or _from_here(sock)), "admin connection")
        self._open[task] = None
        task.add_done_callback(lambda ended: self._open.pop(ended, None))

    async def _serve(self, sock: socket.socket, *, local: bool) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(HEAD_BYTES, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock)
        except BaseException:
            sock.close()
            raise
        transport.set_write_buffer_limits(0)  # drain() waits until the kernel has it all
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            while await self._serve_next(reader, writer, local=local):
                pass
            await self._linger(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass  # too slow, or gone
        finally:
            transport.abort()  # all was sent, or the peer does not read it

    async def _serve_next(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, local: bool) -> bool:
        """Serve one request. Returns True if another may follow on this connection."""
        head: RequestHead | None = None
        try:
            async with asyncio.timeout(self._wait_s):
                head = parse_request(await reader.readuntil(b"\r\n\r\n"), target_bytes=HEAD_BYTES, fields_max=_FIELDS_MAX)
                if head.framing == Framing.LENGTH and head.length <= HEAD_BYTES:
                    await reader.readexactly(head.length)  # the body is not used; the next head follows it
        except asyncio.LimitOverrunError:
            response = OVERSIZED
        except Fault as fault:
            response = refuse(fault)
        else:
            response = self._respond(head, local=local)
        again = head is not None and head.keep_alive and head.framing != Framing.CHUNKED and head.length <= HEAD_BYTES
        async with asyncio.timeout(self._wait_s):
            writer.write(_render(response, again=again, bodiless=head is not None and head.method == "HEAD", wall=self._wall()))
            await writer.drain()
        await asyncio.sleep(0)  # what is pipelined leaves a turn to others
        return again

    async def _linger(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Close our side first and read what still comes, so that no reset overtakes the last response (RFC 9112 9.6)."""
        if writer.can_write_eof():
            writer.write_eof()
        async with asyncio.timeout(LINGER_S):
            for _ in range(LINGER_READS):
                if not await reader.read(HEAD_BYTES):
                    return

    def _respond(self, head: RequestHead, *, local: bool) -> Response:
        try:
            return self._pages.respond(head, local=local)
        except Exception as error:  # noqa: BLE001 - a page that fails must not end the listener; the event log has its stack
            self._failed("", error)
            return BROKEN


def _render(response: Response, *, again: bool, bodiless: bool, wall: float) -> bytes:
    lines = [
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime(wall))}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        "Cache-Control: no-store",
        f"Connection: {'keep-alive' if again else 'close'}",
    ]
    if response.allow is not None:
        lines.append(f"Allow: {response.allow}")
    head = "\r\n".join([*lines, "", ""]).encode("ascii")
    return head if bodiless else head + response.body


def _from_here(sock: socket.socket) -> bool:
    """Return True if the peer is on this machine; a peer that is gone counts as elsewhere."""
    try:
        return is_loopback(sock.getpeername()[0])
    except OSError:
        return False
