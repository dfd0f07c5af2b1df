"""An origin that gives back what comes, by tunnel or by WebSocket, behind a gateway."""

import asyncio
import base64
import contextlib
import hashlib
import socket
import struct
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.planes.gateway.rig import TIMEOUT_S, Client, Rig, running

from robin.testing.certificates import CertificateAuthority

WS_KEY = base64.b64encode(bytes(16))
ACCEPT = base64.b64encode(hashlib.sha1(WS_KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
GOING_AWAY = b"\x88\x02" + struct.pack("!H", 1001)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, late: asyncio.Event) -> None:
    """An origin that switches to WebSocket where it is asked to, and gives back what comes, until `bye`.

    To `half` it answers behind the end, late, as to a request for /late.
    """
    with contextlib.suppress(OSError):
        first = await reader.read(4096)
        if first == b"half":
            await reader.read()
            await late.wait()
            first = b"late"
        elif first.startswith(b"GET "):
            if first.startswith(b"GET /late"):
                await late.wait()
            first = (
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %b\r\n\r\n"
                % ACCEPT
            )
        while first and first != b"bye":
            writer.write(first)
            first = await reader.read(4096)
    writer.close()


@contextlib.asynccontextmanager
async def echoing(folder: Path, rules: list[dict[str, Any]], **section: Any) -> AsyncIterator[tuple[Rig, str, asyncio.Event]]:
    """A gateway, the authority of an origin that echoes, and what its late answers wait for.

    The port ECHO stands for that of the origin, GATED for one that begins TLS as late.
    """
    late, loop = asyncio.Event(), asyncio.get_running_loop()
    pki = CertificateAuthority(folder / "pki")
    leaf = pki.issue("a.test", "b.test", "127.0.0.1")

    async def gated() -> None:
        accepted, _ = await loop.sock_accept(gate)
        await late.wait()
        with contextlib.suppress(OSError):
            await loop.connect_accepted_socket(asyncio.Protocol, accepted, ssl=leaf.server_context(alpn=("http/1.1",)))

    server = await asyncio.start_server(partial(echo, late=late), "127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as gate:
        gate.setblocking(False)
        waiting = loop.create_task(gated())
        ports = {name: sock.getsockname()[1] for name, sock in (("ECHO", server.sockets[0]), ("GATED", gate))}
        try:
            async with running(folder, rules, section=section, ports=ports, pki=pki, leaf=leaf) as rig:
                yield rig, f"b.test:{ports['ECHO']}", late
        finally:
            waiting.cancel()
            server.close()


async def asking(rig: Rig, own: str, path: str = "/ws") -> Client:
    """A client that has asked for a WebSocket, in absolute-form."""
    client = await rig.client()
    fields = ["Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {WS_KEY.decode()}", "Sec-WebSocket-Version: 13"]
    client.writer.write("\r\n".join([f"GET http://{own}{path} HTTP/1.1", f"Host: {own}", *fields, "", ""]).encode())
    return client


async def switched(rig: Rig, own: str) -> Client:
    """A WebSocket that is open."""
    client = await asking(rig, own)
    assert (await client.response())[0] == 101
    return client


async def ended(client: Client) -> bytes:
    """What comes until the end."""
    async with asyncio.timeout(5 + TIMEOUT_S):
        with contextlib.suppress(OSError):
            return await client.reader.read()
    return b""
