"""Every identity source behaves as a source, against our own platform and against servers that we did not write."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from robin.identity.sources.file import FileSource
from robin.identity.sources.jwtsvid import JwtSvidSource
from robin.model.address import TcpAddress, UnixAddress
from robin.model.secret import Secret
from robin.telemetry.identity_metrics import IdentityMetrics
from robin.testing.check_source import Platform, check_source
from robin.testing.workload_api import Refusal, WorkloadApi, answer_never, answer_with
from robin.transport.control import ControlChannel
from robin.wire.workload_api import FETCH_JWT_SVID, JwtSvid, parse_request, render_reply

SPIFFE_ID = "spiffe://example.org/app"


async def test_the_file_source_conforms(tmp_path: Path) -> None:
    path = tmp_path / "token"

    async def offer(token: bytes) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_bytes(token)
        os.replace(fresh, path)

    async def withdraw() -> None:
        path.unlink()

    source = FileSource(str(path), IdentityMetrics("file"))
    await check_source(Platform(source=source, audience="broker.example", offer=offer, withdraw=withdraw, wall=time.time()))


async def conforms(
    address: UnixAddress | TcpAddress,
    offer: Callable[[bytes], Awaitable[None]],
    withdraw: Callable[[], Awaitable[None]],
    stall: Callable[[], Awaitable[None]],
    *,
    owns: Callable[[asyncio.Task[Any]], bool],
) -> None:
    """The suite, on a Workload API at this address."""
    channel = ControlChannel(address)
    source = JwtSvidSource(channel, spiffe_id=None, hint=None, timeout_s=5)
    platform = Platform(source=source, audience="broker.example", offer=offer, withdraw=withdraw, stall=stall, owns=owns, wall=time.time())
    try:
        await check_source(platform)
    finally:
        channel.close()


@pytest.mark.parametrize("family", ["unix", "tcp"])
async def test_the_jwtsvid_source_conforms_with_our_workload_api(tmp_path: Path, family: str) -> None:
    api = WorkloadApi(answer_never)
    address = await (api.start_unix(str(tmp_path / "api.sock")) if family == "unix" else api.start_tcp())

    async def offer(token: bytes) -> None:
        api.answer = answer_with((JwtSvid(spiffe_id=SPIFFE_ID, svid=Secret(token)),))

    async def withdraw() -> None:
        api.answer = answer_with(Refusal(code="PermissionDenied", text="no identity issued"))

    async def stall() -> None:
        api.answer = answer_never

    try:
        await conforms(address, offer, withdraw, stall, owns=lambda task: task.get_name() == "workload api call")
    finally:
        await api.close()
    assert api.failures == []
    assert all(metadata["workload.spiffe.io"] == "true" for metadata in api.metadata)


class ForeignApi:
    """The Workload API on grpcio, whose HTTP/2 and gRPC are C-core's."""

    def __init__(self) -> None:
        self.reply: bytes | None = b""
        self.stalled = False
        self.audiences: set[tuple[str, ...]] = set()

    async def fetch(self, request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        metadata = {str(name): value for name, value in context.invocation_metadata() or ()}
        if metadata.get("workload.spiffe.io") != "true":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        self.audiences.add(parse_request(request).audiences)
        if self.stalled:
            await asyncio.Event().wait()
        if self.reply is None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued: Ünïcode % text")
        assert self.reply is not None
        return self.reply


@asynccontextmanager
async def foreign_server(api: ForeignApi, where: str) -> AsyncIterator[int]:
    server = grpc.aio.server()
    service, method = FETCH_JWT_SVID.strip("/").split("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(api.fetch)}),)
    )
    port = server.add_insecure_port(where)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(grace=0)


@pytest.mark.parametrize("family", ["unix", "tcp"])
async def test_the_jwtsvid_source_conforms_with_a_foreign_grpc_server(tmp_path: Path, family: str) -> None:
    api = ForeignApi()

    async def offer(token: bytes) -> None:
        api.stalled = False
        api.reply = render_reply((JwtSvid(spiffe_id=SPIFFE_ID, svid=Secret(token)),))

    async def withdraw() -> None:
        api.reply = None

    async def stall() -> None:
        api.stalled = True

    path = str(tmp_path / "foreign.sock")
    async with foreign_server(api, f"unix:{path}" if family == "unix" else "127.0.0.1:0") as port:
        address = UnixAddress(path=path) if family == "unix" else TcpAddress(host="127.0.0.1", port=port)
        foreign = "_cython"  # where the tasks of grpcio's own server come from
        await conforms(address, offer, withdraw, stall, owns=lambda task: type(task.get_coro()).__module__.startswith(foreign))
    assert api.audiences == {("broker.example",)}


async def test_a_large_reply_of_a_foreign_server_passes_its_flow_control(tmp_path: Path) -> None:
    api = ForeignApi()
    many = tuple(JwtSvid(spiffe_id=f"{SPIFFE_ID}/{number}", svid=Secret(b"x" * 900), hint=str(number)) for number in range(900))
    api.reply = render_reply(many)
    path = str(tmp_path / "foreign.sock")
    async with foreign_server(api, f"unix:{path}"):
        channel = ControlChannel(UnixAddress(path=path))
        try:
            raw = await JwtSvidSource(channel, spiffe_id=None, hint="899", timeout_s=5).fetch("broker.example")
        finally:
            channel.close()
    assert len(api.reply) > 800_000
    assert raw.issued_to == f"{SPIFFE_ID}/899"
