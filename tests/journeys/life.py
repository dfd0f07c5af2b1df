"""One sidecar process from start to exit, with its upstream and its callers; how it ends is the test's business."""

import asyncio
import contextlib
import json
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.corpus.rig import DEADLINE_S, Answer, Caller, Rig, unsigned_token

from robin.testing.connection import ScriptedConnection
from robin.testing.process import ROBIN, SidecarProcess
from robin.testing.recording_upstream import RecordingUpstream

GET = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a Unix socket (107 bytes in all); everyone may enter it."""
    with tempfile.TemporaryDirectory(prefix="robin-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextlib.asynccontextmanager
async def launched(
    folder: Path,
    *,
    upstream: RecordingUpstream | None = None,
    url: str | None = None,
    settings: Mapping[str, str] | None = None,
    token: bytes | None = None,
    program: tuple[str, ...] = ROBIN,
    pass_fds: tuple[int, ...] = (),
) -> AsyncIterator[Rig]:
    """A launched sidecar: await `robin.started()` or what is expected instead. `token` None: a good one; empty: no token file."""
    token_file = folder / "token"
    if token != b"":
        token_file.write_bytes(token or unsigned_token())
    async with contextlib.AsyncExitStack() as stack:
        if upstream is None:
            upstream = await stack.enter_async_context(RecordingUpstream(patience_s=600))
        robin = SidecarProcess(
            upstream_url=url or upstream.url,
            settings={"ROBIN_TOKEN_FILE": str(token_file), **(settings or {})},
            program=program,
            pass_fds=pass_fds,
        )
        await stack.enter_async_context(robin)
        rig = Rig(robin, upstream, token_file)
        try:
            yield rig
        finally:
            for caller in rig.callers:
                caller.peer.transport.abort()


@contextlib.asynccontextmanager
async def serving(folder: Path, **chosen: Any) -> AsyncIterator[Rig]:
    """The same, started."""
    async with launched(folder, **chosen) as rig:
        await rig.robin.started()
        yield rig


def _scriptless() -> ScriptedConnection:
    return ScriptedConnection(lambda _: None, patience_s=DEADLINE_S, window_bytes=1 << 26)


async def unix_caller(rig: Rig, path: Path | str) -> Caller:
    """A fresh connection by a Unix socket."""
    _, peer = await asyncio.get_running_loop().create_unix_connection(_scriptless, str(path))
    rig.callers.append(Caller(peer))
    return rig.callers[-1]


async def ask_unix(rig: Rig, path: Path | str, raw: bytes = GET) -> Answer:
    """One request by a Unix socket."""
    caller = await unix_caller(rig, path)
    caller.send(raw)
    try:
        return await caller.answer()
    finally:
        await caller.leave()


async def probe(robin: SidecarProcess, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Status and body of an admin page, on a connection of its own."""
    host, _, port = robin.admin[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(30):
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    finally:
        writer.transport.abort()
    return int(head.split(b" ")[1]), body


async def readiness(robin: SidecarProcess, path: str = "/readyz") -> tuple[int, list[str]]:
    """Status and reasons of a JSON probe."""
    status, body = await probe(robin, path)
    return status, json.loads(body)["reasons"]


async def metric(robin: SidecarProcess, name: str, **labels: str) -> float:
    """One sample of the metrics page; 0 where there is none yet."""
    _, body = await probe(robin, "/metrics")
    wanted = {f'{label}="{value}"' for label, value in labels.items()}
    found = 0.0
    for line in body.decode().splitlines():
        series, _, value = line.rpartition(" ")
        if series.partition("{")[0] == name and wanted <= set(series.partition("{")[2].rstrip("}").split(",")):
            found += float(value)
    return found


def exchanges(rig: Rig) -> list[dict[str, Any]]:
    """The access records so far."""
    return [entry for entry in rig.robin.events if entry.get("event") == "exchange"]


def shell(script: str, *, before: tuple[str, ...] = (), prefix: str = "") -> tuple[str, ...]:
    """A program that runs `script` in sh and becomes Robin; Robin's own arguments follow.

    `before`: what starts that shell. `prefix`: what the shell becomes first, such as `setpriv ...`.
    """
    return (*before, "/bin/sh", "-ec", f'{script}\nexec {prefix} "{sys.executable}" -m robin.cli.main "$@"', "sh")


def activated(*listeners: socket.socket, names: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The program, and what to pass, that starts Robin as systemd would: sockets from descriptor 3 on, LISTEN_* for its own pid."""
    fds = tuple(listener.fileno() for listener in listeners)
    code = (
        "import fcntl, os, sys\n"
        f"held = [fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for fd in {fds!r}]\n"
        "[os.dup2(fd, 3 + at) for at, fd in enumerate(held)]\n"
        "os.closerange(3 + len(held), 400)\n"
        f"os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(held)), LISTEN_FDNAMES={names!r})\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, '-m', 'robin.cli.main', *sys.argv[1:]])\n"
    )
    return (sys.executable, "-c", code), fds
