"""What several conformance tests share: ways for a caller to end, an upstream's script for a while, a tunnel, a Robin without identity."""

import base64
import contextlib
import hashlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from tests.corpus.rig import PONG, Caller, Rig

from robin.testing.connection import ScriptedConnection
from robin.testing.process import SidecarProcess
from robin.testing.recording_upstream import RecordingUpstream, Script
from robin.testing.waiting import eventually

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = base64.b64encode(hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
ASK = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
OTHER = b"GET /raw HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: raw-bytes\r\n\r\n"
OTHER_SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw-bytes\r\n\r\n"


async def half_close(caller: Caller) -> None:
    """FIN, and go on reading."""
    caller.peer.half_close()


async def reset(caller: Caller) -> None:
    """RST."""
    opened: socket.socket = caller.peer.transport.get_extra_info("socket")
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.peer.transport.abort()


async def leave(caller: Caller) -> None:
    """Close, as a caller that loses interest does."""
    await caller.leave()


@contextlib.contextmanager
def scripted(rig: Rig, script: Script) -> Iterator[None]:
    """The upstream's new connections run `script` for a while."""
    before, rig.upstream.script = rig.upstream.script, script
    try:
        yield
    finally:
        rig.upstream.script = before


async def record_of(rig: Rig, path: str, count: int = 1) -> dict[str, object]:
    """The latest record of this path, once there are `count` of them."""

    def found() -> list[dict[str, object]]:
        entries = [entry for entry in rig.robin.events if entry.get("path") == path]
        return entries if len(entries) >= count else []

    return (await eventually(found, what=f"the record of {path}"))[-1]


async def echo(connection: ScriptedConnection) -> None:
    """Switch, then give back every byte; a plain request gets a pong."""
    while True:
        head = await connection.read_until(b"\r\n\r\n")
        if b"\r\nUpgrade:" not in head:
            await connection.send(PONG)
            continue
        await connection.send(OTHER_SWITCH if b"raw-bytes" in head else SWITCH)
        while some := await connection.read_some():
            await connection.send(some)
        return


async def open_tunnel(rig: Rig, ask: bytes = ASK) -> tuple[Caller, bytes]:
    """A caller whose upgrade was taken, and the head of the 101."""
    caller = await rig.caller()
    caller.send(ask)
    head = await caller.peer.read_until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    return caller, head


@contextlib.asynccontextmanager
async def without_identity(folder: Path, token: bytes | None, **settings: str) -> AsyncIterator[Rig]:
    """A Rig whose token file holds `token` (None: there is no file)."""
    token_file = folder / "token"
    if token is not None:
        token_file.write_bytes(token)
    async with RecordingUpstream(patience_s=600.0) as upstream:
        chosen = {"ROBIN_TOKEN_FILE": str(token_file), "ROBIN_IDENTITY_WAIT": "100ms", **settings}
        async with SidecarProcess(upstream_url=upstream.url, settings=chosen) as robin:
            await robin.listening()
            yield Rig(robin, upstream, token_file)
