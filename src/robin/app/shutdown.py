"""How a process ends: what begins the drain (`proxy/drain.py`), what is cut behind it, and the exit code, of which the first stands."""

import asyncio
import math
import signal
from collections.abc import Callable
from typing import Final

from robin.proxy.drain import SERVING, Drain
from robin.telemetry.logs import EventLog
from robin.telemetry.metrics import Metrics
from robin.transport.tasks import TaskOwner

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
    """Begins the drain, once, and ends the process. `code` is the exit code of an end that does not wait for the drain, else None."""

    __slots__ = ("_asked", "_drain", "_events", "_metrics", "_signals", "_tasks", "code")

    def __init__(self, drain: Drain, tasks: TaskOwner, events: EventLog, metrics: Metrics) -> None:
        """`tasks` owns the connections, and all else that runs in the background."""
        self._drain = drain
        self._tasks = tasks
        self._events = events
        self._metrics = metrics
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

    async def drain(
        self,
        *,
        min_s: float,
        max_s: float,
        tunnels_s: float = math.inf,
        stop_accepting: Callable[[], None],
        flush: Callable[[], None],
    ) -> int:
        """Run the drain (`Drain.run` has its steps), and cut what is left at its end. Returns the exit code.

        Cut: the tasks of the connections are cancelled, and each connection is reset, so that no part of a response looks like the whole.
        `flush` writes the records of what was served.
        """
        if self.code is not None:
            return self.code
        self._events.info("draining", in_flight=self._metrics.in_flight)
        drained = await self._drain.run(min_s=min_s, max_s=max_s, tunnels_s=tunnels_s, stop_accepting=stop_accepting)
        if self.code is not None:
            return self.code
        in_flight = self._metrics.in_flight
        flush()  # so that `drained` comes after the lines of what was served
        self._events.info("drained", cut=0 if drained else in_flight)
        await self._tasks.close()
        return EXIT_DRAINED if drained or not in_flight else EXIT_CUT
