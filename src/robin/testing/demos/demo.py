"""One demonstration: steps that print, checks that are counted, parts that are closed at the end, and an exit code.

A demonstration is `async def run(demo: Demo) -> None`. It puts what it starts on `demo.stack` and its files in `demo.folder`: both are gone
when it returns, fails, is interrupted or takes longer than LONGEST_S. It runs on this machine alone and needs no network.
"""

import asyncio
import contextlib
import json
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TextIO

from robin.transport.tasks import TaskOwner

EXIT_PASSED: Final = 0
EXIT_FAILED: Final = 1
EXIT_REFUSED: Final = 2
EXIT_INTERRUPTED: Final = 130
LONGEST_S: Final = 30.0
FOLDER_PREFIX: Final = "robin-demo-"


class DemoRefused(Exception):
    """It cannot run here as it was asked to, such as on a port that is taken; the message names the fix. Exit 2."""


class Demo:
    """What a demonstration prints to and builds on. `port_base` is the first of its ports; None: the kernel chooses, or its own default."""

    def __init__(self, name: str, *, out: TextIO, folder: Path, as_json: bool = False, port_base: int | None = None) -> None:
        self.name = name
        self.folder = folder
        self.port_base = port_base
        self.stack = contextlib.AsyncExitStack()
        self.to_try: list[str] = []  # lines that `--keep` prints when it waits, such as a curl line
        self._out = out
        self._as_json = as_json
        self._checks: list[tuple[str, bool, str]] = []
        self._lines: list[str] = []

    @property
    def passed(self) -> bool:
        """True if there was a check, and none failed."""
        return bool(self._checks) and all(ok for _, ok, _ in self._checks)

    def say(self, text: str = "") -> None:
        """Print a line; with `--json` it stands in the object's `output`."""
        if self._as_json:
            self._lines.append(text)
        else:
            self._out.write(f"{text}\n")
            self._out.flush()

    def check(self, what: str, ok: bool, detail: str = "", *, quiet: bool = False) -> bool:
        """Count a check and print its line. `detail`: what was seen where it failed; `quiet`: only a failure has a line. Returns `ok`."""
        self._checks.append((what, ok, "" if ok else detail))
        if not self._as_json and not (ok and quiet):
            self.say(f"check ok: {what}" if ok else f"check FAILED: {what}{f' ({detail})' if detail else ''}")
        return ok

    def conclude(self) -> None:
        """Print the last line, or the one object of `--json`."""
        count = sum(ok for _, ok, _ in self._checks)
        if not self._as_json:
            self.say(f"demo {self.name}: {'PASS' if self.passed else 'FAIL'} {count}/{len(self._checks)}")
            return
        checks = [{"check": what, "ok": ok, **({"detail": detail} if detail else {})} for what, ok, detail in self._checks]
        summary = {
            "demo": self.name,
            "passed": self.passed,
            "ok": count,
            "total": len(self._checks),
            "checks": checks,
            "output": self._lines,
        }
        self._out.write(json.dumps(summary) + "\n")
        self._out.flush()


Demonstrate = Callable[[Demo], Awaitable[None]]


async def run_demo(
    name: str, demonstrate: Demonstrate, *, out: TextIO, as_json: bool = False, keep: bool = False, port_base: int | None = None
) -> int:
    """Run it and return the exit code: 0 passed, 1 a check failed, 2 it cannot run as asked, 130 interrupted before its end.

    `keep`: after the checks, wait for a signal before anything is closed. Raises DemoRefused.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    if port_base is not None:
        refuse_taken(port_base)
    tasks = TaskOwner(lambda _name, _error: None)  # the task's error is raised below, from its result
    try:
        with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
            demo = Demo(name, out=out, folder=Path(folder), as_json=as_json, port_base=port_base)
            async with demo.stack:
                running = tasks.start(_within_time(demo, demonstrate), name)
                stopping = tasks.start(stop.wait(), "stop")
                await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not running.done():
                    await tasks.close()  # before its parts are closed, of which it would report a failure
                    return EXIT_INTERRUPTED
                running.result()
                demo.conclude()
                if keep:
                    for line in demo.to_try:
                        demo.say(line)
                    demo.say("it stays up until Ctrl-C")
                    await stop.wait()
        return EXIT_PASSED if demo.passed else EXIT_FAILED
    finally:
        await tasks.close()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)


def refuse_taken(port: int) -> None:
    """Raises DemoRefused where something listens on a port of this machine that a demonstration was told to take."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            raise DemoRefused(f"port {port} on 127.0.0.1 is not free ({error.strerror}); choose others with --port-base") from None


async def _within_time(demo: Demo, demonstrate: Demonstrate) -> None:
    """Run the steps. An error of one is a failed check, so that what was shown until then still counts."""
    try:
        async with asyncio.timeout(LONGEST_S):
            await demonstrate(demo)
    except DemoRefused:
        raise
    except TimeoutError:
        demo.check("it ends in time", ok=False, detail=f"it took longer than {LONGEST_S:g} s")
    except Exception as error:  # noqa: BLE001 - whatever broke is shown, and everything is still closed
        demo.check("every step can be done", ok=False, detail=f"{type(error).__name__}: {error}")
