"""The channel to the Workload API against real sockets: kept open, renewed when it must be, and never hurt by what listens there."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from robin.model.address import TcpAddress, UnixAddress
from robin.model.secret import Secret
from robin.testing.waiting import eventually
from robin.testing.workload_api import Refusal, WorkloadApi, answer_never, answer_with
from robin.transport.control import ControlChannel
from robin.wire.grpc import GrpcResponse
from robin.wire.workload_api import FETCH_JWT_SVID, SECURITY_METADATA, JwtSvid, JwtSvidRequest, render_request

ONE = answer_with((JwtSvid(spiffe_id="spiffe://example.org/app", svid=Secret(b"a.b.c")),))
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def call(channel: ControlChannel, *, timeout_s: float = 5) -> GrpcResponse:
    request = render_request(JwtSvidRequest(audiences=("broker.example",)))
    return await channel.call(FETCH_JWT_SVID, (SECURITY_METADATA,), request, timeout_s=timeout_s)


@asynccontextmanager
async def raw_server(path: Path, serve: Serve) -> AsyncIterator[ControlChannel]:
    """A peer that does whatever `serve` does with the socket."""
    server = await asyncio.start_unix_server(serve, path)
    channel = ControlChannel(UnixAddress(path=str(path)))
    try:
        yield channel
    finally:
        channel.close()
        server.close()


async def test_calls_share_one_connection(tmp_path: Path) -> None:
    api = WorkloadApi(ONE)
    channel = ControlChannel(await api.start_unix(str(tmp_path / "api")))
    try:
        for _ in range(20):
            assert (await call(channel)).code == "OK"
        assert api.connections == 1
    finally:
        channel.close()
        await api.close()


async def test_a_tcp_endpoint_works_and_has_no_endpoint_id() -> None:
    api = WorkloadApi(ONE)
    channel = ControlChannel(await api.start_tcp())
    try:
        assert (await call(channel)).code == "OK"
        assert channel.endpoint_id() is None
        assert api.metadata[0][":authority"].startswith("127.0.0.1:")
    finally:
        channel.close()
        await api.close()


async def test_an_absent_socket_is_unavailable_and_may_appear_later(tmp_path: Path) -> None:
    path = str(tmp_path / "api")
    channel = ControlChannel(UnixAddress(path=path))
    assert (await call(channel)).code == "Unavailable"
    assert channel.endpoint_id() is None
    api = WorkloadApi(ONE)
    await api.start_unix(path)
    try:
        assert (await call(channel)).code == "OK"
        assert channel.endpoint_id() is not None
    finally:
        channel.close()
        await api.close()


@pytest.mark.parametrize("kind", ["file", "directory", "stale socket", "too long"])
async def test_what_is_no_endpoint_is_unavailable(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("x" * 200 if kind == "too long" else "api")
    if kind == "file":
        path.write_bytes(b"")
    elif kind == "directory":
        path.mkdir()
    elif kind == "stale socket":
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
    answer = await call(ControlChannel(UnixAddress(path=str(path))))
    assert answer.code == "Unavailable"
    assert answer.text


async def test_a_closed_tcp_port_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    assert (await call(ControlChannel(TcpAddress(host="127.0.0.1", port=port)))).code == "Unavailable"


async def test_a_replaced_socket_gets_a_new_connection(tmp_path: Path) -> None:
    path = str(tmp_path / "api")
    old, new = WorkloadApi(ONE), WorkloadApi(ONE)
    await old.start_unix(path)
    channel = ControlChannel(UnixAddress(path=path))
    try:
        await call(channel)
        os.rename(path, path + ".old")  # the old agent lives on, unreachable
        await new.start_unix(path)
        await call(channel)
        assert (old.connections, new.connections) == (1, 1)
        assert (len(old.requests), len(new.requests)) == (1, 1)
    finally:
        channel.close()
        await new.close()
        await old.close()


async def test_a_restarted_endpoint_is_reached_by_the_next_call(tmp_path: Path) -> None:
    path = str(tmp_path / "api")
    channel = ControlChannel(UnixAddress(path=path))
    for _ in range(3):
        api = WorkloadApi(ONE)
        await api.start_unix(path)
        assert (await call(channel)).code == "OK"
        await api.close()
        await eventually(lambda: channel._connection is not None and not channel._connection.grpc.usable)
    channel.close()


async def test_one_deadline_keeps_the_connection_and_two_in_a_row_renew_it(tmp_path: Path) -> None:
    api = WorkloadApi(answer_never)
    channel = ControlChannel(await api.start_unix(str(tmp_path / "api")))
    try:
        api.answer = ONE
        assert (await call(channel)).code == "OK"  # connected: no deadline below counts the time that takes
        for _ in range(3):
            api.answer = answer_never
            assert (await call(channel, timeout_s=0.05)).code == "DeadlineExceeded"
            api.answer = ONE
            assert (await call(channel)).code == "OK"
        assert api.connections == 1
        api.answer = answer_never
        for _ in range(2):
            assert (await call(channel, timeout_s=0.05)).code == "DeadlineExceeded"
        api.answer = ONE
        assert (await call(channel)).code == "OK"
        assert api.connections == 2
    finally:
        channel.close()
        await api.close()


async def test_a_cancelled_call_is_reset_at_the_peer_and_the_next_one_works(tmp_path: Path) -> None:
    api = WorkloadApi(answer_never)
    channel = ControlChannel(await api.start_unix(str(tmp_path / "api")))
    try:
        running = asyncio.ensure_future(call(channel))
        await eventually(lambda: len(api.requests) == 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        api.answer = ONE
        assert (await call(channel)).code == "OK"
        assert api.connections == 1
    finally:
        channel.close()
        await api.close()


async def test_a_refusal_keeps_the_connection(tmp_path: Path) -> None:
    api = WorkloadApi(answer_with(Refusal(code="PermissionDenied", text="no identity issued")))
    channel = ControlChannel(await api.start_unix(str(tmp_path / "api")))
    try:
        for _ in range(3):
            answer = await call(channel)
            assert (answer.code, answer.text) == ("PermissionDenied", "no identity issued")
        assert api.connections == 1
    finally:
        channel.close()
        await api.close()


async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def close_at_once(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.transport.abort()


async def speak_http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    await reader.read()


async def flood_with_pings(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\0\0\0\4\0\0\0\0\0")
    while True:
        writer.write((b"\0\0\x08\6\0\0\0\0\0" + bytes(8)) * 100)
        await writer.drain()


async def flood_with_noise(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(os.urandom(65536))
        await writer.drain()


async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in b"\0\0\0\4\0\0\0\0\0" * 1000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.01)  # bytes keep coming, and the deadline stands all the same


HOSTILE: list[tuple[Serve, str]] = [
    (hang, "DeadlineExceeded"),
    (drip, "DeadlineExceeded"),
    (close_at_once, "Unavailable"),
    (reset, "Unavailable"),
    (speak_http1, "Unavailable"),
    (flood_with_pings, "Unavailable"),
    (flood_with_noise, "Unavailable"),
]


@pytest.mark.parametrize(("serve", "code"), HOSTILE, ids=lambda value: getattr(value, "__name__", str(value)))
async def test_a_hostile_peer_is_an_answer_within_the_deadline(tmp_path: Path, serve: Serve, code: str) -> None:
    loop = asyncio.get_running_loop()
    wrapped: set[asyncio.Task[None]] = set()

    async def serve_quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        wrapped.add(task)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async with raw_server(tmp_path / "api", serve_quietly) as channel:
        for _ in range(3):
            began = loop.time()
            limit_s = 0.2 if code == "DeadlineExceeded" else 20
            answer = await call(channel, timeout_s=limit_s)
            assert answer.code == code
            assert loop.time() - began < limit_s + 5
        for task in wrapped:
            task.cancel()
        await asyncio.gather(*wrapped, return_exceptions=True)


async def test_a_peer_that_does_not_speak_http2_is_hung_up_on_without_a_further_call(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def wait_for_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        ended.set()
        writer.close()

    async with raw_server(tmp_path / "api", wait_for_the_end) as channel:
        assert (await call(channel)).code == "Unavailable"
        async with asyncio.timeout(10):
            await ended.wait()


async def test_a_peer_that_spoils_the_connection_before_the_call_is_unavailable_and_no_bug_of_ours(tmp_path: Path) -> None:
    async def speak_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    async with raw_server(tmp_path / "api", speak_first) as channel:
        connection = await channel._reach()
        await eventually(lambda: not connection.grpc.usable, what="the peer's bytes to be refused")
        answer = await connection.call(FETCH_JWT_SVID, (), b"", deadline_at=asyncio.get_running_loop().time() + 5)
        assert answer.code == "Unavailable"


async def test_a_peer_that_resets_the_tcp_connection_is_unavailable() -> None:
    async def linger_zero(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    server = await asyncio.start_server(linger_zero, "127.0.0.1", 0)
    channel = ControlChannel(TcpAddress(host="127.0.0.1", port=server.sockets[0].getsockname()[1]))
    try:
        assert (await call(channel)).code == "Unavailable"
    finally:
        channel.close()
        server.close()


async def test_thousands_of_calls_leave_nothing_behind(tmp_path: Path) -> None:
    api = WorkloadApi(ONE)
    channel = ControlChannel(await api.start_unix(str(tmp_path / "api")))
    try:
        await call(channel)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(2500):
            assert (await call(channel)).code == "OK"
        assert api.connections == 3  # a line is renewed after a thousand calls
        await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)  # fewer, where another test's last ones went meanwhile
    finally:
        channel.close()
        await api.close()
    assert api.failures == []


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_every_outcome_is_the_same_on_both_loops(tmp_path: Path, run: Callable[[Awaitable[None]], None]) -> None:
    async def walk() -> None:
        path = str(tmp_path / "api")
        channel = ControlChannel(UnixAddress(path=path))
        assert (await call(channel)).code == "Unavailable"
        (tmp_path / "api").write_bytes(b"")
        assert (await call(channel)).code == "Unavailable"
        for _ in range(2):
            api = WorkloadApi(ONE)
            await api.start_unix(path)
            assert (await call(channel)).code == "OK"
            api.answer = answer_never
            assert (await call(channel, timeout_s=0.05)).code == "DeadlineExceeded"
            running = asyncio.ensure_future(call(channel))
            await eventually(lambda: len(api.requests) == 3)  # noqa: B023 - called before the next turn
            running.cancel()
            assert isinstance((await asyncio.gather(running, return_exceptions=True))[0], asyncio.CancelledError)
            api.answer = ONE
            assert (await call(channel)).code == "OK"
            running = asyncio.ensure_future(call(channel))
            api.answer = answer_never
            await eventually(lambda: len(api.requests) == 5)  # noqa: B023 - called before the next turn
            await api.close()
            assert (await running).code == "Unavailable"
        assert (await call(ControlChannel(UnixAddress(path="/" + "x" * 200)))).code == "Unavailable"
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            assert (await call(ControlChannel(TcpAddress(host="127.0.0.1", port=taken.getsockname()[1])))).code == "Unavailable"
        channel.close()

    run(walk())


async def test_a_call_cancelled_at_any_of_its_awaits_leaves_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    api = WorkloadApi(ONE)
    address = await api.start_unix(str(tmp_path / "api"))
    before = len(os.listdir("/proc/self/fd"))
    finished = 0
    for turns in range(40):
        channel = ControlChannel(address)
        for _ in range(2):  # on a new connection, and on the one kept open
            running = asyncio.ensure_future(call(channel))
            for _ in range(turns):
                await asyncio.sleep(0)
            running.cancel()
            (outcome,) = await asyncio.gather(running, return_exceptions=True)
            finished += isinstance(outcome, GrpcResponse)
        assert (await call(channel)).code == "OK"
        channel.close()
    assert 0 < finished < 80
    await eventually(lambda: len(os.listdir("/proc/self/fd")) == before, what="the descriptors to be let go")
    await api.close()
    assert api.failures == []
