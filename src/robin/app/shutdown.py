"""How a process ends: when the drain starts, the order of its steps, when it is over, and the exit code, of which the first stands."""

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
    """Moves `drain` through its states. `code` is the exit code of an end that does not wait for the drain, else None."""

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
        """Serve on for `min_s`, finish until `max_s`; WebSockets are asked to end `tunnels_s` before that. Returns the exit code.

        What is left then is cut: the tasks of its connections are cancelled, and each of them is reset, so that no part of a response looks
        like the whole. `stop_accepting` closes the listeners; `flush` writes the records of what was served.
        """
        drain, metrics = self._drain, self._metrics
        if self.code is not None:
            return self.code
        began_at = asyncio.get_running_loop().time()
        metrics.drain_state = drain.state
        self._events.info("draining", in_flight=metrics.in_flight)
        await self._wait_until_drained(began_at + min_s)  # LINGERING: only an end cuts this short
        stop_accepting()
        await asyncio.sleep(0)  # a connection that was accepted a moment ago takes its place among those that are waited for
        drain.begin_closing()
        metrics.drain_state = drain.state
        drained = tunnels_s < max_s and await self._wait_until_drained(began_at + max_s - tunnels_s)
        if not drained:
            drain.close_tunnels()
            drained = await self._wait_until_drained(began_at + max_s)
        if self.code is not None:
            return self.code
        in_flight = metrics.in_flight
        flush()  # so that `drained` comes after the lines of what was served
        self._events.info("drained", cut=0 if drained else in_flight)
        await self._tasks.close()
        return EXIT_DRAINED if drained or not in_flight else EXIT_CUT

    async def _wait_until_drained(self, deadline_at: float) -> bool:
        """Wait until no connection is left, at most until `deadline_at` (loop time). Returns False at it, True also for an end."""
        try:
            async with asyncio.timeout_at(deadline_at):
                await self._drain.drained.wait()
        except TimeoutError:
            return False
        return True
