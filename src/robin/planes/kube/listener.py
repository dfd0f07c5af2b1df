"""The TLS of the listener: a certificate of the client is asked for and verified, but a bearer will do; who is connected is noted."""

import asyncio
import socket

from robin.planes.kube.exchange import Connected
from robin.proxy.downstream import Downstream
from robin.transport.tls_server import ServerTls
from robin.transport.tls_stream import accept_tls, peer_certificate

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
        async with asyncio.timeout(_HANDSHAKE_S):
            await accept_tls(self._loop, sock, downstream, self._tls.context)
        caller = downstream.caller
        downstream.caller = Connected(
            evidence=caller.evidence,
            listener=caller.listener,
            address=address,
            certificate=peer_certificate(downstream),
            reset=downstream.reset,
            end=downstream.end_response,
        )


def _peer_of(sock: socket.socket) -> str:
    try:
        name = sock.getpeername()
    except OSError:
        return ""
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else ""
