"""An admin server on loopback, under both event loops, and raw connections to it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from robin.admin.readiness import Readiness
from robin.admin.server import AdminServer
from robin.model.address import TcpAddress, UnixAddress
from robin.model.identity import IdentityState, IdentityStatus
from robin.telemetry.logs import EventLog
from robin.telemetry.writer import LineWriter
from robin.testing.manual_clock import ManualClock
from robin.transport.listen import BoundSocket, bind


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test of this folder runs on both loops."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


FRESH = IdentityStatus(source="file", state=IdentityState.FRESH, expires_in_s=2911.7, usable=True, reasons=())


class Connection:
    """One raw connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, raw: bytes) -> None:
        """Bytes as they are."""
        self.writer.write(raw)

    async def receive(self, *, bodiless: bool = False) -> tuple[int, dict[str, str], bytes]:
        """One response: status, fields by lower-case name, body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status_line, *lines = head.split("\r\n")[:-2]
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = b"" if bodiless else await self.reader.readexactly(int(fields["content-length"]))
        return int(status_line.split(" ")[1]), fields, body

    async def ask(self, path: str, method: str = "GET", *fields: str) -> tuple[int, dict[str, str], bytes]:
        """One request and its response."""
        self.send("\r\n".join([f"{method} {path} HTTP/1.1", "Host: admin", *fields, "", ""]).encode())
        return await self.receive(bodiless=method == "HEAD")

    async def rest(self) -> bytes:
        """Everything up to the end of the connection, a reset included."""
        got = b""
        try:
            while piece := await self.reader.read(65536):
                got += piece
        except ConnectionResetError:
            pass
        return got


def _ignore(_: str, __: str) -> None:
    """Hear of a risk of binding, which no test here is about."""


class Stand:
    """A running admin server with everything that a test may turn."""

    def __init__(self, folder: Path) -> None:
        self.readiness = Readiness(started=True, draining=False, identities=(FRESH,))
        self.scraped: list[str] = []
        self.broken: BaseException | None = None
        self.metrics_text = b"robin_x_total 1\n"
        self.quits = 0
        self.fatal: list[str] = []
        self._log_path = folder / "log"
        self._log = os.open(self._log_path, os.O_WRONLY | os.O_CREAT)
        self._writer = LineWriter(self._log)
        self._clock = ManualClock()
        self._connections: list[Connection] = []
        self.unix = f"{folder}/admin.sock"
        self.bounds: list[BoundSocket] = [
            *bind(TcpAddress(host="127.0.0.1", port=0), {}, _ignore),
            *bind(UnixAddress(path=self.unix), {}, _ignore),
        ]
        self.server: AdminServer | None = None

    def start(self, *, may_quit: bool = True, wait_s: float = 5.0) -> AdminServer:
        """Begin to answer."""
        self.server = AdminServer(
            self.bounds,
            status=lambda: self.readiness,
            scrape=self._scrape,
            begin_drain=self._begin_drain if may_quit else None,
            wall=self._clock.wall,
            events=EventLog(self._writer, level="debug", style="json", wall=self._clock.wall, monotonic=self._clock.monotonic),
            fatal=lambda label, error: self.fatal.append(label),
            wait_s=wait_s,
        )
        self.server.start()
        return self.server

    def _scrape(self, accept: str) -> tuple[str, bytes]:
        self.scraped.append(accept)
        if self.broken is not None:
            raise self.broken
        return "text/plain; version=0.0.4", self.metrics_text

    def _begin_drain(self) -> None:
        self.quits += 1

    def listen_everywhere(self) -> None:
        """Bind every interface instead of 127.0.0.1, as in a pod."""
        self.bounds[0].close()
        self.bounds[0:1] = bind(TcpAddress(host="", port=0), {}, _ignore)

    async def connect(self, *, host: str = "127.0.0.1", unix: bool = False) -> Connection:
        """A new raw connection."""
        if unix:
            opened = Connection(*await asyncio.open_unix_connection(self.unix))
        else:
            opened = Connection(*await asyncio.open_connection(host, self.bounds[0].sock.getsockname()[1]))
        self._connections.append(opened)
        return opened

    async def ask(self, path: str, method: str = "GET", *fields: str, unix: bool = False) -> tuple[int, dict[str, str], bytes]:
        """One request on a new connection, and its response."""
        return await (await self.connect(unix=unix)).ask(path, method, *fields)

    async def close(self) -> str:
        """End everything; the log."""
        for connection in self._connections:
            connection.writer.transport.abort()
        if self.server is not None:
            await self.server.close()
        for bound in self.bounds:
            bound.close()
        self._writer.close()
        return self._log_path.read_text()

    def release(self) -> None:
        """Give the log's descriptor back."""
        os.close(self._log)


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    """A stand; the test starts its server."""
    made = Stand(tmp_path)
    yield made
    await made.close()
    made.release()
