"""The one door out: from a Permit to a connected stream, all addresses of the name as one attempt (RFC 8305), TLS verified.

Never dials without a Permit; never dials our own listeners; ignores every proxy variable; asks DNS again for each connection.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Final, TypeVar

from robin.model.address import is_loopback
from robin.model.exhaustion import EXHAUSTED
from robin.model.faults import Fault
from robin.model.verdict import Permit
from robin.transport.resolve import Resolver, SocketAddress
from robin.transport.stream import Stream
from robin.transport.tls import UpstreamTls, tls_fault
from robin.transport.valve import secure

_STAGGER_S: Final = 0.25
_NOTHING_LEFT: Final = EXHAUSTED | {errno.EAGAIN}  # no free local port (connect(2))
_UNROUTABLE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM, errno.ENETDOWN})

AnyStream = TypeVar("AnyStream", bound=Stream)


class Dialer:
    """Connects streams. `own` says whether an address and port belong to one of our own listeners."""

    __slots__ = ("_connect_s", "_loop", "_own", "_resolver", "_tls")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        tls: UpstreamTls | None,
        connect_s: float,
        own: Callable[[str, int], bool],
        resolver: Resolver | None = None,
    ) -> None:
        self._loop = loop
        self._tls = tls
        self._connect_s = connect_s
        self._own = own
        self._resolver = resolver or Resolver(loop)

    async def dial(self, permit: Permit, build: Callable[[], AnyStream]) -> AnyStream:
        """A connected stream to `permit.endpoint`, made by `build()`. DNS, TCP and TLS share one deadline. Raises Fault."""
        origin = permit.endpoint.origin
        tls = self._tls if origin.tls else None
        phase = "dns_timeout"
        sock = None
        try:
            async with asyncio.timeout(self._connect_s or None):
                addresses = await self._resolve(origin.host, origin.port)
                phase = "connect_timeout"
                sock = await self._connect(addresses)
                if tls is None:
                    _, stream = await self._loop.create_connection(build, sock=sock)
                else:
                    phase = "tls"
                    stream = await secure(self._loop, sock, build, tls.context, origin.host, limit_s=self._connect_s)
                sock = None
                return stream
        except TimeoutError:
            code = "dns_timeout" if phase == "dns_timeout" else "connect_timeout"
            raise Fault(code, f"{code}: no connection within ROBIN_UPSTREAM_CONNECT_TIMEOUT") from None
        except ssl.SSLError as error:
            raise tls_fault(error) from None
        except OSError as error:
            raise _connect_fault(error, handshake=phase == "tls") from None
        finally:
            if sock is not None:
                sock.close()

    async def _resolve(self, host: str, port: int) -> list[SocketAddress]:
        try:
            found = await self._resolver.resolve(host, port)
        except (socket.gaierror, UnicodeError):
            raise Fault("dns_failed", "dns_failed: the name in ROBIN_UPSTREAM_URL does not resolve") from None
        if host == "localhost":  # cleartext may go there: whatever a name server says of it, it is this machine (RFC 6761 6.3)
            found = [entry for entry in found if is_loopback(entry[1][0])]
        if not found:
            raise Fault("dns_failed", "dns_failed: the name in ROBIN_UPSTREAM_URL has no address")
        return found

    async def _connect(self, addresses: list[SocketAddress]) -> socket.socket:
        """The first address that accepts; each next one starts 250 ms after the last, or as soon as that one failed."""
        if any(self._own(host, port) for _, (host, port) in addresses):
            raise Fault("loop", "own_address: ROBIN_UPSTREAM_URL leads back to this Robin")
        if len(addresses) == 1:
            return await self._connect_one(addresses[0])
        waiting = list(addresses)
        pending: set[asyncio.Task[socket.socket]] = set()
        late: list[asyncio.Task[socket.socket]] = []
        error: BaseException = OSError(errno.EADDRNOTAVAIL, "no address")
        try:
            while waiting or pending:
                if waiting:
                    pending.add(self._loop.create_task(self._connect_one(waiting.pop(0))))
                done, pending = await asyncio.wait(pending, timeout=_STAGGER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED)
                late += [task for task in done if task.exception() is None]
                error = next((task.exception() or error for task in done), error)
                if late:
                    return late.pop().result()
            raise error
        finally:
            for task in pending:
                task.cancel()
            for outcome in await asyncio.gather(*pending, *late, return_exceptions=True):
                if isinstance(outcome, socket.socket):
                    outcome.close()

    async def _connect_one(self, address: SocketAddress) -> socket.socket:
        family, place = address
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(sock, place)
        except BaseException:
            sock.close()
            raise
        return sock


def _connect_fault(error: OSError, *, handshake: bool) -> Fault:
    if error.errno in _NOTHING_LEFT:
        return Fault("limit_connections", "descriptors: this Robin can open no more; raise `ulimit -n` or lower ROBIN_MAX_CONNECTIONS")
    if handshake:
        return Fault("upstream_tls", "alert: the upstream closed the connection during the TLS handshake")
    if error.errno in _UNROUTABLE:
        return Fault("unroutable", "unroutable: no route to the address of ROBIN_UPSTREAM_URL")
    return Fault("connect_refused", "connect_refused: nothing listens at ROBIN_UPSTREAM_URL")
