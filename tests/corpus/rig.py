"""The real Robin process between a raw caller and a recording upstream, started once per module; every byte on both sides is kept.

The upstream keeps no script of its own: `rig.reply` says what it does with the next whole request. What it saw whole is in `rig.seen`, in
order over all its connections; `rig.bytes_seen` counts every byte it ever got, so that "the upstream saw nothing" is a number.
"""

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h11

from robin.testing.connection import PeerLeft, ScriptedConnection
from robin.testing.message import MalformedRequest, ReceivedRequest
from robin.testing.process import SidecarProcess
from robin.testing.recording_upstream import RecordingUpstream
from robin.testing.waiting import eventually

PATIENCE_S = 600.0
DEADLINE_S = 30.0  # for what comes in any case; a busy machine holds up a process for seconds
SOON_S = 6.0  # for what must not wait for a timeout: those of the sidecar are ten seconds and more where a test sets no other
PONG = b"HTTP/1.1 200 OK\r\nX-Upstream: yes\r\nContent-Length: 4\r\n\r\npong"
Reply = Callable[[ScriptedConnection, ReceivedRequest], Awaitable[None]]


def unsigned_token(**claims: object) -> bytes:
    """A JWT of the right shape whose signature nobody checks here: signatures are the upstream's business."""

    def part(value: dict[str, object]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    signature = base64.urlsafe_b64encode(os.urandom(64)).rstrip(b"=")
    return b".".join((part({"alg": "ES256", "typ": "JWT"}), part({"sub": "corpus", "exp": 4102444800, **claims}), signature))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One response as h11, a foreign parser, reads it. `whole`: it ended properly; `left`: the bytes behind it."""

    status: int
    reason: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    trailers: tuple[tuple[bytes, bytes], ...]
    interim: tuple[int, ...]
    whole: bool
    left: bytes

    def values(self, name: bytes) -> list[bytes]:
        """The values of every field with this name."""
        return [value for field, value in self.fields if field.lower() == name.lower()]

    def value(self, name: bytes) -> bytes | None:
        """The value of the one field with this name."""
        found = self.values(name)
        assert len(found) < 2, f"{name!r} {len(found)} times"
        return found[0] if found else None


class Caller:
    """One raw connection to Robin. `peer` is its recorded end; use `send`, `answer`, `closed`."""

    def __init__(self, peer: ScriptedConnection) -> None:
        self.peer = peer
        self._left = b""

    def send(self, raw: bytes) -> None:
        """Hand bytes to the kernel, in order, without waiting."""
        if raw and not self.peer.transport.is_closing():
            self.peer.transport.write(raw)

    async def send_pieces(self, pieces: list[bytes]) -> None:
        """Each piece in its own segment, giving Robin the chance to read between them."""
        for piece in pieces:
            if self.peer.ended is not None:
                return
            self.send(piece)
            await asyncio.sleep(0)

    async def answer(self, method: bytes = b"GET", deadline_s: float = DEADLINE_S) -> Answer:
        """The next final response, with the interim ones before it."""
        reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        reader.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        reader.send(h11.EndOfMessage())
        found = _Gathering()
        async with asyncio.timeout(deadline_s):
            if self._left:
                reader.receive_data(self._left)
                self._left = b""
            while True:
                try:
                    event = reader.next_event()
                except h11.RemoteProtocolError:
                    if found.status and self.peer.ended is not None:
                        return found.answer(whole=False, left=b"")
                    raise
                if event is h11.NEED_DATA:
                    reader.receive_data(await self._more(found))
                elif isinstance(event, h11.EndOfMessage):
                    found.trailers = tuple(event.headers.raw_items())
                    self._left = bytes(reader.trailing_data[0])
                    return found.answer(whole=True, left=self._left)
                elif isinstance(event, h11.ConnectionClosed):
                    raise NoAnswer(f"the connection ended ({self.peer.ended}) without an answer")
                else:
                    found.take(event)

    async def _more(self, found: "_Gathering") -> bytes:
        try:
            return await self.peer.read_some()
        except PeerLeft:
            if self.peer.ended == "reset" and not found.status:
                raise NoAnswer("the connection was reset before an answer") from None
            if self.peer.ended == "reset" and found.open_ended:
                found.reset = True
            return b""

    async def closed(self, deadline_s: float = DEADLINE_S) -> str:
        """Wait until Robin ends the connection: `eof` or `reset`. Every byte that came meanwhile is in `rest`."""
        async with asyncio.timeout(deadline_s):
            with contextlib.suppress(PeerLeft):
                while more := await self.peer.read_some():
                    self._left += more
        return self.peer.ended or "open"

    @property
    def rest(self) -> bytes:
        """What came behind the last answer."""
        return self._left

    async def leave(self) -> None:
        """Close, as a caller that loses interest does."""
        await self.peer.close()


class NoAnswer(AssertionError):
    """Robin ended the connection without the answer that the test waits for."""


class _Gathering:
    """An Answer in the making."""

    def __init__(self) -> None:
        self.status = 0
        self.reason = b""
        self.fields: tuple[tuple[bytes, bytes], ...] = ()
        self.body = bytearray()
        self.trailers: tuple[tuple[bytes, bytes], ...] = ()
        self.interim: list[int] = []
        self.reset = False

    @property
    def open_ended(self) -> bool:
        names = {name.lower() for name, _ in self.fields}
        return not names & {b"content-length", b"transfer-encoding"}

    def take(self, event: object) -> None:
        if isinstance(event, h11.InformationalResponse):
            self.interim.append(event.status_code)
        elif isinstance(event, h11.Response):
            self.status, self.reason = event.status_code, bytes(event.reason)
            self.fields = tuple(event.headers.raw_items())
        elif isinstance(event, h11.Data):
            self.body += event.data

    def answer(self, *, whole: bool, left: bytes) -> Answer:
        return Answer(
            status=self.status,
            reason=self.reason,
            fields=self.fields,
            body=bytes(self.body),
            trailers=self.trailers,
            interim=tuple(self.interim),
            whole=whole and not self.reset,
            left=left,
        )


class Rig:
    """Robin, its upstream, and callers. Sequential: one test at a time drives it."""

    def __init__(self, robin: SidecarProcess, upstream: RecordingUpstream, token_file: Path) -> None:
        self.robin = robin
        self.upstream = upstream
        self.token_file = token_file
        self.reply: Reply = pong
        self.seen: list[tuple[ScriptedConnection, ReceivedRequest]] = []
        self.garbage: list[str] = []
        self.callers: list[Caller] = []
        self.upstream.script = self._serve

    @property
    def token(self) -> bytes:
        """The token that Robin must inject now."""
        return self.token_file.read_bytes().strip()

    @property
    def address(self) -> tuple[str, int]:
        """Where Robin listens."""
        host, _, port = self.robin.listen[0].rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def bytes_seen(self) -> int:
        """Every byte that the upstream ever received."""
        return sum(connection.received_count for connection in self.upstream.connections)

    async def caller(self) -> Caller:
        """A fresh connection to Robin."""
        opened = await open_caller(*self.address)
        self.callers = [caller for caller in self.callers if not caller.peer.transport.is_closing()]
        self.callers.append(opened)
        return opened

    @contextlib.contextmanager
    def replying(self, reply: Reply) -> Iterator[None]:
        """The upstream replies so for a while."""
        before, self.reply = self.reply, reply
        try:
            yield
        finally:
            self.reply = before

    async def ask(self, raw: bytes, method: bytes = b"GET") -> Answer:
        """One request on one connection of its own."""
        caller = await self.caller()
        caller.send(raw)
        try:
            return await caller.answer(method)
        finally:
            await caller.leave()

    async def flush(self) -> None:
        """Let Robin's pool hold no upstream connection: the next request dials afresh."""
        opened = [connection for connection in self.upstream.connections if connection.ended is None]
        for connection in opened:
            connection.half_close()
        await eventually(lambda: all(connection.ended for connection in opened), what="Robin to leave its idle upstream connections")
        for connection in opened:
            await connection.close()

    async def _serve(self, connection: ScriptedConnection) -> None:
        while True:
            try:
                request = await connection.read_request()
            except (MalformedRequest, ValueError) as error:
                self.garbage.append(f"{error} in {bytes(connection.received[-400:])!r}")
                return
            self.seen.append((connection, request))
            await self.reply(connection, request)
            if connection.transport.is_closing():
                return


async def open_caller(host: str, port: int) -> Caller:
    """A raw connection to whatever listens there."""
    _, peer = await asyncio.get_running_loop().create_connection(_unscripted, host, port)
    return Caller(peer)


def _unscripted() -> ScriptedConnection:
    return ScriptedConnection(lambda _: None, patience_s=PATIENCE_S, window_bytes=1 << 26)


async def pong(connection: ScriptedConnection, request: ReceivedRequest) -> None:
    """200 with four bytes; nothing but the head for HEAD."""
    await connection.send(PONG[:-4] if request.method == b"HEAD" else PONG)


@contextlib.asynccontextmanager
async def running(folder: Path, *, base: str = "", settings: Mapping[str, str] | None = None, exit_code: int = 0) -> AsyncIterator[Rig]:
    """A started Rig. `base` is the base path of the upstream URL; `exit_code` is how Robin must end."""
    token_file = folder / "token"
    token_file.write_bytes(unsigned_token())
    async with RecordingUpstream(patience_s=PATIENCE_S) as upstream:
        chosen = {"ROBIN_TOKEN_FILE": str(token_file), **(settings or {})}
        async with SidecarProcess(upstream_url=upstream.url + base, settings=chosen) as robin:
            await robin.started()
            rig = Rig(robin, upstream, token_file)
            try:
                yield rig
            finally:
                for caller in rig.callers:
                    caller.peer.transport.abort()
            await robin.stop()
            errors = [entry for entry in robin.events if entry.get("level") == "error"]
            assert not errors, errors[:3]
            assert robin.stderr == []
            assert robin.returncode == exit_code
