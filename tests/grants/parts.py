"""What the grant tests are built from: an identity set by hand, a permit for a grant, and a small real issuer with a client of its own."""

import asyncio
import json
from dataclasses import replace
from urllib.parse import urlsplit

from tests.permits import permit_to, route

from robin.grants.grant import Flow, GrantFailure, GrantFailureClass, Inputs, IssuedCredential, usable_s
from robin.identity.issuer import IssuerRequest, IssuerResponse, IssuerUnreachable
from robin.model.faults import Fault
from robin.model.identity import IdentityStatus, IdentityToken
from robin.model.origin import Origin
from robin.model.secret import Secret
from robin.model.verdict import Permit
from robin.testing.tokens import make_token
from robin.wire.jwt_inspection import TokenRules, inspect_token


def permit(grant: str) -> Permit:
    """Leave for a route whose credentials come from `grant`."""
    return permit_to(Origin(scheme="https", host="api.example", port=443, authority=b"api.example"), replace(route(), grant=grant))


def new_token() -> IdentityToken:
    return inspect_token(Secret(make_token(expires_at=2_000_000_000)), TokenRules(), now=1_780_000_000)


class FixedIdentity:
    """An identity whose token the test puts in place."""

    def __init__(self) -> None:
        self.token: IdentityToken | None = new_token()
        self.refused: list[IdentityToken] = []
        self.after_rejected: IdentityToken | None = None

    def ready(self) -> IdentityToken | None:
        return self.token

    async def obtain(self) -> IdentityToken:
        if self.token is None:
            raise Fault("identity_unavailable", "missing: no token; mount it")
        return self.token

    def rejected(self, token: IdentityToken) -> None:
        self.refused.append(token)
        self.token = self.after_rejected or self.token

    async def renew(self, token: IdentityToken) -> IdentityToken:
        self.rejected(token)
        return await self.obtain()

    async def fresh(self) -> IdentityToken:
        return await self.obtain()

    def status(self) -> IdentityStatus:
        raise AssertionError("a grant asks for tokens, not for the state")

    async def start(self) -> None:
        raise AssertionError("the app starts identities")

    async def close(self) -> None:
        raise AssertionError("the app closes identities")

    def wake(self) -> None:
        raise AssertionError("the app wakes identities")


class Issuer:
    """A token endpoint on a real socket. `replies` are taken in turn, (status, JSON); the last one stays."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.replies: list[tuple[int, object]] = [(200, {"access_token": "one", "expires_in": 300})]
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""
        self.open = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> "Issuer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/token"
        return self

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            await self._respond(reader, writer)
        except OSError:
            pass  # the client left
        finally:
            writer.close()
            self.open -= 1

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        self.bodies.append(await reader.readexactly(length))
        await self.gate.wait()
        status, value = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        body = json.dumps(value).encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()


class SocketClient:
    """An IssuerClient of a few lines over asyncio's own streams."""

    async def send(self, request: IssuerRequest, deadline_at: float) -> IssuerResponse:
        url = urlsplit(request.url)
        try:
            reader, writer = await asyncio.open_connection(url.hostname, url.port)
        except OSError:
            raise IssuerUnreachable("connect") from None
        body = request.body.reveal() if request.body is not None else b""
        writer.write(f"{request.method} {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        try:
            octets = await reader.read()
        finally:
            writer.close()
        head, _, rest = octets.partition(b"\r\n\r\n")
        if len(rest) > request.limit_bytes:
            raise IssuerUnreachable("too_large", answered=True)
        return IssuerResponse(status=int(head.split()[1]), fields={}, body=Secret(rest))


class Exchange:
    """A second kind of grant: one call to an issuer."""

    def __init__(self, url: str) -> None:
        self.url = url

    def flow(self, inputs: Inputs, now: float) -> Flow:
        assert inputs.identity is not None
        response = yield IssuerRequest(method="POST", url=self.url, body=Secret(b"assertion=" + inputs.identity.value.reveal()))
        if response.status == 401:
            raise GrantFailure(GrantFailureClass.REAUTHORIZE, "subject_refused", "invalid_grant: the issuer refused the assertion")
        if response.status != 200:
            raise GrantFailure(GrantFailureClass.FIX_CONFIGURATION, "grant_refused", f"status_{response.status}: the issuer refused")
        answer = json.loads(response.body.reveal())
        return IssuedCredential(token=Secret(answer["access_token"].encode()), usable_s=usable_s(answer.get("expires_in")))
