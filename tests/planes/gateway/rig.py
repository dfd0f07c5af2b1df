"""A gateway process with origins and a name server that count, and raw clients: what a test needs to attack it."""

import asyncio
import contextlib
import datetime
import json
import re
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.message
import dns.rrset

from robin.planes.gateway.new_authority import make_authority
from robin.testing.certificates import CertificateAuthority, Leaf
from robin.testing.process import RobinProcess
from robin.testing.waiting import eventually
from robin.transport.clock import SystemClock

TIMEOUT_S = 20.0
WATCHED = (sys.executable, str(Path(__file__).with_name("watched.py")))


@dataclass
class Origin:
    """Answers each request with its own head as the body; `requests` are the heads, `connections` counts what was accepted."""

    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    octets: int = 0
    banner: bytes = b""
    answer: bytes = b"HTTP/1.1 200 OK\r\n"
    source: int = 0  # octets of the body of /down
    sent: int = 0
    gate: asyncio.Event | None = None  # an answer waits for it
    server: asyncio.Server | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if self.banner:
                writer.write(self.banner)
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\nContent-Length: (\d+)", head)
                left = 0 if length is None else int(length[1])
                while left and (piece := await reader.read(min(left, 1 << 18))):
                    left -= len(piece)
                self.octets += len(head)
                self.requests.append(head)
                if self.gate is not None:
                    await self.gate.wait()
                if self.source and b"/down " in head:
                    await self.pour(writer)
                    continue
                writer.write(self.answer + b"Content-Length: %d\r\n\r\n" % len(head) + head)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def pour(self, writer: asyncio.StreamWriter) -> None:
        """A body of `source` octets."""
        writer.write(self.answer + b"Content-Length: %d\r\n\r\n" % self.source)
        for _ in range(self.source >> 16):
            writer.write(bytes(1 << 16))
            self.sent += 1 << 16
            await writer.drain()

    async def start(self, context: ssl.SSLContext | None = None) -> "Origin":
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=context)
        self.port = self.server.sockets[0].getsockname()[1]
        return self


class NameServer(asyncio.DatagramProtocol):
    """Answers A and AAAA from `names`: a list of addresses, or a list of such lists for one answer after the other. `asked` counts."""

    def __init__(self) -> None:
        self.names: dict[str, list[Any]] = {}
        self.asked: list[tuple[str, str]] = []
        self.turns: dict[str, int] = {}
        self.silent: set[str] = set()  # names that get no answer
        self.port = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        name, kind = str(query.question[0].name), dns.rdatatype.to_text(query.question[0].rdtype)
        self.asked.append((name, kind))
        if name in self.silent:
            return
        found = self.names.get(name.rstrip("."), [])
        if found and isinstance(found[0], list):
            turn = self.asked.count((name, kind)) - 1
            found = found[min(turn, len(found) - 1)]
        answer = dns.message.make_response(query)
        mine = [address for address in found if (":" in address) == (kind == "AAAA")]
        if mine:
            answer.answer.append(dns.rrset.from_text(query.question[0].name, 0, "IN", kind, *mine))
        elif not found:
            answer.set_rcode(3)
        self._transport.sendto(answer.to_wire(), addr)


@dataclass
class Client:
    """One raw connection to the gateway."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, *lines: str, body: bytes = b"") -> tuple[int, dict[str, list[str]], bytes]:
        """Send a head (and a body), and return status, fields and body of the response."""
        self.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return await self.response()

    async def response(self) -> tuple[int, dict[str, list[str]], bytes]:
        async with asyncio.timeout(TIMEOUT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status = int(head.split(" ", 2)[1])
            fields: dict[str, list[str]] = {}
            for line in head.split("\r\n")[1:-2]:
                name, _, value = line.partition(": ")
                fields.setdefault(name.lower(), []).append(value)
            length = int(fields.get("content-length", ["0"])[0])
            return status, fields, await self.reader.readexactly(length) if length else b""

    async def connect(self, authority: str, *lines: str) -> tuple[int, dict[str, list[str]], bytes]:
        return await self.ask(f"CONNECT {authority} HTTP/1.1", f"Host: {authority}", *lines)

    async def start_tls(self, name: str, ca_file: Path, *, alpn: Sequence[str] = ("http/1.1",)) -> ssl.SSLObject:
        """TLS inside of the CONNECT. Returns the SSL object."""
        context = ssl.create_default_context(cafile=str(ca_file))
        context.set_alpn_protocols(list(alpn))
        async with asyncio.timeout(TIMEOUT_S):
            await self.writer.start_tls(context, server_hostname=name)
        tls: ssl.SSLObject = self.writer.get_extra_info("ssl_object")
        return tls

    async def rest(self) -> bytes:
        """All that comes until the end."""
        async with asyncio.timeout(TIMEOUT_S):
            try:
                return await self.reader.read()
            except OSError:
                return b""


@dataclass
class Rig:
    """`ca_file` is the bridge's CA, `pki` that of the origins. `names`: the name server."""

    folder: Path
    robin: RobinProcess
    names: NameServer
    pki: CertificateAuthority
    ca_file: Path
    tls: Origin
    plain: Origin
    address: str
    admin: str
    listeners: list[str]
    clients: list[Client] = field(default_factory=list)

    async def client(self) -> Client:
        host, _, port = self.address.rpartition(":")
        opened = await (asyncio.open_unix_connection(port) if host == "unix" else asyncio.open_connection(host, int(port)))
        self.clients.append(Client(*opened))
        return self.clients[-1]

    async def close(self) -> None:
        """Close every client, without a word."""
        for client in self.clients:
            client.writer.transport.abort()
        await asyncio.sleep(0)

    async def get(self, url: str, *lines: str) -> tuple[int, dict[str, list[str]], bytes]:
        client = await self.client()
        authority = url.split("/")[2]
        try:
            return await client.ask(f"GET {url} HTTP/1.1", f"Host: {authority}", *lines)
        finally:
            client.writer.close()

    @property
    def dials(self) -> list[tuple[str, int]]:
        """Every TCP connection that the gateway has begun, whatever came of it."""
        lines = (self.folder / "dials").read_text().split()
        return list(zip(lines[::2], map(int, lines[1::2]), strict=True))

    async def page(self, path: str, address: str = "") -> tuple[int, bytes]:
        """Status and body of a page of the admin listener, or of another."""
        host, _, port = (address or self.admin).rpartition(":")
        client = Client(*await asyncio.open_connection(host, int(port)))
        try:
            status, _, body = await client.ask(f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close")
            return status, body
        finally:
            client.writer.close()

    async def metrics(self, name: str) -> dict[str, float]:
        """The series of a metric now: labels (without `plane`) and value."""
        _, body = await self.page("/metrics")
        lines = [line for line in body.decode().splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        pairs = [line[len(name) :].rsplit(" ", 1) for line in lines]
        return {labels.replace('plane="gateway"', "").strip("{},"): float(value) for labels, value in pairs}

    @property
    def records(self) -> list[dict[str, Any]]:
        return [entry for entry in self.robin.events if str(entry.get("event")).startswith("gateway.")]

    async def record(self, event: str, **wanted: object) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            return next((one for one in self.records if one["event"] == event and all(one.get(k) == v for k, v in wanted.items())), None)

        entry = await eventually(found, what=f"a record {event} with {wanted}", timeout_s=TIMEOUT_S)
        assert entry is not None
        return entry


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    rules: list[dict[str, Any]],
    *,
    listener: dict[str, Any] | None = None,
    section: dict[str, Any] | None = None,
    hosts: dict[str, list[str]] | None = None,
    answers: dict[str, list[Any]] | None = None,
    leaf: Leaf | None = None,
    pki: CertificateAuthority | None = None,
    origin_context: ssl.SSLContext | None = None,
    bridge: bool = True,
    ready: bool = True,
    ports: dict[str, int] | None = None,
    loopback: Sequence[str] = (),
    prepare: Callable[[int], None] = lambda _: None,
    program: tuple[str, ...] = WATCHED,
) -> AsyncIterator[Rig]:
    """A gateway with these rules; `ready`: it is waited for. The ports `TLS` and `PLAIN` stand for those of the two origins, also in the
    upstreams of routes, and more names for `ports` of this machine. `loopback`: more places of this machine that may be reached.

    `prepare` is called with the port of a.test before the gateway is started. `program`: another one does not fill `dials`.
    """
    pki = pki or CertificateAuthority(folder / "pki")
    if origin_context is None:
        leaf = leaf or pki.issue("a.test", "b.test", "127.0.0.1")
        origin_context = leaf.server_context(alpn=("http/1.1",))
    tls, plain = await Origin().start(origin_context), await Origin().start()
    loop = asyncio.get_running_loop()
    transport, names = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    names.names |= answers or {}
    slot = folder / "ca"
    slot.mkdir()
    (folder / "dials").touch()
    certificate, key = make_authority("robin-bridge-ca-test", days=30, permit_dns=[], now=wall_now())
    (slot / "tls.crt").write_bytes(certificate)
    (slot / "tls.key").touch(mode=0o600)
    (slot / "tls.key").write_bytes(key)
    ports = {"TLS": tls.port, "PLAIN": plain.port, **(ports or {})}
    listener = {"name": "proxy", "listen": "127.0.0.1:0", **(listener or {})}
    document = {
        "listeners": [listener],
        "admin": {"listen": "127.0.0.1:0"},
        "drain": {"min": "0s", "max": "5s"},
        "policy": {"rules": [{**rule, "ports": [ports.get(port, port) for port in rule.get("ports", [])]} for rule in rules]},
        "upstream_tls": {"ca_files": [str(pki.ca_file)]},
        "addresses": {
            "resolver": [f"127.0.0.1:{names.port}"],
            "hosts": {"a.test": ["127.0.0.1"], "b.test": ["127.0.0.1"], **(hosts or {})},
            "unsafe_loopback": [*(f"127.0.0.1:{port}" for port in ports.values()), *loopback],
        },
        **({"bridge": {"slots": {"a": str(slot)}}} if bridge else {}),
    }
    for key_, value in (section or {}).items():
        document[key_] = {**document[key_], **value} if isinstance(value, dict) and key_ in document else value
    if "routes" in document:  # copied: a module's rig may be made twice in one process
        document["routes"] = [
            {**route, "upstream": re.sub("TLS|PLAIN", lambda found: str(ports[found[0]]), route["upstream"])}
            for route in document["routes"]
        ]
    prepare(tls.port)
    file = folder / "robin.yaml"
    file.write_text(json.dumps({"version": 1, "gateway": document}, indent=1))  # JSON is YAML without aliases
    try:
        async with RobinProcess("gateway", "--config", str(file), settings={"DIALS": str(folder / "dials")}, program=program) as robin:
            listening = await robin.event("listening")
            if ready:
                await robin.event("started")
            rig = Rig(
                folder=folder,
                robin=robin,
                names=names,
                pki=pki,
                ca_file=slot / "tls.crt",
                tls=tls,
                plain=plain,
                address=listening["listen"][0],
                admin=listening["admin"][0],
                listeners=[*listening["listen"], *listening["admin"]],
            )
            try:
                yield rig
            finally:
                await rig.close()
    finally:
        transport.close()
        for origin in (tls, plain):
            assert origin.server is not None
            origin.server.close()


def code_of(response: tuple[int, dict[str, list[str]], bytes]) -> tuple[int, str]:
    """Status and code of a refusal, which stands in Proxy-Status and in the problem body alike (E52)."""
    status, fields, body = response
    problem = json.loads(body)
    assert problem["type"] == f"urn:robin:fault:{problem['code']}"
    assert f'details="{problem["code"]}"' in fields["proxy-status"][0]
    assert fields["proxy-status"][0].startswith("robin-gateway; ")
    assert fields["cache-control"] == ["no-store"]
    return status, problem["code"]


def client_hello(name: str, *, padding: int = 0, ech: bool = False, length: int = 0) -> bytes:
    """The first flight of a client as OpenSSL writes it, as one record; `padding` makes it longer, as new key shares do.

    `ech`: with an extension that says that there is an encrypted ClientHello. `length`: of so many octets in all, by one that says nothing.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if padding:
        context.set_alpn_protocols(["http/1.1", *("x" * 200 for _ in range(padding // 200))])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name or None)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    if ech:
        hello = _with_extension(hello, b"\xfe\x0d", b"\x00\x00\x01\x00")
    return _with_extension(hello, b"\x0a\x0a", bytes(length - len(hello) - 4)) if length else hello


def _with_extension(hello: bytes, kind: bytes, content: bytes) -> bytes:
    """One more extension at the end; every length around it grows."""
    more = kind + len(content).to_bytes(2, "big") + content
    at = 5 + 4 + 2 + 32
    at += 1 + hello[at]  # session id
    at += 2 + int.from_bytes(hello[at : at + 2], "big")  # cipher suites
    at += 1 + hello[at]  # compression methods
    size = int.from_bytes(hello[at : at + 2], "big") + len(more)
    message = hello[9:at] + size.to_bytes(2, "big") + hello[at + 2 :] + more
    body = b"\x01" + len(message).to_bytes(3, "big") + message
    return hello[:3] + len(body).to_bytes(2, "big") + body


def wall_now() -> datetime.datetime:
    return datetime.datetime.fromtimestamp(SystemClock().wall(), datetime.UTC)
