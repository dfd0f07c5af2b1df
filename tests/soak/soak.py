"""One soak from start to verdict: two sides driven through the plan, watched every second, judged at the end."""

import asyncio
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak import look
from tests.soak.chart import Band
from tests.soak.phases import CALM, CYCLE, DRAIN, Phase, Times
from tests.soak.side import Side
from tests.soak.sides import PlainSide, TlsSide

from robin.testing.authority import IdentityAuthority

_LAST_LOAD_UNITS = 2.0  # load before the drain


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """What one second looked like, over both sides."""

    at_s: float
    begun: int
    p50_ms: float
    p99_ms: float
    sizes: dict[str, look.Size]


@dataclass(slots=True)
class Course:
    """What has happened so far."""

    plan: list[Phase] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    seconds: list[Second] = field(default_factory=list)
    cycle: int = 0


class Soak:
    """`await Soak(...).run()`; `show(line)` hears one line a second."""

    def __init__(self, folder: Path, *, times: Times, rate: float, show: Callable[[str], None]) -> None:
        self.folder = folder
        self.times = times
        self.rate = rate
        self.course = Course()
        self._show = show
        self._scratch = tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True)  # short, for the path of a socket
        scratch, authority = Path(self._scratch.name), IdentityAuthority()
        self.sides: list[Side] = [kind(folder, scratch, authority, rate / 2) for kind in (PlainSide, TlsSide)]
        self.started_at = self.loaded_s = self._began_at = 0.0

    @property
    def elapsed_s(self) -> float:
        """Since the load began."""
        return time.monotonic() - self._began_at

    async def run(self) -> None:
        """All of it. Raises what keeps the soak itself from running."""
        self.started_at = time.time()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._scratch.cleanup)
            for side in self.sides:
                stack.push_async_callback(side.close)
            await self._each(Side.start)
            self._began_at = time.monotonic()
            watching = asyncio.create_task(self._watch())
            try:
                for cycle in range(self.times.cycles):
                    self.course.cycle = cycle + 1
                    for phase in CYCLE:
                        await self._phase(phase)
                await self._phase(CALM, seconds=_LAST_LOAD_UNITS * self.times.unit_s)
                await self._phase(DRAIN)
                self.loaded_s = self.elapsed_s
                await self._each(Side.finish)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def _each(self, act: Callable[[Side], Coroutine[Any, Any, Any]]) -> None:
        """The same on both sides at once."""
        async with asyncio.TaskGroup() as group:
            for side in self.sides:
                group.create_task(act(side))

    async def _phase(self, phase: Phase, *, seconds: float | None = None) -> None:
        lasts_s = phase.weight * self.times.unit_s if seconds is None else seconds
        number = len(self.course.plan)
        self.course.plan.append(phase)
        begin_s = self.elapsed_s
        await self._each(lambda side: side.enter(phase, number))
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(lasts_s))
            for side in self.sides:
                group.create_task(self._act(side, phase.name, lasts_s))
        if phase is not DRAIN:
            await self._each(lambda side: side.leave(phase))
        self.course.bands.append(Band(name=phase.name, begin_s=begin_s, end_s=self.elapsed_s))

    async def _act(self, side: Side, name: str, seconds: float) -> None:
        """What is done in a phase besides its load and the upstream's mischief."""
        match name:
            case "reload":
                await side.reload(seconds)
            case "restarts":
                await side.restart(seconds)
            case "exhaustion":
                await side.exhaust(seconds)
            case "rest":
                await side.rest(self.elapsed_s)
            case "drain":
                await side.drain()

    async def _watch(self) -> None:
        """One Second each second."""
        begun, at_s = 0, self.elapsed_s
        while True:
            await asyncio.sleep(1.0 - self.elapsed_s % 1.0)
            took: list[int] = []
            sizes: dict[str, look.Size] = {}
            for side in self.sides:
                took += side.took_us
                side.took_us = []
                with contextlib.suppress(OSError, IndexError):  # it has ended
                    sizes[side.name] = look.size(side.robin.pid)
            took.sort()
            total, now_s = sum(side.begun for side in self.sides), self.elapsed_s
            second = Second(
                at_s=now_s,
                begun=round((total - begun) / max(now_s - at_s, 0.001)),
                p50_ms=_percentile(took, 0.50) / 1000,
                p99_ms=_percentile(took, 0.99) / 1000,
                sizes=sizes,
            )
            begun, at_s = total, now_s
            self.course.seconds.append(second)
            self._show(self._line(second))

    def _line(self, second: Second) -> str:
        ended: Counter[str] = sum((side.ended for side in self.sides), Counter())
        held = "  ".join(f"{name} {size.resident_bytes / 2**20:.1f} MiB {size.descriptors} fds" for name, size in second.sizes.items())
        phase = self.course.plan[-1].name if self.course.plan else "start"
        return (
            f"{int(second.at_s) // 60:02d}:{int(second.at_s) % 60:02d} cycle {self.course.cycle}/{self.times.cycles} {phase:<10} "
            f"{second.begun:>5}/s  p50 {second.p50_ms:.1f} p99 {second.p99_ms:.0f} ms  {held}  "
            f"right {ended['right']:,} refused {ended['refused']:,} cut {ended['cut']:,} wrong {ended['wrong'] + ended['hung']:,}"
        )


def _percentile(ordered: list[int], share: float) -> float:
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * share))]) if ordered else float("nan")
