"""Deadlines without timers: every open connection carries one `deadline_at`, and one sweep of them all runs four times a second.

A wait on the hot path sets a float instead of making and cancelling a timer; the price is a grain of a quarter second, which no
setting of ours is finer than.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from robin.transport.write_coalescer import WriteCoalescer

GRAIN_S: Final = 0.25


class Expiring(Protocol):
    """What can be swept."""

    deadline_at: float

    def expire(self) -> None:
        """The deadline passed."""
        ...


class Sweeper:
    """Calls `expire` on what is overdue, and each of `chores(now)` once a sweep. `now` is the loop's monotonic clock, in seconds.

    `discarded`: how often an item was. What it sweeps shares one `coalescer` too.
    """

    __slots__ = ("_chores", "_items", "_loop", "_timer", "coalescer", "discarded")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.discarded = 0
        self.coalescer = WriteCoalescer(loop)
        self._items: set[Expiring] = set()
        self._chores: list[Callable[[float], None]] = []
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Expiring) -> None:
        """Sweep `item` from now on."""
        self._items.add(item)

    def discard(self, item: Expiring) -> None:
        """Sweep `item` no more."""
        self.discarded += 1
        self._items.discard(item)

    def every_sweep(self, chore: Callable[[float], None]) -> None:
        """Call `chore(now)` once a sweep; it holds the loop, so a few milliseconds at most, and must not raise."""
        self._chores.append(chore)

    def start(self) -> None:
        """Begin to sweep."""
        self._timer = self._loop.call_later(GRAIN_S, self.sweep)

    def close(self) -> None:
        """Sweep no more."""
        if self._timer is not None:
            self._timer.cancel()

    def sweep(self) -> None:
        """One round."""
        self._timer = self._loop.call_later(GRAIN_S, self.sweep)
        now = self._loop.time()
        for item in [item for item in self._items if item.deadline_at <= now]:
            item.expire()
        for chore in self._chores:
            chore(now)
