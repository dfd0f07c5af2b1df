"""How a process ends: a drain that may be asked for again, an end that does not wait, and the exit code, of which the first stands."""

import asyncio
import signal
from typing import Final

from robin.proxy.drain import SERVING, Drain
from robin.telemetry.logs import EventLog

EXIT_DRAINED: Final = 0
EXIT_FAILED: Final = 1
EXIT_SETTINGS: Final = 2
EXIT_BIND: Final = 3
EXIT_CUT: Final = 4
EXIT_STARTUP: Final = 5


class StartFailure(Exception):
    """The process cannot start. The message is for standard error and names the fix; `code` is the exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Shutdown:
    """Moves `drain` from SERVING to LINGERING. `code` is the exit code of an end that does not wait for the drain, else None."""

    __slots__ = ("_asked", "_drain", "_events", "_signals", "code")

    def __init__(self, drain: Drain, events: EventLog) -> None:
        self._drain = drain
        self._events = events
        self._asked = asyncio.Event()
        self._signals = 0
        self.code: int | None = None

    @property
    def asked(self) -> bool:
        """True once a drain or an end was asked for."""
        return self._drain.state != SERVING

    async def wait(self) -> None:
        """Wait until a drain or an end is asked for."""
        await self._asked.wait()

    def begin_drain(self) -> None:
        """Begin to drain; repeatable."""
        self._drain.begin_lingering()
        self._asked.set()

    def end(self, code: int) -> None:
        """End now, with this exit code: nothing waits for the drain any more."""
        if self.code is None:
            self.code = code
        self.begin_drain()
        self._drain.drained.set()

    def on_signal(self, number: int) -> None:
        """The first signal begins the drain, also where a request to quit began it already; the second ends the process."""
        self._signals += 1
        if self._signals > 1:
            self.end(128 + number)
        else:
            self._events.info("signal", signal=signal.Signals(number).name)
            self.begin_drain()

    async def wait_until_drained(self, deadline_at: float) -> bool:
        """Wait until nothing is in flight, at most until `deadline_at` (loop time). Returns False at the deadline, True also for an end."""
        try:
            async with asyncio.timeout_at(deadline_at):
                await self._drain.drained.wait()
        except TimeoutError:
            return False
        return True
