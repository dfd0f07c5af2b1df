"""A process of the soak besides Robin: JSON lines in on stdin, JSON lines out on stdout, ended by its pid or by the end of stdin."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
_LINE_BYTES = 1 << 20
_TAIL = 30


class WorkerFailed(Exception):
    """A worker ended, or was silent, where it must not; the message ends with what it wrote on stderr."""


class Worker:
    """The conductor's end. `hear(entry)` gets every line but the answers that `ask` waits for."""

    def __init__(self, module: str, hear: Callable[[dict[str, Any]], None]) -> None:
        self.module = module
        self._hear = hear
        self._process: asyncio.subprocess.Process | None = None
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._tail: list[str] = []
        self._readers: list[asyncio.Task[None]] = []

    async def start(self, **settings: Any) -> None:
        """Start it; `settings` are its first line."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self.module,
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
            start_new_session=True,
        )
        self._readers = [asyncio.create_task(self._read()), asyncio.create_task(self._read_errors())]
        self.tell(**settings)

    def tell(self, **entry: Any) -> None:
        """Send a line."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(entry).encode() + b"\n")

    async def ask(self, word: str, *, timeout_s: float = 30.0, **entry: Any) -> dict[str, Any]:
        """Send a line with `word`, and wait for the line that answers it."""
        self.tell(**{word: True, **entry})
        return await self.answer(word, timeout_s=timeout_s)

    async def answer(self, word: str, *, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait for the line with `word`."""
        waiting = self._answers[word] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                return await waiting
        except TimeoutError:
            raise WorkerFailed(f"{self.module}: no {word!r} in {timeout_s:g} s{self._said()}") from None
        finally:
            del self._answers[word]

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self.ended()

    async def stop(self) -> None:
        """End of stdin, and wait."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            try:
                async with asyncio.timeout(20.0):
                    await self.ended()
            except TimeoutError:
                await self.kill()
                raise WorkerFailed(f"{self.module} did not end{self._said()}") from None
            if self._process.returncode != 0:
                raise WorkerFailed(f"{self.module} ended with {self._process.returncode}{self._said()}")

    async def ended(self) -> None:
        """Wait until it is gone and all it wrote is heard."""
        assert self._process is not None
        await self._process.wait()
        await asyncio.gather(*self._readers)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            entry = json.loads(line)
            waiting = next((self._answers[word] for word in entry if word in self._answers), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(entry)
            else:
                self._hear(entry)
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(WorkerFailed(f"{self.module} ended{self._said()}"))

    async def _read_errors(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._tail = [*self._tail, line.decode("utf-8", "backslashreplace").rstrip()][-_TAIL:]

    def _said(self) -> str:
        return "".join(f"\n  {line}" for line in self._tail)


def tell(**entry: Any) -> None:
    """The worker's end: send a line."""
    sys.stdout.write(json.dumps(entry) + "\n")
    sys.stdout.flush()


async def orders() -> AsyncIterator[dict[str, Any]]:
    """The worker's end: every line that comes; the end of stdin ends it."""
    reader = asyncio.StreamReader(limit=_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)
