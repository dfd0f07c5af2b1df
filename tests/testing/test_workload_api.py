"""Our Workload API is a real one: a foreign gRPC client gets from it what the SPIFFE specification says."""

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from robin.model.address import TcpAddress
from robin.model.secret import Secret
from robin.testing.waiting import eventually
from robin.testing.workload_api import Refusal, WorkloadApi, answer_never, answer_with
from robin.wire.workload_api import FETCH_JWT_SVID, JwtSvid, JwtSvidRequest, parse_reply, render_request

SVID = JwtSvid(spiffe_id="spiffe://example.org/app", svid=Secret(b"a.b.c"), hint="h")
SECURITY = (("workload.spiffe.io", "true"),)


async def ask(
    address: str,
    method: str = FETCH_JWT_SVID,
    *,
    metadata: tuple[tuple[str, str], ...] = SECURITY,
    audiences: tuple[str, ...] = ("aud",),
    timeout: float = 5,
) -> bytes:
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(method)
        reply: bytes = await call(render_request(JwtSvidRequest(audiences=audiences)), metadata=metadata, timeout=timeout)
        return reply


async def code_of(address: str, **more: object) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ask(address, **more)  # type: ignore[arg-type]
    return raised.value.code().name


async def test_a_foreign_client_gets_an_identity_over_unix_and_tcp(tmp_path: Path) -> None:
    for family in ("unix", "tcp"):
        api = WorkloadApi(answer_with((SVID,)))
        address = await (api.start_unix(str(tmp_path / "api")) if family == "unix" else api.start_tcp())
        target = f"127.0.0.1:{address.port}" if isinstance(address, TcpAddress) else f"unix:{address.path}"
        (found,) = parse_reply(Secret(await ask(target)))
        assert (found.spiffe_id, found.hint, len(found.svid)) == ("spiffe://example.org/app", "h", 5)
        assert api.requests == [JwtSvidRequest(audiences=("aud",))]
        await api.close()


async def test_the_rules_of_the_endpoint_are_kept(tmp_path: Path) -> None:
    api = WorkloadApi(answer_with(Refusal(code="PermissionDenied", text="no identity issued")))
    target = f"unix:{(await api.start_unix(str(tmp_path / 'api'))).path}"
    assert await code_of(target, metadata=()) == "INVALID_ARGUMENT"
    assert await code_of(target, metadata=(("workload.spiffe.io", "True"),)) == "INVALID_ARGUMENT"
    assert await code_of(target, audiences=()) == "INVALID_ARGUMENT"
    assert await code_of(target, method="/SpiffeWorkloadAPI/FetchX509Bundles") == "UNIMPLEMENTED"
    assert await code_of(target) == "PERMISSION_DENIED"
    assert len(api.requests) == 1
    await api.close()


async def test_a_hanging_answer_ends_with_the_server(tmp_path: Path) -> None:
    api = WorkloadApi(answer_never)
    target = f"unix:{(await api.start_unix(str(tmp_path / 'api'))).path}"
    assert await code_of(target, timeout=0.1) == "DEADLINE_EXCEEDED"
    await api.close()
    assert not (tmp_path / "api").exists()
    assert api.failures == []


async def test_what_is_not_grpc_is_hung_up_on(tmp_path: Path) -> None:
    api = WorkloadApi(answer_never)
    address = await api.start_unix(str(tmp_path / "api"))
    reader, writer = await asyncio.open_unix_connection(address.path)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await reader.read()
    writer.close()
    await eventually(lambda: not api._peers)
    await api.close()
