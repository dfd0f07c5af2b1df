"""One real server as a child process: it leads its own process group, writes to a log file, and is ended by its pid, come what may.

Every child is known to the reaper, a small process that ends it when the test run dies without doing so (also by SIGKILL).
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tests.real.parts import reaper

Found = TypeVar("Found")
LOG_TAIL_BYTES = 4000


class ServerFailed(Exception):
    """A real server ended before it was ready; its note has the end of its log."""


def poll(probe: Callable[[], Found], *, timeout_s: float, what: str, every_s: float = 0.02) -> Found:
    """Call `probe` until it gives something true, and return that; TimeoutError naming `what`. For what can only be looked at."""
    deadline_at = time.monotonic() + timeout_s
    while not (found := probe()):
        if time.monotonic() >= deadline_at:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}; last seen: {found!r}")
        time.sleep(every_s)
    return found


class _Reaper:
    """The one reaper of this test run, started with the first thing to watch."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def tell(self, line: str) -> None:
        if self._process is None:
            self._process = subprocess.Popen([sys.executable, reaper.__file__], stdin=subprocess.PIPE, text=True, start_new_session=True)
            atexit.register(self._process.communicate)  # end of file, and wait for it
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


_REAPER = _Reaper()


def watch_folder(folder: Path) -> None:
    """Have the folder removed even when this run is killed."""
    _REAPER.tell(f"folder {folder}")


class Server:
    """A program that runs until it is stopped; `start` again after `kill` is a restart with the same arguments."""

    def __init__(self, name: str, command: Sequence[str | Path], *, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.folder = folder
        self.log = folder / f"{name}.log"
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id, which is that of its group as well."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Looks without reaping, so that the pid stays ours until `kill` has ended the whole group."""
        if self._process is None or self._process.returncode is not None:
            return False
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def start(self, ready: Callable[[], object], *, timeout_s: float = 90.0) -> None:
        """Start it and wait until `ready` is true; ServerFailed or TimeoutError, with it ended, when that does not come."""
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _REAPER.tell(f"+ {self.pid} {reaper.started_at(self.pid)}")
        try:
            poll(lambda: not self.running or ready(), timeout_s=timeout_s, what=f"{self.name} to be ready")
            if not self.running:
                raise ServerFailed(f"{self.name} ended before it was ready")
        except BaseException as failure:
            failure.add_note(f"{self.name} ended with {self.kill()}; the end of its log:\n{self.log_text()[-LOG_TAIL_BYTES:]}")
            raise

    def stop(self, *, timeout_s: float = 30.0) -> int:
        """SIGTERM, wait, SIGKILL to its group at the deadline; the return code."""
        if self.running:
            self.send(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                poll(lambda: not self.running, timeout_s=timeout_s, what=f"{self.name} to end")
        return self.kill()

    def kill(self) -> int:
        """SIGKILL to its group, and wait; harmless when it has ended. The return code, 0 when it was never started."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # also what it started
            self._process.wait(10)
            _REAPER.tell(f"- {self._process.pid}")
        return self._process.returncode

    def send(self, number: signal.Signals) -> None:
        """A signal to this one process."""
        assert self._process is not None, f"{self.name} was never started"
        self._process.send_signal(number)

    def pause(self) -> None:
        """SIGSTOP: connections are accepted by the kernel, and nothing answers."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.send(signal.SIGCONT)

    def log_text(self) -> str:
        """All it wrote so far."""
        return self.log.read_text(errors="backslashreplace") if self.log.exists() else ""
