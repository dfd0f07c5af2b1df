"""The real gateway in this process, one issuer and one origin whose responses the test decides, all on real sockets."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.secrets_seen import SECRET

from robin.testing.authority import IdentityAuthority
from robin.testing.connection import PeerLeft, ScriptedConnection
from robin.testing.embedded_gateway import EmbeddedGateway
from robin.testing.embedded_identity import EmbeddedIdentities
from robin.testing.manual_clock import ManualClock
from robin.testing.message import MalformedRequest, ReceivedRequest
from robin.testing.server import ScriptedServer
from robin.testing.waiting import eventually
from robin.transport.clock import Clock, SystemClock

Reply = Callable[[ReceivedRequest], bytes | Iterable[bytes]]


def reply(status: int, body: bytes = b"", *fields: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 %d X" % status, *fields, b"Content-Length: %d" % len(body), b"", body])


def token_reply(token: str, **members: object) -> bytes:
    body = {"access_token": token, "token_type": "Bearer", "expires_in": 300, **members}
    return reply(200, json.dumps(body).encode(), b"Content-Type: application/json")


class Answering(ScriptedServer):
    """Responds to each request with `reply(request)`, once `gate` is set; to nothing with a close. `seen` are the requests.

    A reply may be made of pieces, without an end too. `connections` counts those that were accepted.
    """

    def __init__(self, made: Reply, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(self._serve, tls=tls)
        self.reply = made
        self.seen: list[ReceivedRequest] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.connections = 0

    def accepted(self, connection: ScriptedConnection) -> None:
        self.connections += 1

    async def _serve(self, connection: ScriptedConnection) -> None:
        try:
            while True:
                request = await connection.read_request()
                self.seen.append(request)
                octets = self.reply(request)
                await self.gate.wait()
                if not octets:
                    return
                for piece in (octets,) if isinstance(octets, bytes) else octets:
                    await connection.send(piece)
        except (PeerLeft, MalformedRequest, TimeoutError):
            return


class World:
    """`ask` sends one request on a connection of its own and returns status, head and body. `configure` writes the files anew."""

    def __init__(
        self,
        gateway: EmbeddedGateway,
        issuer: Answering,
        origin: Answering,
        identities: EmbeddedIdentities,
        configure: Callable[..., None],
        clock: Clock,
    ) -> None:
        self.gateway = gateway
        self.issuer = issuer
        self.origin = origin
        self.identities = identities
        self.clock = clock
        self._configure = configure

    def reload(self, **changes: object) -> None:
        """Another configuration, as by SIGHUP."""
        self._configure(**changes)
        self.gateway.reload()

    async def lines(self, event: str, count: int) -> list[dict[str, Any]]:
        """The records of one kind, once there are so many."""

        def found() -> list[dict[str, Any]] | None:
            lines = [line for line in self.gateway.lines if line["event"] == event]
            return lines if len(lines) >= count else None

        lines = await eventually(found, what=f"{count} lines {event}")
        assert lines is not None
        return lines

    async def scrape(self) -> bytes:
        """The metrics."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.admin_port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(30):
            octets = await reader.read()
        writer.close()
        return octets

    def drop_tokens(self) -> None:
        """Detach the provider and attach it again, so that the next request of each grant calls its issuer."""
        self.reload(attached=False)
        self.reload()

    @property
    def authorizations(self) -> list[list[bytes]]:
        """What the origin saw."""
        return [request.values(b"authorization") for request in self.origin.seen]

    async def ask(
        self, path: str = "/", *, method: str = "GET", fields: str = "", body: bytes = b"", host: str = "a.localhost"
    ) -> "Response":
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        try:
            place = f"{host}:{self.origin.port}"
            length = f"Content-Length: {len(body)}\r\n" if body and "chunked" not in fields else ""
            head = f"{method} http://{place}{path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n{length}{fields}\r\n"
            writer.write(head.encode() + body)
            async with asyncio.timeout(30):
                return Response(await reader.read())
        finally:
            writer.close()


class Response:
    def __init__(self, octets: bytes) -> None:
        self.head, _, self.body = octets.partition(b"\r\n\r\n")
        self.status = int(self.head.split()[1])

    def value(self, name: str) -> str | None:
        found = [line.partition(": ")[2] for line in self.head.decode().split("\r\n") if line.lower().startswith(name.lower() + ":")]
        return found[0] if found else None

    @property
    def problem(self) -> dict[str, object]:
        value: dict[str, object] = json.loads(self.body)
        return value


PROFILE = """\
id: demo
display_name: Demo
credentials: [{%(first)s}%(credentials)s]
endpoints: %(endpoints)s
"""


FIRST = 'name: token%(style)s, token_grant: {token_endpoint: "%(issuer_url)s/token", issuer: "https://issuer.example"%(grant)s}'


NAMES = ["a.localhost", "b.localhost", "c.localhost"]


@asynccontextmanager
async def world(
    folder: Path,
    *,
    grant: str = "",
    style: str = "",
    credentials: str = "",
    endpoints: str = "[{host: a.localhost, port: %(port)d, tls: none}]",
    grants: dict[str, object] | None = None,
    callers: list[str] | None = None,
    section: dict[str, object] | None = None,
    issuer_tls: ssl.SSLContext | None = None,
    issuer_host: str = "127.0.0.1",
    manual: bool = False,
    provider: dict[str, object] | None = None,
    plain: str = "",
    chain: str = "",
) -> AsyncIterator[World]:
    """The gateway with one provider. `manual`: its clock is a ManualClock. `plain`: the credential in place of ours, `chain`: its grant."""
    count = iter(range(1_000_000))
    issuer = Answering(lambda _: token_reply(f"token-{next(count)}"), issuer_tls)
    origin = Answering(lambda _: reply(200, b"in"))
    clock: Clock = ManualClock() if manual else SystemClock()
    authority = IdentityAuthority(trust_domain="robin.local", clock=clock)
    identities = EmbeddedIdentities(authority, clock, others={"first": "/demo/first"})
    first = {"endpoints": endpoints, "callers": callers or ["*"], "grant": grant}
    async with issuer, origin:
        ports = {"issuer": issuer.port, "port": origin.port, "issuer_url": f"http{'s' if issuer_tls else ''}://{issuer_host}:{issuer.port}"}

        def configure(*, attached: bool = True, permit: bool = True, **changes: object) -> None:
            now: dict[str, object] = first | changes
            text = {"grant": now["grant"] and f", {now['grant']}", "endpoints": str(now["endpoints"]) % ports}
            text["credentials"] = credentials and f", {credentials % ports}"
            text["style"] = style and f", {style}"
            first_credential = FIRST
            if plain or chain:
                first_credential = plain or f"name: token, token_grant: {{{chain.replace('%(url)s', ports['issuer_url'])}}}"  # type: ignore[arg-type]
            text["first"] = first_credential % (ports | text)
            (folder / "p.yaml").write_text(PROFILE % (ports | text))
            attach: dict[str, object] = {"profile": "demo", "callers": now["callers"], "unsafe_plaintext": [*NAMES, issuer_host]}
            attach |= {"permit": permit, **(provider or {})}
            settings = {
                "listeners": [{"name": "proxy", "listen": "127.0.0.1:0"}],
                "admin": {"listen": "127.0.0.1:0"},
                "drain": {"min": "0s", "max": "1s"},
                "callers": {"demo-app": ["k8s:demo/app"]},
                "profiles": ["p.yaml"],
                "providers": [attach] if attached else [],
                "grants": grants or {},
                "addresses": {"hosts": {name: ["127.0.0.1"] for name in NAMES}, "unsafe_loopback": [f"127.0.0.1:{origin.port}"]},
                **(section or {}),
            }
            text_of = (
                json.dumps({"version": 1, "gateway": settings}).replace('"PORT"', str(origin.port)).replace(":PORT", f":{origin.port}")
            )
            (folder / "robin.yaml").write_text(text_of)

        configure()
        async with EmbeddedGateway(folder / "robin.yaml", identities, clock=clock) as gateway:
            at = World(gateway, issuer, origin, identities, configure, clock)
            yield at
            assert SECRET.search(await at.scrape()) is None
        assert not [line for line in at.gateway.lines if line["event"] in {"task_failed", "loop_failed", "exchange_failed"}]
