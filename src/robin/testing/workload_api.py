"""A small real SPIFFE Workload API: FetchJWTSVID, its responses made by a function that may be replaced, and FetchX509SVID as a stream.

It keeps the rules of the endpoint: no security metadata or no audience is InvalidArgument, any other method Unimplemented.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from robin.model.address import TcpAddress, UnixAddress
from robin.testing.grpc_serve import GrpcRequest, GrpcServer
from robin.transport.tasks import TaskOwner
from robin.wire.protobuf import BadMessage
from robin.wire.workload_api import FETCH_JWT_SVID, JwtSvid, JwtSvidRequest, parse_request, render_reply
from robin.wire.workload_x509 import FETCH_X509_SVID, X509SvidMessage, render_x509_reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A response of a status alone."""

    code: str
    text: str = ""


Outcome = tuple[JwtSvid, ...] | Refusal
Answer = Callable[[JwtSvidRequest], Awaitable[Outcome]]


def answer_with(outcome: Outcome) -> Answer:
    """An Answer that is always this one."""

    async def answer(_request: JwtSvidRequest) -> Outcome:
        return outcome

    return answer


async def answer_never(_request: JwtSvidRequest) -> Outcome:
    """An Answer that hangs."""
    await asyncio.Event().wait()
    raise AssertionError("an event that is never set was set")


class WorkloadApi:
    """One endpoint. `answer` may be replaced at any time; `requests` and `metadata` record every FetchJWTSVID; `connections` counts."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[JwtSvidRequest] = []
        self.metadata: list[dict[str, str]] = []
        self.connections = 0
        self.x509: tuple[X509SvidMessage, ...] | Refusal = Refusal(code="PermissionDenied", text="no identity issued")
        self._watchers: set[tuple[_Peer, int]] = set()
        self.failures: list[BaseException] = []
        self.address: UnixAddress | TcpAddress | None = None
        self._tasks = TaskOwner(lambda _name, error: self.failures.append(error))
        self._peers: set[_Peer] = set()
        self._server: asyncio.Server | None = None

    async def start_unix(self, path: str) -> UnixAddress:
        """Listen on a Unix socket; a stale one is replaced."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._server = await asyncio.get_running_loop().create_unix_server(self._connect, path)
        self.address = UnixAddress(path=path)
        return self.address

    async def start_tcp(self, port: int = 0) -> TcpAddress:
        """Listen on 127.0.0.1."""
        self._server = await asyncio.get_running_loop().create_server(self._connect, "127.0.0.1", port)
        self.address = TcpAddress(host="127.0.0.1", port=self._server.sockets[0].getsockname()[1])
        return self.address

    async def close(self) -> None:
        """Stop listening, drop every connection, and remove the socket."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for peer in list(self._peers):
            peer.transport.abort()
        await self._tasks.close()
        await server.wait_closed()
        if isinstance(self.address, UnixAddress):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.address.path)

    def replace_x509(self, outcome: "tuple[X509SvidMessage, ...] | Refusal") -> None:
        """What FetchX509SVID gives from now on, to those that watch it as well."""
        self.x509 = outcome
        for peer, stream in list(self._watchers):
            self._watchers.discard((peer, stream))
            self.watch(peer, stream)

    def watch(self, peer: "_Peer", stream: int) -> None:
        """Send what there is on a call of FetchX509SVID, which stays open unless it is refused."""
        if isinstance(self.x509, Refusal):
            peer.machine.refuse(stream, self.x509.code, self.x509.text)
        elif peer.machine.stream(stream, render_x509_reply(self.x509)):
            self._watchers.add((peer, stream))
        peer.flush()

    def _connect(self) -> "_Peer":
        self.connections += 1
        return _Peer(self)

    async def serve(self, request: GrpcRequest) -> bytes | Refusal:
        """Return the response to one call: the bytes of the reply, or a refusal."""
        if request.path != FETCH_JWT_SVID:
            return Refusal(code="Unimplemented", text="unknown method")
        if request.metadata.get("workload.spiffe.io") != "true":
            return Refusal(code="InvalidArgument", text="security header missing from request")
        try:
            asked = parse_request(request.message or b"")
        except BadMessage as error:
            return Refusal(code="InvalidArgument", text=str(error))
        if not asked.audiences:
            return Refusal(code="InvalidArgument", text="audience must be specified")
        self.requests.append(asked)
        self.metadata.append(request.metadata)
        outcome = await self.answer(asked)
        return outcome if isinstance(outcome, Refusal) else render_reply(outcome)


class _Peer(asyncio.Protocol):
    """One connection of a workload."""

    def __init__(self, api: WorkloadApi) -> None:
        self.api = api
        self.transport: Any = None
        self.machine = GrpcServer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.api._peers.add(self)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.api._peers.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            calls = self.machine.receive(data)
        except Exception:  # noqa: BLE001 - whatever it was, it was not gRPC
            self.flush()
            self.transport.close()
            return
        for call in calls:
            if call.path == FETCH_X509_SVID and call.metadata.get("workload.spiffe.io") == "true":
                self.api.watch(self, call.stream)
                continue
            self.api._tasks.start(self._answer(call), "workload api call")
        self.flush()

    async def _answer(self, call: GrpcRequest) -> None:
        outcome = await self.api.serve(call)
        if isinstance(outcome, Refusal):
            self.machine.refuse(call.stream, outcome.code, outcome.text)
        else:
            self.machine.reply(call.stream, outcome)
        self.flush()

    def flush(self) -> None:
        """Send what is pending."""
        if not self.transport.is_closing() and (outgoing := self.machine.outgoing()):
            self.transport.write(outgoing)
