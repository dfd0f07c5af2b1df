"""The only reader of clocks: wall seconds since the epoch, and monotonic seconds; both come in as arguments elsewhere."""

import time
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """Both clocks, so that tests can turn them by hand."""

    def wall(self) -> float:
        """Seconds since the epoch; may step."""
        ...

    def monotonic(self) -> float:
        """Seconds that never step back; the same clock as the event loop's `time()`."""
        ...

    def boottime(self) -> float:
        """As `monotonic`, and it also counts while the machine is suspended."""
        ...


class SystemClock:
    """The machine's clocks: the functions themselves, since they are asked several times an exchange."""

    __slots__ = ()

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    boottime = staticmethod(partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)))
