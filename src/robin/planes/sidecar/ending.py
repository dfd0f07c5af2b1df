"""How a sidecar ends: a drain that anyone may ask for, an end that does not wait, and the exit code, of which the first stands."""

import asyncio
import signal

from robin.telemetry.logs import EventLog

EXIT_DRAINED, EXIT_FAILED, EXIT_SETTINGS, EXIT_BIND, EXIT_CUT, EXIT_STARTUP = 0, 1, 2, 3, 4, 5


class Ending:
    """What was asked for. `drained`: the engine sets it once a drain has nothing left in flight; an end sets it so that nobody waits."""

    __slots__ = ("_asked", "_emptied", "_events", "_signals", "code")

    def __init__(self, emptied: asyncio.Event, events: EventLog) -> None:
        self._emptied = emptied
        self._events = events
        self._asked = asyncio.Event()
        self._signals = 0
        self.code: int | None = None

    @property
    def asked(self) -> bool:
        """Whether a drain or an end was asked for."""
        return self._asked.is_set()

    async def wait(self) -> None:
        """Until a drain or an end is asked for."""
        await self._asked.wait()

    def begin_drain(self) -> None:
        """Begin to drain; repeatable."""
        self._asked.set()

    def end(self, code: int) -> None:
        """End now, with this code."""
        if self.code is None:
            self.code = code
        self._asked.set()
        self._emptied.set()

    def signalled(self, number: int) -> None:
        """The first signal drains, also where a quit began it already; the second ends."""
        self._signals += 1
        if self._signals > 1:
            self.end(128 + number)
        else:
            self._events.info("signal", signal=signal.Signals(number).name)
            self.begin_drain()

    async def wait_until_empty(self, deadline_at: float) -> bool:
        """Wait until nothing is in flight, at most until `deadline_at` of the loop's time; whether it came to that, or to an end."""
        try:
            async with asyncio.timeout_at(deadline_at):
                await self._emptied.wait()
        except TimeoutError:
            return False
        return True
