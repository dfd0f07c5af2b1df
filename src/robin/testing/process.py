"""Robin as a real child process: its own environment, ports that the kernel picks, readiness from its own log lines, ended by its pid.

The child leads its own session, so a Ctrl-C in the terminal reaches only the parent, which then ends the child in order; and the kernel
ends the child when the parent dies without doing so (Linux).
"""

import asyncio
import atexit
import json
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from robin.testing.server import hold_port
from robin.transport.tasks import TaskOwner

LINE_LIMIT_BYTES = 1 << 20
KEEP_LINES = 50_000
HELD_PORTS = 32
ROBIN = (sys.executable, "-m", "robin.cli.main")

# A first, tiny program asks Linux for SIGTERM when its parent dies (PR_SET_PDEATHSIG is 1) and becomes the real one: exec keeps both
# that and the pid. A preexec_fn could do it too, but not safely beside threads.
_ASK_AND_EXEC = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
_LAUNCH = (sys.executable, "-I", "-S", "-c", _ASK_AND_EXEC) if sys.platform == "linux" else ()


watchers: list[Callable[[str, str], None]] = []
"""Called with the stream and the text of each line of each child, beside its own `on_line`."""

_held: deque[socket.socket] = deque()


@atexit.register
def _close_held() -> None:
    while _held:
        _held.popleft().close()


class ChildFailed(Exception):
    """The child ended before it was ready, or did not get ready in time; the message ends with its last lines."""


class RobinProcess:
    """`async with RobinProcess("sidecar", settings={"ROBIN_UPSTREAM_URL": ...}) as robin:` starts it; leaving ends it.

    `lines` holds what it wrote, in order, as ("stdout" | "stderr", text); `on_line` is called with each. The environment is only
    what `settings` holds. Entering does not wait for readiness: await `event("listening")`, `event("started")` or `returned()`.
    """

    def __init__(
        self,
        *arguments: str,
        settings: Mapping[str, str] | None = None,
        on_line: Callable[[str, str], None] | None = None,
        pass_fds: tuple[int, ...] = (),
        program: tuple[str, ...] = ROBIN,
        keep_lines: int = KEEP_LINES,
    ) -> None:
        self.arguments = arguments
        self.settings = dict(settings or {})
        self.lines: deque[tuple[str, str]] = deque(maxlen=keep_lines)
        self._on_line = on_line
        self._pass_fds = pass_fds
        self._program = program
        self._process: asyncio.subprocess.Process | None = None
        self._ended: asyncio.Task[int] | None = None
        self._written = asyncio.Event()
        self._tasks = TaskOwner(lambda _name, _error: None)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._running.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; -n when signal n ended it."""
        return self._running.returncode

    @property
    def stdout(self) -> list[str]:
        """Its stdout lines so far."""
        return [text for stream, text in self.lines if stream == "stdout"]

    @property
    def stderr(self) -> list[str]:
        """Its stderr lines so far."""
        return [text for stream, text in self.lines if stream == "stderr"]

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its JSON lines so far; exchanges are those with `event` = `exchange`."""
        return [entry for _, text in self.lines if (entry := _parse(text)) is not None]

    async def start(self) -> Self:
        """Start it: this Python's own `robin`, unless another program was named."""
        self._process = await asyncio.create_subprocess_exec(
            *_LAUNCH,
            *self._program,
            *self.arguments,
            env={"PYTHONUNBUFFERED": "1", **self.settings},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT_BYTES,
            start_new_session=True,
            pass_fds=self._pass_fds,
        )
        self._ended = self._tasks.start(self._watch(self._process), "watch the child")
        return self

    async def event(self, name: str, *, timeout_s: float = 30.0, after: int = 0) -> dict[str, Any]:
        """The first JSON line with this `event` (skipping the first `after` of them); ChildFailed when it ends or the time is up."""
        found: list[dict[str, Any]] = []

        def seen() -> bool:
            found[:] = [entry for entry in self.events if entry.get("event") == name]
            return len(found) > after

        await self._until(seen, f"the event {name!r}", timeout_s)
        return found[after]

    async def line(self, part: str, *, timeout_s: float = 30.0) -> str:
        """The first line, of either stream, that contains `part`."""
        found: list[str] = []

        def seen() -> bool:
            found[:] = [text for _, text in self.lines if part in text]
            return bool(found)

        await self._until(seen, f"a line with {part!r}", timeout_s)
        return found[0]

    async def returned(self, *, timeout_s: float | None = 30.0) -> int:
        """Wait until it has ended and its output is read to the end; its return code."""
        assert self._ended is not None, "not started"
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._ended)
        except TimeoutError:
            raise ChildFailed(f"{self._name} did not end in {timeout_s or 0:g} s{self._tail()}") from None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to this one process; nothing when it does not run."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self, *, timeout_s: float = 30.0) -> int:
        """SIGTERM, wait, SIGKILL at the deadline; the return code."""
        self.send_signal(signal.SIGTERM)
        try:
            return await self.returned(timeout_s=timeout_s)
        except ChildFailed:
            self.send_signal(signal.SIGKILL)
            return await self.returned(timeout_s=10.0)

    async def kill(self) -> int:
        """SIGKILL at once, and wait."""
        self.send_signal(signal.SIGKILL)
        return await self.returned(timeout_s=10.0)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            error.add_note(f"{self._name}:{self._tail()}")
        await self.stop()

    @property
    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "not started"
        return self._process

    @property
    def _name(self) -> str:
        return " ".join(("robin", *self.arguments))

    async def _watch(self, process: asyncio.subprocess.Process) -> int:
        assert process.stdout is not None
        assert process.stderr is not None
        await asyncio.gather(self._read("stdout", process.stdout), self._read("stderr", process.stderr))
        code = await process.wait()
        self._written.set()
        return code

    async def _read(self, stream: str, reader: asyncio.StreamReader) -> None:
        async for line in reader:
            text = line.decode("utf-8", "backslashreplace").rstrip("\n")
            self.lines.append((stream, text))
            if self._on_line is not None:
                self._on_line(stream, text)
            for watch in watchers:
                watch(stream, text)
            self._written.set()

    async def _until(self, seen: Callable[[], bool], what: str, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self._written.clear()
                    if seen():
                        return
                    if self._ended is not None and self._ended.done():
                        raise ChildFailed(f"{self._name} ended with {self.returncode} before {what}{self._tail()}")
                    await self._written.wait()
        except TimeoutError:
            raise ChildFailed(f"{self._name}: {what} did not come in {timeout_s:g} s{self._tail()}") from None

    def _tail(self) -> str:
        return "".join(f"\n  {stream}: {text}" for stream, text in list(self.lines)[-20:]) or " (it wrote nothing)"


class SidecarProcess(RobinProcess):
    """`robin sidecar` on ports that the kernel picks; `url` and `admin_url` are known once `listening()` has returned."""

    def __init__(
        self,
        *,
        upstream_url: str,
        settings: Mapping[str, str] | None = None,
        on_line: Callable[[str, str], None] | None = None,
        pass_fds: tuple[int, ...] = (),
        program: tuple[str, ...] = ROBIN,
        keep_lines: int = KEEP_LINES,
    ) -> None:
        chosen = {"ROBIN_UPSTREAM_URL": upstream_url, "ROBIN_ADMIN_ADDR": "127.0.0.1:0", **(settings or {})}
        if "ROBIN_LISTEN_UDS" not in chosen:
            chosen.setdefault("ROBIN_LISTEN_ADDR", "127.0.0.1:0")
        super().__init__("sidecar", settings=chosen, on_line=on_line, pass_fds=pass_fds, program=program, keep_lines=keep_lines)
        self.listen: tuple[str, ...] = ()
        self.admin: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port` of the first TCP listener."""
        return f"http://{next(address for address in self.listen if not address.startswith('unix:'))}"

    @property
    def admin_url(self) -> str:
        """`http://127.0.0.1:port` of the admin listener."""
        return f"http://{self.admin[0]}"

    async def listening(self, *, timeout_s: float = 30.0) -> Self:
        """Wait until every listener is bound (an identity may still be missing)."""
        entry = await self.event("listening", timeout_s=timeout_s)
        self.listen, self.admin = tuple(entry["listen"]), tuple(entry["admin"])
        return self

    async def started(self, *, timeout_s: float = 30.0) -> Self:
        """Wait until it is ready: bound, and a first usable identity seen."""
        await self.listening(timeout_s=timeout_s)
        await self.event("started", timeout_s=timeout_s)
        return self


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port on which nothing listens; only for what cannot bind port 0 itself."""
    holder = hold_port(host)
    _held.append(holder)
    if len(_held) > HELD_PORTS:
        _held.popleft().close()
    port: int = holder.getsockname()[1]
    return port


def _parse(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
