"""What is streamed: WebSocket by every way, with a client and a server of others; trailers, events, encodings; and h2 offered too."""

import asyncio
import gzip
import json
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.grants.proxied import Answering, token_reply
from tests.planes.gateway.rig import Client, Rig, code_of, running
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from robin.testing.authority import IdentityAuthority
from robin.testing.certificates import CertificateAuthority
from robin.testing.connection import PeerLeft, ScriptedConnection
from robin.testing.message import MalformedRequest, ReceivedRequest
from robin.testing.server import ScriptedServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHORITY = IdentityAuthority()
HANDSHAKE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
PROFILE = """\
id: demo
display_name: Demo
credentials: [{name: token, token_grant: {token_endpoint: "http://127.0.0.1:%d/token", issuer: "https://issuer.example"}}]
endpoints: [{host: a.test, port: %d, path: "/ws/**"}]
"""


async def echo(connection: ServerConnection) -> None:
    """First the credential of the handshake, then each message."""
    assert connection.request is not None
    await connection.send(connection.request.headers.get("Authorization", ""))
    async for message in connection:
        await connection.send(message)


ZIPPED = gzip.compress(b"event " * 1000, mtime=0)
TRAILERS = (
    b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"
    b"X-Sum: 7\r\nX-Unannounced: 8\r\nSet-Cookie: no=1\r\n\r\n"
)
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS_OF_A_STREAM = 10
WITHIN_S = 0.05
WAYS = ("absolute", "bridge", "reverse", "tunnel")


class Origin(ScriptedServer):
    """Answers by the path; `step` lets the next event go, and the last one went at `written_at`."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(self._serve, tls=tls)
        self.seen: list[ReceivedRequest] = []
        self.step = asyncio.Event()
        self.written_at = 0.0

    async def _serve(self, connection: ScriptedConnection) -> None:
        try:
            while True:
                request = await connection.read_request()
                self.seen.append(request)
                await self._answer(connection, request.target)
        except (PeerLeft, MalformedRequest, TimeoutError):
            return

    async def _answer(self, connection: ScriptedConnection, target: bytes) -> None:
        if target == b"/events":
            await connection.send(EVENTS)
            for number in range(EVENTS_OF_A_STREAM):
                self.written_at = asyncio.get_running_loop().time()
                await connection.send(b"9\r\ndata: %d\n\n\r\n" % number)
                await self.step.wait()
                self.step.clear()
            await connection.send(b"0\r\n\r\n")
        elif target == b"/zipped":
            fields = b"Content-Encoding: gzip\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(ZIPPED)
            await connection.send(b"HTTP/1.1 200 OK\r\n" + fields + ZIPPED)
        else:
            await connection.send(TRAILERS)


class Stand:
    """The gateway with a proxy and a reverse listener, and `a.test`: a server of WebSocket, and an origin that streams."""

    def __init__(self, rig: Rig, port: int, origin: Origin) -> None:
        self.rig, self.port, self.origin = rig, port, origin
        self.streams = f"a.test:{origin.port}"
        self.reverse = rig.listeners[1]

    async def bridged(self, *, alpn: tuple[str, ...] = ("http/1.1",)) -> tuple[Client, ssl.SSLObject]:
        """A connection to the origin that streams, whose TLS is open."""
        client = await self.rig.client()
        assert (await client.connect(self.streams))[0] == 200
        return client, await client.start_tls("a.test", self.rig.ca_file, alpn=alpn)

    async def asking(self, way: str, path: str) -> tuple[Client, list[str]]:
        """A connection that leads to the origin that streams, and the head of a request for it."""
        if way == "bridge":
            return (await self.bridged())[0], [f"GET {path} HTTP/1.1", f"Host: {self.streams}"]
        if way == "reverse":
            client = Client(*await asyncio.open_connection(*self.reverse.rsplit(":", 1)))
            self.rig.clients.append(client)
            return client, [f"GET {path} HTTP/1.1", "Host: streams.test"]
        client = await self.rig.client()
        if way == "absolute":
            return client, [f"GET https://{self.streams}{path} HTTP/1.1", f"Host: {self.streams}"]
        own = self.streams.replace("a.test", "b.test")
        assert (await client.connect(own))[0] == 200
        await client.start_tls("b.test", self.rig.pki.ca_file)  # the origin's own certificate: nothing on the way has opened it
        return client, [f"GET {path} HTTP/1.1", f"Host: {own}"]

    def open(self, way: str, path: str = "/ws/1", **options: Any) -> connect:
        """A connection of the library, by one of the three ways."""
        authority = f"a.test:{self.port}"
        if way == "bridge":
            trusted = ssl.create_default_context(cafile=str(self.rig.ca_file))
            return connect(f"wss://{authority}{path}", proxy=f"http://{self.rig.address}", ssl=trusted, **options)
        host, _, port = (self.reverse if way == "reverse" else self.rig.address).rpartition(":")
        factory = ClientConnection if way == "reverse" else absolute(f"https://{authority}{path}")
        uri = f"ws://{authority}{path}"
        return connect(uri, host=host, port=int(port), proxy=None, create_connection=factory, **options)


def absolute(target: str) -> type[ClientConnection]:
    """A client that writes its target in absolute-form."""

    class Absolute(ClientConnection):
        async def handshake(self, *arguments: Any, **options: Any) -> None:
            original = self.protocol.connect

            def begin() -> Any:
                request = original()
                request.path = target
                return request

            self.protocol.connect = begin  # type: ignore[method-assign]
            await super().handshake(*arguments, **options)

    return Absolute


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    folder: Path = tmp_path_factory.mktemp("websocket")
    pki = CertificateAuthority(folder / "pki")
    leaf = pki.issue("a.test", "b.test")
    (folder / "token").write_bytes(AUTHORITY.service_account_token(audience="https://issuer.example"))
    async with (
        Answering(lambda _: token_reply("secret-token")) as issuer,
        serve(echo, "127.0.0.1", 0, ssl=leaf.server_context(alpn=("http/1.1",)), max_size=None) as server,
        Origin(leaf.server_context(alpn=("h2", "http/1.1"))) as origin,
    ):
        port = next(iter(server.sockets)).getsockname()[1]
        (folder / "demo.yaml").write_text(PROFILE % (issuer.port, port))
        allow = [{"callers": ["local"]}]
        section = {
            "listeners": [{"name": "proxy", "listen": "127.0.0.1:0"}, {"name": "front", "kind": "reverse", "listen": "127.0.0.1:0"}],
            "routes": [
                {"name": "ws", "path_prefix": "/ws", "strip_prefix": False, "upstream": f"https://a.test:{port}", "upgrade": ["websocket"],
                 "allow": allow, "hosts": ["a.test"]},
                {"name": "unnamed", "path_prefix": "/ws/unnamed", "strip_prefix": False, "upstream": f"https://a.test:{port}",
                 "allow": allow},
                {"name": "rest", "hosts": ["a.test"], "upstream": f"https://a.test:{port}", "allow": allow},
                {"name": "streams", "hosts": ["streams.test"], "upstream": f"https://a.test:{origin.port}", "allow": allow},
                *({"name": f"open-{at}", "hosts": ["a.test"], "path_prefix": f"/{at}", "strip_prefix": False, "upgrade": ["websocket"],
                   "upstream": f"https://a.test:{port}", "allow": allow} for at in range(3)),
            ],
            "addresses": {"unsafe_loopback": [f"127.0.0.1:{port}", f"127.0.0.1:{origin.port}"]},
            "identities": {"default": {"source": "file", "token_file": str(folder / "token"), "audience": "https://issuer.example"}},
            "profiles": ["demo.yaml"],
            "providers": [{"profile": "demo", "callers": ["local"], "permit": False}],
        }  # fmt: skip
        rules = [
            {"name": "ws", "hosts": ["a.test"], "ports": [port], "paths": ["/ws/**"], "upgrade": ["websocket"]},
            {"name": "rest", "hosts": ["a.test"], "ports": [port], "methods": ["GET"], "paths": ["/rest/**"]},
            {"name": "bridged", "hosts": ["a.test"], "ports": [origin.port], "tls": "bridge"},
            {"name": "closed", "hosts": ["b.test"], "ports": [origin.port]},
        ]
        async with running(folder, rules, section=section, pki=pki) as rig:
            yield Stand(rig, port, origin)


@pytest.mark.parametrize("way", ["absolute", "bridge", "reverse"])
async def test_messages_come_back_and_the_handshake_has_the_credential(stand: Stand, way: str) -> None:  # E44
    path = f"/ws/{way}"
    async with stand.open(way, path, max_size=None) as connection:
        assert connection.response is not None
        assert "permessage-deflate" in connection.response.headers["Sec-WebSocket-Extensions"]
        assert await connection.recv() == "Bearer secret-token"
        for message in ("", "text", b"\x00" * (1 << 20), [b"in ", b"two ", b"frames"]):
            await connection.send(message)
            assert await connection.recv() == (b"".join(message) if isinstance(message, list) else message)
    decision = await stand.rig.record("gateway.decision", path=path)
    assert (decision["op"], decision["verdict"], decision["grant"]["provider"]) == ("upgrade", "permit", "demo")
    assert decision["route"] == ("ws" if way == "reverse" else None)
    closed = await stand.rig.record("gateway.close", id=decision["id"])
    assert (closed["status"], closed["fault"], closed["reason"]) == (101, "", "done")
    assert 1000 < closed["bytes_up"] < 100_000  # it stays compressed


@pytest.mark.slow
@pytest.mark.parametrize("way", ["absolute", "bridge", "reverse"])
async def test_a_frame_of_64_mib_goes_up_and_comes_down(stand: Stand, way: str) -> None:  # E44
    whole, path = bytes(range(256)) * (1 << 18), f"/ws/large-{way}"
    async with stand.open(way, path, max_size=None, compression=None) as connection:
        await connection.recv()
        await connection.send(whole)
        assert await connection.recv() == whole
    closed = await stand.rig.record("gateway.close", id=(await stand.rig.record("gateway.decision", path=path))["id"])
    assert closed["bytes_up"] > len(whole)
    assert closed["bytes_down"] > len(whole)


async def raw(stand: Stand, way: str) -> Client:
    """A connection on which requests can be written, by one of the three ways."""
    if way != "reverse":
        client = await stand.rig.client()
    else:
        host, _, port = stand.reverse.rpartition(":")
        client = Client(*await asyncio.open_connection(host, int(port)))
        stand.rig.clients.append(client)
    if way == "bridge":
        assert (await client.connect(f"a.test:{stand.port}"))[0] == 200
        await client.start_tls("a.test", stand.rig.ca_file)
    return client


@pytest.mark.parametrize("way", ["absolute", "bridge", "reverse"])
async def test_without_a_rule_that_lists_it_a_handshake_is_refused_and_other_upgrades_are_not_passed_on(stand: Stand, way: str) -> None:
    rig, authority = stand.rig, f"a.test:{stand.port}"
    client = await raw(stand, way)
    start = f"https://{authority}" if way == "absolute" else ""
    dials = rig.dials
    refused = await client.ask(f"GET {start}/rest/{way} HTTP/1.1", f"Host: {authority}", *HANDSHAKE)
    assert code_of(refused) == (403, "upgrade_denied")
    assert rig.dials == dials
    decision = await rig.record("gateway.decision", path=f"/rest/{way}")
    assert (decision["op"], decision["verdict"], decision["code"]) == ("upgrade", "deny", "upgrade_denied")
    assert (await rig.record("gateway.close", id=decision["id"]))["fault"] == "upgrade_denied"
    others = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    client = await raw(stand, way)
    status, _, body = await client.ask(f"GET {start}/rest/{way}/2 HTTP/1.1", f"Host: {authority}", *others)
    assert status == 426  # of the origin: it saw no upgrade at all
    assert b"missing Connection header" in body


async def test_trailers_cross_the_bridge_both_ways_announced_or_not(stand: Stand) -> None:  # E46
    client, _ = await stand.bridged()
    head = f"POST /up HTTP/1.1\r\nHost: {stand.streams}\r\nTE: trailers, deflate\r\nTrailer: X-Up\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailers = b"X-Up: 1\r\nX-Also: 2\r\nAuthorization: Bearer mine\r\nHost: b.test\r\n\r\n"
    client.writer.write(head.encode() + b"3\r\nabc\r\n0\r\n" + trailers)
    async with asyncio.timeout(20):
        answer = await client.reader.readuntil(b"\r\n0\r\n")
        end = await client.reader.readuntil(b"\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n")
    assert end == b"X-Sum: 7\r\nX-Unannounced: 8\r\n\r\n"
    request = stand.origin.seen[-1]
    assert (request.body, request.trailers, request.values(b"TE")) == (b"abc", ((b"X-Up", b"1"), (b"X-Also", b"2")), [b"trailers"])


async def slowest_event(stand: Stand, way: str) -> float:
    """The longest that one event of a stream took, in seconds; the origin writes each after the one before it was read."""
    loop, slowest = asyncio.get_running_loop(), 0.0
    client, head = await stand.asking(way, "/events")
    client.writer.write("\r\n".join([*head, "", ""]).encode())
    async with asyncio.timeout(20):
        await client.reader.readuntil(b"\r\n\r\n")
        for number in range(EVENTS_OF_A_STREAM):
            assert await client.reader.readuntil(b"\n\n\r\n") == b"9\r\ndata: %d\n\n\r\n" % number
            slowest = max(slowest, loop.time() - stand.origin.written_at)
            stand.origin.step.set()
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"
    client.writer.close()
    return slowest


@pytest.mark.parametrize("way", WAYS)
async def test_an_event_is_at_the_client_before_the_origin_writes_the_next_and_in_time(stand: Stand, way: str) -> None:  # E45
    """A machine that is busy with something else may need several streams, one of which is as fast as all should be."""
    took = []
    for _ in range(20):
        took.append(await slowest_event(stand, way))
        if took[-1] < WITHIN_S:
            break
    assert took[-1] < WITHIN_S, took


@pytest.mark.parametrize("way", WAYS)
async def test_an_encoded_body_is_not_touched(stand: Stand, way: str) -> None:  # E45
    client, head = await stand.asking(way, "/zipped")
    status, fields, body = await client.ask(*head, "Accept-Encoding: gzip")
    assert (status, fields["content-encoding"], body) == (200, ["gzip"], ZIPPED)


@pytest.mark.parametrize("alpn", [("h2", "http/1.1"), ("http/1.1", "h2"), ("http/1.0", "h2", "http/1.1")])
async def test_a_client_that_offers_h2_too_gets_http_1_1_on_both_sides_of_a_bridge(stand: Stand, alpn: tuple[str, ...]) -> None:
    client, tls = await stand.bridged(alpn=alpn)
    assert tls.selected_alpn_protocol() == "http/1.1"
    assert (await client.ask("GET /zipped HTTP/1.1", f"Host: {stand.streams}"))[0] == 200  # the origin prefers h2, and was not offered it


@pytest.mark.parametrize(
    ("host", "fields", "status", "code"),
    [
        ("a.test", ("Origin: https://attacker.example", "Sec-Fetch-Site: cross-site"), 403, "origin_refused"),
        ("a.test", ("Sec-Fetch-Site: cross-site",), 403, "origin_refused"),
        ("a.test", ("Origin: https://attacker.example", *HANDSHAKE), 403, "origin_refused"),
        ("attacker.example:8080", ("Sec-Fetch-Site: same-origin",), 421, "host_not_allowed"),
        ("attacker.example:8080", (), 421, "host_not_allowed"),
    ],
)
async def test_a_page_in_a_browser_spends_no_credential_of_a_loopback_listener(
    stand: Stand, host: str, fields: tuple[str, ...], status: int, code: str
) -> None:
    client, dials = await raw(stand, "reverse"), stand.rig.dials
    answer = await client.ask("GET /ws/unnamed/x HTTP/1.1" if "attacker" in host else "GET /ws/x HTTP/1.1", f"Host: {host}", *fields)
    assert code_of(answer) == (status, code)
    assert stand.rig.dials == dials
    decision = await stand.rig.record("gateway.decision", id=json.loads(answer[2])["request_id"])
    route = "unnamed" if "attacker" in host else "ws"
    assert (decision["verdict"], decision["code"], decision["route"]) == ("deny", code, route)


async def test_a_reload_that_sends_a_route_elsewhere_ends_its_websockets(stand: Stand) -> None:
    file, loaded = stand.rig.folder / "robin.yaml", 0
    document = json.loads(file.read_text())
    routes = {route["name"]: route for route in document["gateway"]["routes"]}

    async def reload() -> None:
        nonlocal loaded
        file.write_text(json.dumps(document))
        stand.rig.robin.send_signal(signal.SIGHUP)
        await stand.rig.robin.event("config_loaded", after=loaded)
        loaded += 1

    async with stand.open("reverse", "/0/x") as target, stand.open("reverse", "/1/x") as origin, stand.open("reverse", "/2/x") as kept:
        for connection in (target, origin, kept):
            assert await connection.recv() == ""
        routes["open-0"]["strip_prefix"] = True
        routes["open-1"]["upstream"] = f"https://b.test:{stand.port}"
        await reload()
        async with asyncio.timeout(20):
            await target.wait_closed()
            await origin.wait_closed()
        await kept.send("still")
        assert await kept.recv() == "still"
        copy = stand.rig.folder / "roots.pem"
        copy.write_bytes(stand.rig.pki.ca_file.read_bytes())
        document["gateway"]["upstream_tls"]["ca_files"] = [str(copy)]
        await reload()
        async with asyncio.timeout(20):
            await kept.wait_closed()
    for at in range(3):
        decision = await stand.rig.record("gateway.decision", path=f"/{at}/x")
        assert (await stand.rig.record("gateway.close", id=decision["id"]))["reason"] == "policy_reload"


async def test_a_reload_that_takes_a_route_away_ends_its_websockets(stand: Stand) -> None:  # last: it ends with another file
    file = stand.rig.folder / "robin.yaml"
    document = json.loads(file.read_text())
    async with stand.open("reverse", "/ws/reload") as connection:
        await connection.recv()
        document["gateway"]["routes"] = []
        file.write_text(json.dumps(document))
        stand.rig.robin.send_signal(signal.SIGHUP)
        async with asyncio.timeout(20):
            await connection.wait_closed()
    decision = await stand.rig.record("gateway.decision", path="/ws/reload")
    assert (await stand.rig.record("gateway.close", id=decision["id"]))["reason"] == "policy_reload"
