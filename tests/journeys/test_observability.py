"""What a real sidecar tells of itself: one record per exchange, metrics a linter accepts, no token anywhere, no stop for a full pipe."""

import asyncio
import base64
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.corpus.rig import Rig, running, unsigned_token
from tests.telemetry.strict_text import read_strictly

from robin.model.faults import OUTCOMES
from robin.testing.connection import ScriptedConnection
from robin.testing.message import ReceivedRequest
from robin.testing.process import SidecarProcess
from robin.testing.recording_upstream import RecordingUpstream
from robin.testing.waiting import eventually

FIELDS = (
    "ts event request_id trace_id outcome credential method path protocol status upstream_status bytes_in bytes_out ttfb_s duration_s "
    "identity_wait_s retries reused listener peer_uid peer_pid identity"
).split()
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def raw_get(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *fields, "", ""]).encode("latin-1")


def ask_admin(address: str, path: str, method: str = "GET") -> str:
    """Head and body of an admin page, as text; blocking."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as peer:
        peer.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        got = b""
        while piece := peer.recv(65536):
            got += piece
    return got.decode()


def exchanges(rig: Rig) -> list[dict[str, object]]:
    return [entry for entry in rig.robin.events if entry.get("event") == "exchange"]


async def test_p1_exactly_one_record_per_exchange_at_its_end_with_all_fields(tmp_path: Path):
    async with running(tmp_path) as rig:
        release = asyncio.Event()

        async def stream(connection: ScriptedConnection, request: ReceivedRequest) -> None:
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
            await release.wait()
            await connection.send(b"half")

        answers = [await rig.ask(raw_get("/plain?key=canary", f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01"))]
        answers.append(await rig.ask(b"POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", b"POST"))
        answers.append(await rig.ask(b"BREW /pot HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        answers.append(await rig.ask(raw_get("/elsewhere").replace(b"localhost", b"elsewhere")))
        rig.reply = stream
        caller = await rig.caller()
        caller.send(raw_get("/stream"))
        await caller.peer.read_until(b"half")
        await eventually(lambda: len(exchanges(rig)) == 4, what="the records of what has ended")
        release.set()
        await caller.peer.read_until(b"half")
        await caller.leave()
        leaver = await rig.caller()
        release.clear()
        leaver.send(raw_get("/left"))
        await leaver.peer.read_until(b"half")
        await leaver.leave()
        await eventually(lambda: len(exchanges(rig)) == 6, what="the other records")
    records = exchanges(rig)
    assert len(records) == 6
    for record in records:
        assert list(record) == FIELDS
        assert record["outcome"] in OUTCOMES
    assert [record["credential"] for record in records] == ["forward", "forward", None, None, "forward", "forward"]
    told = [(record["outcome"], record["method"], record["path"], record["status"], record["upstream_status"]) for record in records]
    assert told == [
        ("forwarded", "GET", "/plain", 200, 200),
        ("forwarded", "POST", "/body", 200, 200),
        ("method_unknown", None, None, 501, None),
        ("host_not_allowed", "GET", "/elsewhere", 421, None),
        ("forwarded", "GET", "/stream", 200, 200),
        ("client_closed", "GET", "/left", 200, 200),
    ]
    assert [(record["bytes_in"], record["bytes_out"]) for record in records][:2] == [(0, 4), (5, 4)]
    assert records[0]["trace_id"] == TRACE
    for answer, record in zip(answers[2:], records[2:4], strict=True):
        assert json.loads(answer.body)["request_id"] == record["request_id"]
    assert len({record["request_id"] for record in records}) == 6
    assert "canary" not in str(rig.robin.lines)


async def test_p1_hostile_bytes_stay_one_json_line(tmp_path: Path):
    hostile = '/"},{"event":"exchange"\\x?<>'
    async with running(tmp_path) as rig:
        for raw in (
            raw_get(hostile, 'X: "\\\x9b\xff'),
            raw_get("/\x1b[2J"),
            raw_get('/a"\r\nb'),
            b'G"T / HTTP/1.1\r\nHost: localhost\r\n\r\n',
        ):
            await rig.ask(raw)
        await eventually(lambda: len(exchanges(rig)) == 4, what="the records")
    assert [record["path"] for record in exchanges(rig)] == [hostile.partition("?")[0], None, None, None]
    for _, line in rig.robin.lines:
        assert re.fullmatch(r"[\x20-\x7e]+", line)
        json.loads(line)


async def test_p2_metrics_are_strict_text_and_many_paths_add_no_series(tmp_path: Path):
    async with running(tmp_path) as rig:
        (admin,) = rig.robin.admin
        caller = await rig.caller()

        async def press(paths: list[str]) -> None:
            for at in range(0, len(paths), 100):
                caller.send(b"".join(raw_get(path) for path in paths[at : at + 100]))
                for _ in paths[at : at + 100]:
                    await caller.peer.read_until(b"pong")

        async def scrape() -> str:
            return (await asyncio.to_thread(ask_admin, admin, "/metrics")).partition("\r\n\r\n")[2]

        await press(["/first"])
        before = read_strictly(await scrape())
        await press([f"/{number}/{number:x}?{number}" for number in range(10_000)])
        text = await scrape()
        after = read_strictly(text)
        await caller.leave()
    series = [{series for family in families.values() for series in family.samples} for families in (before, after)]
    assert series[0] == series[1]
    assert sum(after["robin_requests_total"].samples.values()) == 10_001
    assert (
        after["robin_body_bytes_total"].samples["robin_body_bytes_total", frozenset({("direction", "out"), ("plane", "sidecar")})] == 40_004
    )
    assert len(exchanges(rig)) == 10_001


@pytest.mark.real
async def test_p2_promtool_finds_nothing_to_say(tmp_path: Path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    async with running(tmp_path) as rig:
        await rig.ask(raw_get("/x"))
        await rig.ask(b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        text = (await asyncio.to_thread(ask_admin, rig.robin.admin[0], "/metrics")).partition("\r\n\r\n")[2]
    told = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


class BlockedSidecar:
    """`robin sidecar` whose standard output is a pipe of 4 KiB that is read only when the test says so."""

    def __init__(self, upstream_url: str, folder: Path) -> None:
        token_file = folder / "token"
        token_file.write_bytes(unsigned_token())
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        settings = {"ROBIN_UPSTREAM_URL": upstream_url, "ROBIN_TOKEN_FILE": str(token_file)}
        addresses = {"ROBIN_LISTEN_ADDR": "127.0.0.1:0", "ROBIN_ADMIN_ADDR": "127.0.0.1:0"}
        command = [sys.executable, "-m", "robin.cli.main", "sidecar"]
        self.process = subprocess.Popen(command, env={**settings, **addresses}, stdout=writing, stdin=subprocess.DEVNULL)
        os.close(writing)
        self._out = open(reading, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self._rest = b""
        while (entry := json.loads(self.read_lines(1)[0]))["event"] != "started":
            pass
        self.listen, self.admin = entry["listen"][0], entry["admin"][0]

    def read_lines(self, count: int) -> list[bytes]:
        """The next lines, whole."""
        lines: list[bytes] = []
        while len(lines) < count:
            line, found, rest = self._rest.partition(b"\n")
            if found:
                self._rest = rest
                lines.append(line)
            else:
                piece = self._out.read(65536)
                assert piece, f"the output ended after {len(lines)} of {count} lines"
                self._rest += piece
        return lines

    def dropped(self) -> int:
        """The counter."""
        families = read_strictly(ask_admin(self.admin, "/metrics").partition("\r\n\r\n")[2])
        (count,) = families["robin_access_records_dropped_total"].samples.values()
        return int(count)

    def close(self) -> None:
        """End it whatever happened."""
        self._out.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
async def blocked(tmp_path: Path) -> Iterator[tuple[BlockedSidecar, RecordingUpstream]]:
    """A sidecar that has served 4,000 requests with long paths since anyone read its output."""
    async with RecordingUpstream(patience_s=60) as upstream:
        sidecar = await asyncio.to_thread(BlockedSidecar, upstream.url, tmp_path)
        try:
            host, _, port = sidecar.listen.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            path = "/" + "p" * 2000
            for _ in range(400):
                writer.write(raw_get(path) * 10)
                for _ in range(10):
                    async with asyncio.timeout(30):  # a stop for the pipe would be one for ever
                        head = await reader.readuntil(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 200 ")
            writer.close()
            await writer.wait_closed()
            yield sidecar, upstream
        finally:
            sidecar.close()


async def test_p3_traffic_goes_on_while_standard_output_is_blocked_and_each_lost_line_is_counted(blocked):
    sidecar, upstream = blocked
    assert len(upstream.requests) == 4000
    dropped = await asyncio.to_thread(sidecar.dropped)
    assert dropped > 1000
    lines = await asyncio.to_thread(sidecar.read_lines, 4000 - dropped)  # now somebody reads: all that waited comes out, whole
    assert {json.loads(line)["event"] for line in lines} == {"exchange"}
    sidecar.process.send_signal(signal.SIGTERM)
    (line,) = await asyncio.to_thread(sidecar.read_lines, 1)
    assert json.loads(line)["event"] == "signal"  # nothing else was left to write
    assert await asyncio.to_thread(sidecar.process.wait, 10) == 0


async def test_p3_a_blocked_standard_output_does_not_keep_the_process_from_ending(blocked):
    sidecar, _ = blocked
    sidecar.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(sidecar.process.wait, 5) == 0


def disguises(token: bytes) -> dict[str, str]:
    """The forms in which a token could slip out."""
    parts = {"whole": token, **{f"part {number}": part for number, part in enumerate(token.split(b"."))}}
    found = {}
    for name, part in parts.items():
        found[name] = part.decode()
        found[f"{name}, hex"] = part.hex()
        found[f"{name}, base64"] = base64.b64encode(part).decode().rstrip("=")
    return found


async def test_d6_no_token_in_logs_at_debug_error_bodies_admin_pages_or_metrics(tmp_path: Path):
    seen = ""
    token_file = tmp_path / "token"
    token_file.write_bytes(unsigned_token())
    settings = {"ROBIN_LOG_LEVEL": "debug", "ROBIN_ADMIN_QUIT": "true", "ROBIN_TOKEN_FILE": str(token_file)}
    async with RecordingUpstream(patience_s=60) as upstream, SidecarProcess(upstream_url=upstream.url, settings=settings) as robin:
        rig = Rig(await robin.started(), upstream, token_file)
        tokens = [rig.token]

        def reflect(shape: bytes) -> None:
            """Let the upstream throw the token back where a parser may choke on it."""

            async def reply(connection: ScriptedConnection, request: ReceivedRequest) -> None:
                (authorization,) = [value for name, value in request.fields if name.lower() == b"authorization"]
                await connection.send(shape.replace(b"TOKEN", authorization))
                await connection.close()

            rig.reply = reply

        for shape in (
            b"HTTP/1.1 200 TOKEN\x00\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX TOKEN: \x00\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: TOKEN\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: TOKEN\r\n\r\n",
            b"TOKEN\r\n\r\n",
        ):
            reflect(shape)
            seen += (await rig.ask(raw_get("/reflected"))).body.decode()
        for raw in (raw_get("/", "Authorization: \x00"), raw_get("/").replace(b"localhost", tokens[0]), raw_get("/" + "x" * 70_000)):
            seen += (await rig.ask(raw)).body.decode()
        for number, claims in enumerate(({"exp": 1}, {"nbf": 4102444000})):
            tokens.append(unsigned_token(**claims))
            rig.token_file.write_bytes(tokens[-1])
            await rig.robin.event("identity_lost", after=number)
            seen += (await rig.ask(raw_get("/late"))).body.decode()
            tokens.append(unsigned_token(marker=len(tokens)))
            rig.token_file.write_bytes(tokens[-1])
            await eventually(lambda: _is_ready(rig), what="the next token")
        tokens.append(tokens[-1][:-20])
        rig.token_file.write_bytes(tokens[-1])
        await rig.robin.event("identity_refresh_failed", after=2)
        for path, method in (("/healthz", "GET"), ("/startupz", "GET"), ("/readyz", "GET"), ("/metrics", "GET"), ("/quitquitquit", "POST")):
            seen += await asyncio.to_thread(ask_admin, rig.robin.admin[0], path, method)
        assert await rig.robin.returned() == 0
        seen += "\n".join(text for _, text in rig.robin.lines)
    received = b"".join(bytes(connection.received) for connection in upstream.connections).decode("latin-1")
    assert disguises(tokens[0])["whole"] in received  # this search finds a token where there is one
    assert "identity_expired" in seen
    assert "upstream_protocol" in seen
    for token in tokens:
        for name, disguise in disguises(token).items():
            if len(disguise) > 12 and not name.startswith("part 0"):  # the header is the same in every JWT
                assert disguise not in seen, name


async def _is_ready(rig: Rig) -> bool:
    return (await asyncio.to_thread(ask_admin, rig.robin.admin[0], "/readyz")).startswith("HTTP/1.1 200 ")
