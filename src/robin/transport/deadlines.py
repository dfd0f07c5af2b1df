"""Deadlines without timers: each open connection has one `deadline_at`, and one sweep over all connections runs four times a second.

A wait on the request path stores a float instead of creating and cancelling a timer. The price is a resolution of a quarter second; no
setting is finer than that.
"""

import asyncio
import math
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol

from robin.transport.write_coalescer import WriteCoalescer

GRAIN_S: Final = 0.25


class Expiring(Protocol):
    """What the sweeper watches."""

    deadline_at: float

    def expire(self) -> None:
        """The deadline passed."""
        ...


class TaskDeadline:
    """Bounds what the current task awaits within it, as `asyncio.timeout` does: `with TaskDeadline(sweeper, at) as deadline`.

    At `deadline_at`, which may be moved meanwhile, the task is cancelled, and the block raises TimeoutError. Infinity: no bound.
    """

    __slots__ = ("_cancelling", "_expired", "_sweeper", "_task", "deadline_at")

    def __init__(self, sweeper: "Sweeper", deadline_at: float) -> None:
        self._sweeper = sweeper
        self._expired = False
        self.deadline_at = deadline_at

    def __enter__(self) -> "TaskDeadline":
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be bounded")
        self._task, self._cancelling = task, task.cancelling()
        self._sweeper.add(self)
        return self

    def expire(self) -> None:
        """The deadline passed. Called by the sweeper."""
        self.deadline_at = math.inf
        self._expired = True
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Tell this cancellation from one by others, which goes on."""
        self._sweeper.discard(self)
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error


class Sweeper:
    """Calls `expire` on overdue items, and each chore once per sweep. `now` is the loop's monotonic clock, in seconds.

    `discarded` counts the calls of `discard`. The streams that it sweeps share `coalescer`.
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
        """Watch `item` from now on."""
        self._items.add(item)

    def discard(self, item: Expiring) -> None:
        """Stop watching `item`."""
        self.discarded += 1
        self._items.discard(item)

    def every_sweep(self, chore: Callable[[float], None]) -> None:
        """Call `chore(now)` once per sweep. It blocks the loop, so it may take a few milliseconds at most; it must not raise."""
        self._chores.append(chore)

    def start(self) -> None:
        """Start the periodic sweep."""
        self._timer = self._loop.call_later(GRAIN_S, self.sweep)

    def close(self) -> None:
        """Stop the periodic sweep."""
        if self._timer is not None:
            self._timer.cancel()

    def sweep(self) -> None:
        """Run one sweep."""
        self._timer = self._loop.call_later(GRAIN_S, self.sweep)
        now = self._loop.time()
        for item in [item for item in self._items if item.deadline_at <= now]:
            item.expire()
        for chore in self._chores:
            chore(now)
