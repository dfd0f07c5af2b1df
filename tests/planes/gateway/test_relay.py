"""The relay in an agent's pod: a real one before a real gateway, and before a parent that says what a test tells it (E10)."""

import asyncio
import base64
import hashlib
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from tests.planes.gateway.echoing import GOING_AWAY, WS_KEY
from tests.planes.gateway.rig import Client, Rig, running

from robin.testing.authority import IdentityAuthority
from robin.testing.process import RobinProcess
from robin.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHORITY = IdentityAuthority()
RULES = [
    {"name": "bridged", "hosts": ["a.test"], "ports": ["TLS"], "paths": ["/ok/**"]},
    {"name": "closed", "hosts": ["b.test"], "ports": ["TLS"]},
    {"name": "plain", "hosts": ["b.test"], "ports": ["PLAIN"], "schemes": ["http"]},
]


def token(account: str = "agent") -> bytes:
    return AUTHORITY.service_account_token(audience="robin-gateway", account=account)


@dataclass
class Relay:
    """A relay, its token file, and raw clients of it."""

    robin: RobinProcess
    address: str
    token_file: Path
    clients: list[Client] = field(default_factory=list)

    async def client(self) -> Client:
        host, _, port = self.address.rpartition(":")
        self.clients.append(Client(*await asyncio.open_connection(host, int(port))))
        return self.clients[-1]

    async def connect(self, authority: str, *lines: str) -> tuple[int, dict[str, list[str]], bytes]:
        return await (await self.client()).connect(authority, *lines)

    async def ask(self, method: str, url: str, *lines: str, body: bytes = b"") -> tuple[int, dict[str, list[str]], bytes]:
        return await (await self.client()).ask(f"{method} {url} HTTP/1.1", f"Host: {url.split('/')[2]}", *lines, body=body)


@asynccontextmanager
async def relaying(folder: Path, parent: str, *flags: str) -> AsyncIterator[Relay]:
    folder.mkdir(exist_ok=True)
    file = folder / "token"
    file.write_bytes(token() + b"\n")
    words = ["gateway", "--parent", parent, "--token-file", str(file), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *flags]
    async with RobinProcess(*words) as robin:
        listening = await robin.event("listening")
        await robin.event("started")
        relay = Relay(robin, listening["listen"][0], file)
        try:
            yield relay
        finally:
            for client in relay.clients:
                client.writer.transport.abort()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    folder = tmp_path_factory.mktemp("parent")
    keys = folder / "jwks.json"
    keys.write_text(json.dumps(AUTHORITY.jwks()))
    issuer = {"issuer": AUTHORITY.issuer, "audiences": ["robin-gateway"], "algorithms": ["ES256"], "jwks": {"file": str(keys)}}
    section = {"issuers": [{"name": "cluster", "kind": "kubernetes", **issuer}]}
    listener = {"auth": "jwt", "issuers": ["cluster"], "tls": {"minted_names": ["127.0.0.1"]}}
    async with running(folder, RULES, section=section, listener=listener) as rig:
        yield rig


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Relay]:
    async with relaying(tmp_path_factory.mktemp("relay"), f"https://{rig.address}", "--ca-file", str(rig.ca_file)) as relay:
        yield relay


def problem(response: tuple[int, dict[str, list[str]], bytes], proxy: str) -> tuple[int, str]:
    status, fields, body = response
    code = json.loads(body)["code"]
    assert fields["proxy-status"][0].startswith(f"{proxy}; ")
    assert f'details="{code}"' in fields["proxy-status"][0]
    return status, str(code)


async def test_e10_every_form_crosses_the_parent_with_the_token_of_the_relay(rig: Rig, relay: Relay) -> None:
    """TLS in TLS: bridged at the parent, and left closed there; absolute-form. The agent's own field is replaced."""
    own = "Proxy-Authorization: Bearer agent-made-this-up"
    for name, ca, path in (("a.test", rig.ca_file, "/ok/1"), ("b.test", rig.pki.ca_file, "/any")):
        client = await relay.client()
        status, _, _ = await client.connect(f"{name}:{rig.tls.port}", own)
        assert status == 200
        await client.start_tls(name, ca)
        status, _, seen = await client.ask(f"GET {path} HTTP/1.1", f"Host: {name}:{rig.tls.port}")
        assert status == 200
        assert b"roxy-" not in seen
    status, _, body = await client.ask("GET /2 HTTP/1.1", f"Host: b.test:{rig.tls.port}")  # the tunnel goes on
    assert (status, body.startswith(b"GET /2 ")) == (200, True)
    url = f"http://b.test:{rig.plain.port}/p?q=1"
    status, _, seen = await relay.ask("POST", url, own, "Content-Length: 3", body=b"abc")
    assert status == 200
    assert seen.startswith(b"POST /p?q=1 HTTP/1.1\r\nHost: b.test:")
    assert b"\r\nVia: 1.1 robin-relay, 1.1 robin-gateway\r\n" in seen
    assert b"roxy-" not in seen
    assert b"made-this-up" not in seen
    assert {record["caller"]["id"] for record in rig.records if record["event"] == "gateway.decision"} == {"k8s:demo/agent"}

    def decided() -> set[tuple[object, ...]]:
        found = [one for one in relay.robin.events if one.get("event") == "gateway.decision"]
        return {(one["op"], one["host"], one["rule"], one["instance"]) for one in found}

    expected = {("connect", "a.test", "parent", "robin-relay"), ("request", "b.test", "parent", "robin-relay")}
    await eventually(lambda: decided() >= expected, what="the records of the relay")


async def test_what_the_parent_refuses_reaches_the_agent_as_it_is(rig: Rig, relay: Relay) -> None:
    denied = await relay.connect("no.test:443")
    assert problem(denied, "robin-gateway") == (403, "rule_default")
    assert denied[1]["connection"] == ["close"]
    assert problem(await relay.ask("GET", "http://no.test/"), "robin-gateway") == (403, "rule_default")
    assert (await rig.record("gateway.decision", host="no.test"))["caller"]["id"] == "k8s:demo/agent"


async def test_e10_a_rotated_token_is_used_by_the_next_request_and_a_wrong_one_is_the_relays_own_refusal(rig: Rig, relay: Relay) -> None:
    url = f"http://b.test:{rig.plain.port}/"
    relay.token_file.write_bytes(token("second"))
    assert (await relay.connect(f"b.test:{rig.tls.port}"))[0] == 200
    await eventually(lambda: any(one["caller"]["id"] == "k8s:demo/second" for one in rig.records), what="the second caller")
    relay.token_file.write_bytes(AUTHORITY.service_account_token(audience="other"))
    before = len(rig.plain.requests) + rig.tls.connections
    for answer in (await relay.connect(f"b.test:{rig.tls.port}"), await relay.ask("GET", url)):
        assert problem(answer, "robin-relay") == (502, "parent_refused")
        assert "proxy-authenticate" not in answer[1]
    relay.token_file.write_bytes(token("third"))  # records come in order: with this one, those of the refusals are there
    assert (await relay.connect(f"b.test:{rig.tls.port}"))[0] == 200
    await eventually(lambda: any(one["caller"]["id"] == "k8s:demo/third" for one in rig.records), what="the third caller")
    relay.token_file.write_bytes(b"two words")
    assert problem(await relay.connect(f"b.test:{rig.tls.port}"), "robin-relay") == (503, "identity_malformed")
    relay.token_file.unlink()

    def refused() -> int:
        return len([one for one in rig.records if one["event"] == "gateway.close" and one["fault"] == "caller_token_invalid"])

    await eventually(lambda: refused() == 2, what="the parent's records of the wrong token")
    parents = len(rig.records)
    for answer in (await relay.connect(f"b.test:{rig.tls.port}"), await relay.ask("GET", url)):
        assert problem(answer, "robin-relay") == (503, "identity_unavailable")
    assert len(rig.records) == parents  # the parent was not asked
    assert len(rig.plain.requests) + rig.tls.connections == before
    relay.token_file.write_bytes(token())

    def codes() -> list[str]:
        return [one["code"] for one in relay.robin.events if one.get("event") == "gateway.decision" and one["verdict"] == "failed"]

    await eventually(lambda: codes() == ["identity_malformed", *["identity_unavailable"] * 2], what="one record each")
    shown = json.dumps([text for _, text in relay.robin.lines])
    assert not any(part.decode() in shown for account in ("agent", "second") for part in token(account).split(b".")[1:2])


async def test_a_foreign_certificate_of_the_parent_is_an_unreachable_parent(rig: Rig, tmp_path: Path) -> None:
    async with relaying(tmp_path / "r", f"https://{rig.address}", "--ca-file", str(rig.pki.ca_file)) as relay:
        assert problem(await relay.connect("a.test:443"), "robin-relay") == (502, "parent_unreachable")
        denied = await relay.robin.event("gateway.decision")
        assert (denied["code"], denied["why"], denied["host"]) == ("parent_unreachable", "upstream_certificate", "a.test")


SCOPE = b'WWW-Authenticate: Bearer error="insufficient_scope"\r\n'  # belongs to a 401 and says nothing about a 407


@dataclass
class Parent:
    """Answers each head by `answer(head, how many came before)`; `heads` are those that came."""

    heads: list[bytes] = field(default_factory=list)
    rotate: Path | None = None
    greeting: bytes = b""
    keep: bool = False  # what comes behind a head is left to the test
    readers: list[asyncio.StreamReader] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head)
                if self.rotate is not None and b"Bearer new" not in head:
                    self.rotate.write_bytes(b"new%d" % len(self.heads))
                    writer.write(b'HTTP/1.1 407 No\r\nProxy-Authenticate: Bearer realm="g"\r\n' + SCOPE + b"Content-Length: 2\r\n\r\nno")
                elif b"Upgrade: websocket" in head:
                    key = next(line for line in head.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key: "))[19:]
                    proof = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest())
                    fields = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + proof
                    writer.write(b"HTTP/1.1 101 Switching Protocols\r\n" + fields + b"\r\n\r\n\x81\x02hi")
                elif head.startswith(b"CONNECT"):
                    writer.write(b"HTTP/1.1 200 Go\r\n\r\n" + self.greeting)
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                if self.keep:
                    self.readers.append(reader)
                    self.writers.append(writer)
                    return
        except (asyncio.IncompleteReadError, OSError):
            pass
        writer.close()


async def test_a_407_is_cured_once_by_another_token_and_bytes_behind_the_200_are_the_tunnels(tmp_path: Path) -> None:
    parent = Parent()
    server = await asyncio.start_server(parent.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with relaying(tmp_path, f"http://127.0.0.1:{port}") as relay:
        for ask in (relay.connect("x.test:22"), relay.ask("GET", "http://x.test/")):
            relay.token_file.write_bytes(b"old")
            parent.heads.clear()
            parent.rotate = relay.token_file
            assert (await ask)[0] == 200
            assert [b"Bearer old" in head for head in parent.heads] == [True, False]
            assert b"Bearer new1" in parent.heads[1]

        relay.token_file.write_bytes(b"old")  # a body that was sent cannot be sent again, and the agent never sees the 407
        length = 1 << 20
        refused = await relay.ask("POST", "http://x.test/", f"Content-Length: {length}", body=bytes(1000))
        assert problem(refused, "robin-relay") == (502, "parent_refused")

        parent.rotate, parent.greeting = None, b"SSH-2.0-hello\r\n"
        client = await relay.client()
        assert (await client.connect("[2001:db8::1]:22"))[0] == 200
        assert await client.reader.readline() == b"SSH-2.0-hello\r\n"
        assert parent.heads[-1].startswith(b"CONNECT [2001:db8::1]:22 HTTP/1.1\r\nHost: [2001:db8::1]:22\r\n")

        client = await relay.client()
        upgrade = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13"]
        status, _, _ = await client.ask("GET https://X.test:443/ws HTTP/1.1", "Host: x.test", "Authorization: Basic placeholder", *upgrade)
        assert (status, await client.reader.readexactly(4)) == (101, b"\x81\x02hi")
        assert parent.heads[-1].startswith(b"GET https://x.test/ws HTTP/1.1\r\nHost: x.test\r\nAuthorization: Basic placeholder\r\n")

        sent = len(parent.heads)
        local = [
            (relay.ask("GET", "http://x.test/", "Via: 1.0 a, 1.1 robin-relay"), (502, "loop")),
            (relay.ask("GET", "http://x.test:0/"), (400, "authority_invalid")),
            (relay.connect("2130706433:443"), (400, "authority_invalid")),
        ]
        for ask, expected in local:
            assert problem(await ask, "robin-relay") == expected
        for line, host in (("GET / HTTP/1.1", "x"), ("GET /.robin/enforcement HTTP/1.1", "x"), ("GET http://x.test/ HTTP/1.1", "y.test")):
            status, _, body = await (await relay.client()).ask(line, f"Host: {host}")
            assert (status, json.loads(body)["code"]) == (421, "authority_mismatch" if host == "y.test" else "misdirected")
        server.close()
        assert len(parent.heads) == sent
        for ask in (relay.connect("x.test:443"), relay.ask("GET", "http://x.test:81/")):
            assert problem(await ask, "robin-relay") == (502, "parent_unreachable")


async def test_a_relay_has_limits_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(token())
    section = {
        "parent": {"url": "http://127.0.0.1:9", "token_file": str(tmp_path / "token")},
        "listeners": [{"name": "agents", "listen": "127.0.0.1:0"}],
        "admin": {"listen": "off"},
        "limits": {"connections_per_caller": 2, "body_bytes": 10},
    }
    file = tmp_path / "relay.yaml"
    file.write_text(json.dumps({"version": 1, "gateway": section}))
    async with RobinProcess("gateway", "--config", str(file)) as robin:
        relay = Relay(robin, (await robin.event("listening"))["listen"][0], tmp_path / "token")
        status, fields, body = await relay.ask("POST", "http://b.test/", "Content-Length: 11")
        assert (status, json.loads(body)["code"], fields["connection"]) == (413, "limit_body", ["close"])
        status, _, body = await relay.ask("POST", "http://b.test/", "Content-Length: 10", body=bytes(10))
        assert (status, json.loads(body)["code"]) == (502, "parent_unreachable")
        status, _, body = await (await relay.client()).response()
        assert (status, json.loads(body)["code"]) == (503, "limit_connections")
        for client in relay.clients:
            client.writer.transport.abort()


async def test_a_drain_of_the_relay_closes_websockets_five_seconds_before_its_end_and_a_second_signal_cuts_tunnels(tmp_path: Path) -> None:
    parent, upgrade = Parent(keep=True), f"Sec-WebSocket-Key: {WS_KEY.decode()}"
    server = await asyncio.start_server(parent.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    (tmp_path / "token").write_bytes(b"token")
    document = {
        "listeners": [{"name": "proxy", "listen": "127.0.0.1:0"}],
        "admin": {"listen": "127.0.0.1:0"},
        "parent": {"url": f"http://127.0.0.1:{port}", "token_file": str(tmp_path / "token")},
        "drain": {"min": "0s", "max": "5200ms"},
    }
    (tmp_path / "robin.yaml").write_text(json.dumps({"version": 1, "gateway": document}))
    async with RobinProcess("gateway", "--config", str(tmp_path / "robin.yaml")) as robin:
        host, _, own = (await robin.event("listening"))["listen"][0].rpartition(":")
        await robin.event("started")
        socket, tunnel = [Client(*await asyncio.open_connection(host, int(own))) for _ in range(2)]
        fields = ["Upgrade: websocket", "Connection: Upgrade", upgrade, "Sec-WebSocket-Version: 13"]
        assert (await socket.ask("GET http://x.test/ws HTTP/1.1", "Host: x.test", *fields))[0] == 101
        assert (await tunnel.connect("x.test:22"))[0] == 200
        assert await socket.reader.readexactly(4) == b"\x81\x02hi"
        robin.send_signal(signal.SIGTERM)
        await robin.event("draining")
        assert await socket.reader.readexactly(4) == GOING_AWAY  # 5 seconds before the end
        masked = await parent.readers[0].readexactly(8)
        assert (masked[:2], bytes(octet ^ masked[2 + at] for at, octet in enumerate(masked[6:]))) == (b"\x88\x82", GOING_AWAY[2:])
        socket.writer.transport.abort()
        tunnel.writer.write(b"still there")  # it runs on
        assert await parent.readers[1].readexactly(11) == b"still there"
        closed = await robin.event("gateway.close")
        assert (closed["status"], closed["reason"]) == (101, "drain")
        robin.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionResetError):
            await tunnel.reader.read()
        with pytest.raises(ConnectionResetError):
            await parent.readers[1].read()
        assert await robin.returned() == 128 + signal.SIGTERM
    for writer in parent.writers:
        writer.close()
    server.close()
