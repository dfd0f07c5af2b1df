"""Streams over TLS: from a connected socket, or on a stream that is open already, in either role; what a server sees before it decides."""

import asyncio
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine

from robin.model.address import ResolvedAddress
from robin.transport.stream import Stream, StreamClosed
from robin.transport.tls_transport import AnyStream, TlsTransport
from robin.wire.client_hello import ClientHello, ClientHelloReader


async def open_socket(loop: asyncio.AbstractEventLoop, protocol: asyncio.BaseProtocol, where: ResolvedAddress | socket.socket) -> None:
    """Connect this protocol: to an address, or by a socket that is connected already and is owned from now on. Raises OSError.

    The loop connects in a third of the time that a socket of Python takes (decision 0011). It has no audit event for that, so here is one.
    """
    if isinstance(where, ResolvedAddress):
        sys.audit("robin.connect", where.host, where.port)
        await loop.create_connection(lambda: protocol, where.host, where.port)
        return
    try:
        await loop.create_connection(lambda: protocol, sock=where)
    except BaseException:
        where.close()
        raise


async def connect_tls(
    loop: asyncio.AbstractEventLoop,
    where: ResolvedAddress | socket.socket,
    build: Callable[[], AnyStream],
    context: ssl.SSLContext,
    server_hostname: str,
) -> Coroutine[None, None, AnyStream]:
    """Connect like `open_socket`, and begin TLS as the client. Returns the end of the handshake, to be awaited at once for the stream.

    Both raise OSError; the end ssl.SSLError where TLS itself failed.
    """
    tls = TlsTransport(loop, build, context, server_hostname=server_hostname)
    opened = tls.opened
    try:
        await open_socket(loop, tls, where)
    except BaseException:
        opened.cancel()
        tls.abort()
        raise
    return _opened(tls, opened)


async def accept_tls(loop: asyncio.AbstractEventLoop, sock: socket.socket, stream: Stream, context: ssl.SSLContext) -> None:
    """Open an accepted socket, which is owned from now on, as this stream over TLS. The caller bounds the time.

    Raises like `connect_tls`.
    """
    tls = TlsTransport(loop, lambda: stream, context)
    opened = tls.opened
    try:
        await loop.connect_accepted_socket(lambda: tls, sock)
        await opened
    except BaseException:
        opened.cancel()
        tls.abort()
        raise


async def start_tls(
    loop: asyncio.AbstractEventLoop,
    stream: Stream,
    build: Callable[[], AnyStream],
    context: ssl.SSLContext,
    *,
    server_hostname: str | None = None,
) -> AnyStream:
    """Begin TLS on an open stream, plain or itself TLS, with what it received already; the result replaces it.

    With a `server_hostname` it begins as the client, else as the server. The caller bounds the time. Raises like `connect_tls`.
    """
    if stream.eof:
        raise ConnectionResetError
    tls = TlsTransport(loop, build, context, server_hostname=server_hostname)
    opened = tls.opened
    if stream.write_blocked:
        tls.pause_writing()
    transport, received = stream.detach()
    transport.pause_reading()  # a loop chooses how it reads for a protocol when reading begins
    transport.set_protocol(tls)
    tls.connection_made(transport)
    if received:
        tls.data_received(received)
    if not tls.is_closing():
        transport.resume_reading()
    return await _opened(tls, opened)


async def peek_client_hello(stream: Stream) -> ClientHello:
    """Wait for the first message of a TLS client and leave it in `received`, so that a context can be chosen by it for `start_tls`.

    Raises ClientHelloError; StreamClosed when the client leaves before; TimeoutError at the stream's deadline.
    """
    reader, seen = ClientHelloReader(), 0
    while True:
        fresh = bytes(stream.received[seen:])
        seen += len(fresh)
        if (hello := reader.feed(fresh)) is not None:
            return hello
        if not await stream.fill():
            raise StreamClosed


def peer_certificate(stream: Stream) -> bytes | None:
    """The verified certificate of the other end in DER; None where it showed none, or there is no TLS."""
    tls: ssl.SSLObject | None = stream.transport.get_extra_info("ssl_object")
    return None if tls is None else tls.getpeercert(binary_form=True)


async def _opened(tls: TlsTransport[AnyStream], opened: asyncio.Future[AnyStream]) -> AnyStream:
    try:
        return await opened
    except BaseException:
        tls.abort()
        raise
