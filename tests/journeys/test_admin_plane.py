"""The admin plane of the real process: separate from the proxy, free of fetches, quick under load, and quit by its rules (C5, K2, K6)."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tests.corpus.rig import running
from tests.telemetry.strict_text import read_strictly

from robin.model.secret import Secret
from robin.testing.authority import IdentityAuthority
from robin.testing.connection import ScriptedConnection
from robin.testing.message import ReceivedRequest
from robin.testing.process import SidecarProcess
from robin.testing.recording_upstream import RecordingUpstream
from robin.testing.waiting import eventually
from robin.testing.workload_api import WorkloadApi, answer_with
from robin.wire.workload_api import JwtSvid


class AdminCaller:
    """A raw keep-alive connection to the admin listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, path: str, method: str = "GET", *fields: str) -> tuple[int, bytes, bytes]:
        """Status, head and body."""
        self.writer.write("\r\n".join([f"{method} {path} HTTP/1.1", "Host: admin", *fields, "", ""]).encode())
        async with asyncio.timeout(30):
            head = await self.reader.readuntil(b"\r\n\r\n")
            (length,) = [line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")]
            return int(head.split(b" ")[1]), head, await self.reader.readexactly(int(length))


@contextlib.asynccontextmanager
async def reach(robin: SidecarProcess) -> AsyncIterator[AdminCaller]:
    """A connection to the admin listener of a running sidecar."""
    host, _, port = robin.admin[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield AdminCaller(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def raw_get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def test_c5_the_proxy_serves_no_admin_path_and_the_admin_plane_no_upstream_path(tmp_path: Path):
    paths = ("/healthz", "/livez", "/startupz", "/readyz", "/metrics", "/quitquitquit")
    async with running(tmp_path, settings={"ROBIN_ADMIN_QUIT": "true"}) as rig:
        for path in paths:
            answer = await rig.ask(raw_get(path))
            assert (answer.status, answer.body) == (200, b"pong")
        assert [request.target for _, request in rig.seen] == [path.encode() for path in paths]
        async with reach(rig.robin) as admin:
            for path in ("/", "/v1/models", f"{rig.upstream.url}/v1/models"):
                assert (await admin.ask(path))[0] == 404
            assert len(rig.seen) == len(paths)


async def test_k2_ten_thousand_probes_cause_no_fetch_and_post_is_refused(tmp_path: Path):
    token = IdentityAuthority().jwt_svid(audience="broker.example")
    api = WorkloadApi(answer_with((JwtSvid(spiffe_id="spiffe://robin.test/ns/demo/sa/agent", svid=Secret(token)),)))
    socket_path = (await api.start_unix(str(tmp_path / "agent.sock"))).path
    settings = {"ROBIN_TOKEN_SOURCE": "jwtsvid", "ROBIN_AUDIENCE": "broker.example", "ROBIN_SPIFFE_SOCKET": f"unix://{socket_path}"}
    try:
        async with RecordingUpstream() as upstream, SidecarProcess(upstream_url=upstream.url, settings=settings) as robin:
            await robin.started()
            async with reach(robin) as admin:
                for _ in range(100):
                    admin.writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
                    for _ in range(100):
                        head = await admin.reader.readuntil(b"\r\n\r\n")
                        assert head.startswith(b"HTTP/1.1 200 ")
                        assert json.loads(await admin.reader.readline())["status"] == "ready"
                status, head, _ = await admin.ask("/readyz", "POST", "Content-Length: 0")
                assert status == 405
                assert b"\r\nAllow: GET, HEAD\r\n" in head
                assert len(api.requests) == 1
                assert upstream.connections == []
    finally:
        await api.close()


async def test_k2_metrics_answer_in_50_ms_under_load(tmp_path: Path):
    async with running(tmp_path) as rig:
        done = asyncio.Event()
        served = 0

        async def press() -> None:
            nonlocal served
            caller = await rig.caller()
            while not done.is_set():
                caller.send(raw_get("/load") * 20)
                await caller.peer.read_until(b"pong")
                for _ in range(19):
                    await caller.peer.read_until(b"pong")
                served += 20
            await caller.leave()

        async with asyncio.TaskGroup() as callers:
            for _ in range(8):
                callers.create_task(press())
            await eventually(lambda: served >= 2000, what="the load to be on")
            async with reach(rig.robin) as admin:
                took_s = []
                for _ in range(20):
                    began = time.perf_counter()
                    status, _, body = await admin.ask("/metrics")
                    took_s.append(time.perf_counter() - began)
                    assert status == 200
                done.set()
        read_strictly(body.decode())
        # the machine is shared with the callers and the upstream: the quickest is the sidecar's, the slow ones are the machine's
        assert min(took_s) < 0.05, took_s


async def test_k6_quit_drains_a_sidecar_and_a_running_answer_ends_first(tmp_path: Path):
    async with running(tmp_path, settings={"ROBIN_ADMIN_QUIT": "true"}) as rig:
        release = asyncio.Event()

        async def answer_slowly(connection: ScriptedConnection, _: ReceivedRequest) -> None:
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsl")
            await release.wait()
            await connection.send(b"ow")

        rig.reply = answer_slowly
        caller = await rig.caller()
        caller.send(raw_get("/slow"))
        await caller.peer.read_until(b"sl")
        async with reach(rig.robin) as admin:
            assert (await admin.ask("/quitquitquit", "POST", "Content-Length: 0", "Origin: http://x"))[0] == 403
            assert (await admin.ask("/quitquitquit"))[0] == 405
            assert (await admin.ask("/readyz"))[0] == 200
            for _ in range(2):
                status, _, body = await admin.ask("/quitquitquit", "POST", "Content-Length: 0")
                assert (status, body) == (200, b'{"status":"draining"}\n')
            status, _, body = await admin.ask("/readyz")
            assert (status, json.loads(body)["status"], json.loads(body)["reasons"]) == (503, "draining", ["draining"])
            assert (await admin.ask("/startupz"))[0] == 200
            assert rig.robin.returncode is None
            release.set()
            await caller.peer.read_until(b"ow")
            assert await rig.robin.returned() == 0


async def test_k6_quit_that_is_not_enabled_is_unknown(tmp_path: Path):
    async with running(tmp_path) as rig, reach(rig.robin) as admin:
        assert (await admin.ask("/quitquitquit", "POST", "Content-Length: 0"))[0] == 404
        assert (await admin.ask("/readyz"))[0] == 200
