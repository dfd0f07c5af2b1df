"""Streams over a long time: heartbeats keep each kind alive by each way, and silence ends it. The clock jumps; nothing waits (E45)."""

import asyncio
import json
import ssl
from pathlib import Path

from tests.planes.gateway.echoing import ACCEPT, WS_KEY
from tests.planes.gateway.rig import TIMEOUT_S, Client
from tests.planes.gateway.test_rotation import fill

from robin.testing.authority import IdentityAuthority
from robin.testing.certificates import CertificateAuthority
from robin.testing.embedded_gateway import EmbeddedGateway
from robin.testing.embedded_identity import EmbeddedIdentities
from robin.testing.manual_clock import ManualClock
from robin.testing.waiting import eventually
from robin.transport.clock import SystemClock

BEAT_S, LONG_S, IDLE_S = 30, 16 * 60, 15 * 60
HEADS = {
    "sse": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",  # until the end of the connection
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "ws": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %b\r\n\r\n" % ACCEPT,
    "tunnel": b"",
}
FRAMES = {"sse": b"data: %b\n\n", "chunked": b"9\r\n%b\r\n", "ws": b"\x81\x09%b", "tunnel": b"%b"}
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {WS_KEY.decode()}", "Sec-WebSocket-Version: 13")
WAYS = ("absolute", "bridge", "reverse")


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time a test moves forward, and that of the clock with it."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0
        self.clock = ManualClock(wall=SystemClock().wall())

    def time(self) -> float:
        return super().time() + self.ahead

    def jump(self, seconds: float) -> None:
        self.ahead += seconds
        self.clock.advance(seconds)


class Origin:
    """Begins a stream where it is asked to; `beat` writes the next event to each."""

    def __init__(self) -> None:
        self.streams: list[tuple[str, asyncio.StreamWriter]] = []
        self.beats = 0

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        kind = head.split(b" ")[1].split(b"/")[2].decode()
        writer.write(HEADS[kind])
        self.streams.append((kind, writer))

    async def tunnel(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.streams.append(("tunnel", writer))

    def beat(self) -> bytes:
        self.beats += 1
        event = b"beat %04d" % self.beats
        for kind, writer in self.streams:
            writer.write(FRAMES[kind] % event)
        return event


def configure(folder: Path, ca: Path, tls: int, plain: int) -> Path:
    upgrade = ["websocket"]
    section = {
        "listeners": [{"name": "proxy", "listen": "127.0.0.1:0"}, {"name": "front", "kind": "reverse", "listen": "127.0.0.1:0"}],
        "admin": {"listen": "127.0.0.1:0"},
        "drain": {"min": "0s", "max": "1s"},
        "bridge": {"slots": {"a": str(fill(folder / "a", "bridge"))}},
        "upstream_tls": {"ca_files": [str(ca)]},
        "addresses": {
            "hosts": {"a.test": ["127.0.0.1"], "b.test": ["127.0.0.1"]},
            "unsafe_loopback": [f"127.0.0.1:{port}" for port in (tls, plain)],
        },
        "policy": {
            "rules": [
                {"name": "bridged", "hosts": ["a.test"], "ports": [tls], "tls": "bridge", "upgrade": upgrade},
                {"name": "tcp", "hosts": ["b.test"], "ports": [plain], "schemes": ["tcp"]},
                {"name": "closed", "hosts": ["b.test"], "ports": [tls]},
            ]
        },
        "routes": [
            {"name": "all", "path_prefix": "/reverse", "strip_prefix": False, "upstream": f"https://a.test:{tls}", "upgrade": upgrade,
             "allow": [{"callers": ["local"]}], "hosts": ["a.test"]},
        ],
    }  # fmt: skip
    (folder / "robin.yaml").write_text(json.dumps({"version": 1, "gateway": section}))
    return folder / "robin.yaml"


async def opened(way: str, kind: str, address: str, authority: str, ca: Path) -> Client:
    """A stream of this kind by this way, of which nothing but the head was read."""
    client = Client(*await asyncio.open_connection(*address.rsplit(":", 1)))
    if way in {"bridge", "passthrough", "connect"}:
        assert (await client.connect(authority))[0] == 200
    if way == "connect":
        return client
    if way in {"bridge", "passthrough"}:
        await client.start_tls(authority.partition(":")[0], ca)
    target = f"{f'https://{authority}' if way == 'absolute' else ''}/{way}/{kind}"
    client.writer.write("\r\n".join([f"GET {target} HTTP/1.1", f"Host: {authority}", *(UPGRADE if kind == "ws" else ()), "", ""]).encode())
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 " if kind == "ws" else b"HTTP/1.1 200 ")
    return client


async def live(loop: JumpingLoop, folder: Path) -> None:
    pki, origin = CertificateAuthority(folder / "pki"), Origin()
    context: ssl.SSLContext = pki.issue("a.test", "b.test").server_context(alpn=("http/1.1",))
    begun = ((origin.http, context), (origin.tunnel, None))
    servers = [await asyncio.start_server(serve, "127.0.0.1", 0, ssl=secured) for serve, secured in begun]
    tls, plain = (server.sockets[0].getsockname()[1] for server in servers)
    file = configure(folder, pki.ca_file, tls, plain)
    async with EmbeddedGateway(file, EmbeddedIdentities(IdentityAuthority(), loop.clock), clock=loop.clock) as gateway:
        proxy, front = gateway.runtime.listening
        sweeps = 0

        def sweep(_: float) -> None:
            nonlocal sweeps
            sweeps += 1

        gateway.runtime.parts.sweeper.every_sweep(sweep)

        async def jump(seconds: float) -> None:
            before = sweeps
            loop.jump(seconds)
            await eventually(lambda: sweeps > before, what="a sweep behind the jump")

        async with asyncio.timeout(TIMEOUT_S):
            clients = [
                await opened(way, kind, front if way == "reverse" else proxy, f"a.test:{tls}", folder / "a" / "tls.crt")
                for way in WAYS
                for kind in ("sse", "chunked", "ws")
            ]
            clients.append(await opened("passthrough", "sse", proxy, f"b.test:{tls}", pki.ca_file))
            clients.append(await opened("connect", "tunnel", proxy, f"b.test:{plain}", folder))
        await eventually(lambda: len(origin.streams) == len(clients), what="all streams at the origin")
        for _ in range(LONG_S // BEAT_S + 1):
            event = origin.beat()
            async with asyncio.timeout(TIMEOUT_S):
                for client in clients:
                    assert (await client.reader.readuntil(event)).endswith(event)
            await jump(BEAT_S)
        await jump(IDLE_S)
        for client in clients:
            await client.rest()

        def ends() -> dict[str, set[str]]:
            closed = [one for one in gateway.lines if one["event"] == "gateway.close"]
            return {one["reason"]: {at["id"] for at in closed if at["reason"] == one["reason"]} for one in closed}

        await eventually(lambda: len(ends().get("idle", ())) == len(clients), what="one record each that says that it was silent")
    for writer in (*(client.writer for client in clients), *(writer for _, writer in origin.streams)):
        writer.transport.abort()
    for server in servers:
        server.close()


def test_heartbeats_keep_every_stream_alive_for_longer_than_silence_may_last_and_then_silence_ends_it(tmp_path: Path) -> None:  # E45
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, JumpingLoop)
        runner.run(live(loop, tmp_path))
