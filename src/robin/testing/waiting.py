"""Waiting with a deadline: a test polls a condition until it holds, and a failure says what was waited for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

Found = TypeVar("Found")


async def eventually(
    probe: Callable[[], Found | Awaitable[Found]], *, timeout_s: float = 30.0, every_s: float = 0.01, what: str = ""
) -> Found:
    """Call `probe` until it gives something true, and return that. TimeoutError names `what` and the last value seen.

    Where an event can be awaited, await the event: this is for what can only be looked at (files, processes, memory, counters).
    """
    loop = asyncio.get_running_loop()
    deadline_at = loop.time() + timeout_s
    while True:
        found = probe()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        if loop.time() >= deadline_at:
            raise TimeoutError(f"waited {timeout_s:g} s for {what or repr(probe)}; last seen: {found!r}")
        await asyncio.sleep(every_s)
