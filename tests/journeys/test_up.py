"""`robin up` as a newcomer meets it: it starts, injects through rotations without one failed request, and leaves nothing behind."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from robin.testing.process import RobinProcess
from robin.testing.waiting import eventually


class Up(RobinProcess):
    """A running `robin up`; `folder` is all it has of the disk."""

    def __init__(self, folder: Path, *flags: str) -> None:
        super().__init__("up", "--port", "0", *flags, settings={"TMPDIR": str(folder)})
        self.folder = folder
        self.port = 0
        self.child = 0

    async def ready(self) -> None:
        """Wait until it says what to try; note the port and the sidecar's pid."""
        line = await self.line("try  ")
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)/hello", line)[1])
        await self.line("Ctrl-C")
        (self.child,) = children_of(self.pid)

    async def check_nothing_left(self) -> None:
        """No file, no process, no listener."""
        assert list(self.folder.iterdir()) == []
        assert not alive(self.child)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.port), timeout=5)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: `robin up` puts a Unix socket below it."""
    with tempfile.TemporaryDirectory(prefix="up") as made:
        yield Path(made)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Client:
    """Requests over one kept connection, as an application would make them."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def __aenter__(self) -> "Client":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    async def get(self, target: str) -> tuple[int, dict]:
        self.writer.write(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
        async with asyncio.timeout(20):
            head = await self.reader.readuntil(b"\r\n\r\n")
            size = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
            return int(head.split(b" ")[1]), json.loads(await self.reader.readexactly(size))


@contextlib.asynccontextmanager
async def running(folder: Path, *flags: str) -> AsyncIterator[Up]:
    async with Up(folder, *flags) as up:
        await up.ready()
        yield up


@pytest.mark.parametrize(
    ("source", "subject"), [("file", "system:serviceaccount:demo:agent"), ("jwtsvid", "spiffe://robin.test/ns/demo/sa/agent")]
)
async def test_a_request_without_any_credential_arrives_with_a_verified_identity(folder, source, subject):
    async with running(folder, "--source", source) as up, Client(up.port) as client:
        assert up.stdout[0].startswith("robin up: starting")
        status, seen = await client.get("/hello?x=1")
        assert status == 200
        assert seen["identity"]["claims"]["sub"] == subject
        assert seen["identity"]["claims"]["aud"] == ["broker.robin.test"]
        assert seen["request"]["target"] == "/hello?x=1"
        fingerprint = seen["identity"]["token_sha256"]
        assert f"Authorization: Bearer (hidden, sha256 {fingerprint})" in seen["request"]["fields"]
        assert fingerprint in await up.line("GET /hello?x=1")


@pytest.mark.parametrize(
    ("source", "subject"), [("file", "system:serviceaccount:demo:agent"), ("jwtsvid", "spiffe://robin.test/ns/demo/sa/agent")]
)
async def test_its_lines_for_a_settings_file_lead_another_robin_to_the_same_broker_and_identity(folder, source, subject):
    with tempfile.TemporaryDirectory(prefix="another") as other:
        file = Path(other) / "robin.env"
        async with running(folder, "--source", source) as up:
            await up.line("new identity token")
            file.write_text("".join(f"{line}\n" for line in up.stdout if line.startswith("ROBIN_")))
            ports = {"ROBIN_LISTEN_ADDR": "127.0.0.1:0", "ROBIN_ADMIN_ADDR": "127.0.0.1:0"}
            async with RobinProcess("--config", str(file), settings=ports) as another:
                place = (await another.event("started"))["listen"][0]
                async with Client(int(place.rpartition(":")[2])) as client:
                    status, seen = await client.get("/another")
    assert status == 200
    assert seen["identity"]["claims"]["sub"] == subject


@pytest.mark.parametrize(("source", "pace", "tokens"), [("file", "1s", 5), ("jwtsvid", "2s", 4)])
async def test_tokens_rotate_under_a_stream_of_requests_and_none_fails(folder, source, pace, tokens):
    async with running(folder, "--source", source, "--rotate", pace) as up:
        fingerprints: dict[str, int] = {}
        answers: list[int] = []

        async def stream(target: str) -> None:
            async with Client(up.port) as client:
                while len(fingerprints) < tokens:
                    status, seen = await client.get(target)
                    answers.append(status)
                    fingerprint = seen["identity"]["token_sha256"]
                    fingerprints[fingerprint] = fingerprints.get(fingerprint, 0) + 1

        async def knock() -> None:
            while len(fingerprints) < tokens:
                async with Client(up.port) as client:
                    answers.append((await client.get("/new"))[0])

        async with asyncio.timeout(60):
            await asyncio.gather(stream("/a"), stream("/b"), knock())
        assert set(answers) == {200}
        assert len(answers) > 100
        issued = re.findall(r"token \d+ +([0-9a-f]{12})", "\n".join(up.stdout))
        assert list(fingerprints) == [fingerprint for fingerprint in issued if fingerprint in fingerprints]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_and_nothing_is_left(folder, number):
    async with running(folder) as up:
        assert [path.name[:9] for path in up.folder.iterdir()] == ["robin-up-"]
        up.send_signal(number)
        assert await up.returned() == 0
        assert up.stdout[-1] == "robin up: ended, nothing is left behind"
        assert up.stderr == []
        await up.check_nothing_left()


async def test_a_running_stream_is_finished_before_it_ends(folder):
    async with running(folder) as up:
        reader, writer = await asyncio.open_connection("127.0.0.1", up.port)
        writer.write(b"GET /stream?events=3 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await reader.readuntil(b'"event": 1')
        up.send_signal(signal.SIGINT)
        assert (await reader.read()).endswith(b"\r\n0\r\n\r\n")
        writer.close()
        assert await up.returned() == 0
        await up.check_nothing_left()


async def test_a_second_ctrl_c_does_not_wait_for_a_stream(folder):
    async with running(folder) as up:
        reader, writer = await asyncio.open_connection("127.0.0.1", up.port)
        writer.write(b"GET /stream?events=60 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await reader.readuntil(b'"event": 1')
        up.send_signal(signal.SIGINT)
        await up.line("ending;")
        up.send_signal(signal.SIGINT)
        assert await up.returned() == 130
        writer.close()
        await up.check_nothing_left()


async def test_a_sidecar_that_is_killed_ends_it_with_the_reason_and_nothing_is_left(folder):
    async with running(folder) as up:
        os.kill(up.child, signal.SIGKILL)
        assert await up.returned() == 1
        assert "robin up: the sidecar ended with exit code -9; its last lines:" in "\n".join(up.stderr)
        await up.check_nothing_left()


async def test_a_sidecar_outlives_nobody(folder):
    async with running(folder) as up:
        await up.kill()
        await eventually(lambda: not alive(up.child), what="the sidecar's end after its parent was killed")


async def test_a_reader_of_its_output_that_leaves_ends_it(folder):
    """`robin up | head -1`."""
    with subprocess.Popen(
        [sys.executable, "-m", "robin.cli.main", "up", "--port", "0", "--rotate", "1s"],
        env={"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline().startswith(b"robin up: starting")
        process.stdout.close()
        complaint = await asyncio.to_thread(process.stderr.read)
        await asyncio.to_thread(process.wait, 30)
    assert complaint == b""
    assert list(folder.iterdir()) == []


async def test_on_a_terminal_it_keeps_a_status_line_and_ctrl_c_ends_it(folder):
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "robin.cli.main", "up", "--port", "0"],
        env={"TMPDIR": str(folder), "TERM": "xterm", "NO_COLOR": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    written = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # EIO: the last writer has gone
            while piece := os.read(ours, 65536):
                written.extend(piece)

    reading = asyncio.create_task(asyncio.to_thread(read))
    try:
        await eventually(lambda: b"| 0 injected | 0 refused" in written, timeout_s=20, what="the status line")
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, 30) == 0
        await reading
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"\r\x1b[2Ktoken " in written
    assert b"\x1b[1m" not in written  # NO_COLOR
    assert written.endswith(b"robin up: ended, nothing is left behind\r\n")
    assert list(folder.iterdir()) == []
