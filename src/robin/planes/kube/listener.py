"""The TLS of the listener: a certificate of the client is asked for and verified, but a bearer will do; who is connected is noted."""

import asyncio
import socket

from robin.planes.kube.exchange import Connected
from robin.proxy.downstream import Downstream
from robin.transport.tls_server import ServerTls
from robin.transport.tls_stream import peer_certificate
from robin.transport.tls_transport import TlsTransport

_HANDSHAKE_S = 10.0


class TlsOpener:
    """A `proxy.connection.Open`."""

    __slots__ = ("_loop", "_tls")

    def __init__(self, loop: asyncio.AbstractEventLoop, tls: ServerTls) -> None:
        self._loop = loop
        self._tls = tls

    async def __call__(self, sock: socket.socket, downstream: Downstream) -> None:
        """Shake hands within ten seconds. Raises OSError."""
        address = _peer_of(sock)
        tls = TlsTransport(self._loop, lambda: downstream, self._tls.context)
        opened = tls.opened
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                await self._loop.connect_accepted_socket(lambda: tls, sock)
                await opened
        except BaseException:
            opened.cancel()
            tls.abort()
            raise
        caller = downstream.caller
        downstream.caller = Connected(
            evidence=caller.evidence,
            listener=caller.listener,
            address=address,
            certificate=peer_certificate(downstream),
            reset=downstream.reset,
        )


def _peer_of(sock: socket.socket) -> str:
    try:
        name = sock.getpeername()
    except OSError:
        return ""
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else ""
