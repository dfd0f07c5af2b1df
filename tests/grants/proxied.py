"""A proxy with real token grants, one issuer and one origin whose responses the test decides, all on real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from robin.testing.authority import IdentityAuthority
from robin.testing.connection import PeerLeft, ScriptedConnection
from robin.testing.embedded_identity import EmbeddedIdentities
from robin.testing.manual_clock import ManualClock
from robin.testing.message import MalformedRequest, ReceivedRequest
from robin.testing.provider_proxy import ProviderProxy
from robin.testing.server import ScriptedServer
from robin.transport.clock import Clock, SystemClock

Reply = Callable[[ReceivedRequest], bytes]


def reply(status: int, body: bytes = b"", *fields: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 %d X" % status, *fields, b"Content-Length: %d" % len(body), b"", body])


def token_reply(token: str, **members: object) -> bytes:
    body = {"access_token": token, "token_type": "Bearer", "expires_in": 300, **members}
    return reply(200, json.dumps(body).encode(), b"Content-Type: application/json")


class Answering(ScriptedServer):
    """Responds to each request with `reply(request)`, once `gate` is set; `seen` are the requests."""

    def __init__(self, made: Reply) -> None:
        super().__init__(self._serve)
        self.reply = made
        self.seen: list[ReceivedRequest] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def _serve(self, connection: ScriptedConnection) -> None:
        try:
            while True:
                request = await connection.read_request()
                self.seen.append(request)
                octets = self.reply(request)
                await self.gate.wait()
                await connection.send(octets)
        except (PeerLeft, MalformedRequest, TimeoutError):
            return


class World:
    """`ask` sends one request on a connection of its own and returns status, head and body."""

    def __init__(
        self, proxy: ProviderProxy, issuer: Answering, origin: Answering, identities: EmbeddedIdentities, text: Callable[..., str]
    ) -> None:
        self.proxy = proxy
        self.issuer = issuer
        self.origin = origin
        self.identities = identities
        self.text = text
        self.clock: Clock = proxy.parts.clock

    @property
    def authorizations(self) -> list[list[bytes]]:
        """What the origin saw."""
        return [request.values(b"authorization") for request in self.origin.seen]

    async def ask(
        self, path: str = "/", *, method: str = "GET", fields: str = "", body: bytes = b"", host: str = "a.localhost"
    ) -> "Response":
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.port)
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
credentials: [{name: token, token_grant: {token_endpoint: "http://127.0.0.1:%(issuer)d/token", issuer: "https://issuer.example"%(grant)s}}%(credentials)s]
endpoints: %(endpoints)s
"""


@asynccontextmanager
async def world(
    folder: Path,
    *,
    grant: str = "",
    credentials: str = "",
    endpoints: str = "[{host: a.localhost, port: %(port)d, tls: none}]",
    grants: str = "{}",
    callers: str = "['*']",
    manual: bool = False,
) -> AsyncIterator[World]:
    """The proxy with one provider. `manual`: its clock is a ManualClock."""
    count = iter(range(1_000_000))
    issuer = Answering(lambda _: token_reply(f"token-{next(count)}"))
    origin = Answering(lambda _: reply(200, b"in"))
    clock = ManualClock() if manual else SystemClock()
    identities = EmbeddedIdentities(IdentityAuthority(trust_domain="robin.local", clock=clock), clock)
    async with issuer, origin:
        values = {
            "issuer": issuer.port,
            "port": origin.port,
            "grant": grant and f", {grant}",
            "credentials": credentials and f", {credentials}",
        }
        values["credentials"] = values["credentials"] % values if values["credentials"] else ""

        def text(endpoints: str = endpoints, callers: str = callers, grant: str = grant) -> str:
            now = values | {"grant": grant and f", {grant}"}
            (folder / "p.yaml").write_text(PROFILE % (now | {"endpoints": endpoints % values}))
            hosts = "[a.localhost, b.localhost, c.localhost]"
            return f"profiles: [p.yaml]\nproviders: [{{profile: demo, callers: {callers}, unsafe_plaintext: {hosts}}}]\ngrants: {grants}\n"

        names = frozenset({"a.localhost", "b.localhost", "c.localhost"})
        async with ProviderProxy(text(), folder, identities, names=names, clock=clock) as proxy:
            yield World(proxy, issuer, origin, identities, text)
        assert proxy.failures == []
