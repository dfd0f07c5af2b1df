"""Whether the machine let us run: a thread that only wants to wake 50 times a second, and how late it ever was.

Journeys measure instants to fractions of a second. On a machine that lets a process wait for longer than that, their failure says nothing,
so `timed` runs such a test again, twice at most; a failure on a machine that was calm stands at once.
"""

import functools
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import ParamSpec, Self

Arguments = ParamSpec("Arguments")
TICK_S = 0.02
CALM_S = 0.05
ATTEMPTS = 3
PROGRAMS = 4  # caller, sidecar, upstream and platform: on a busy machine each of them may be kept waiting, one after the other


class Stalls:
    """`with Stalls() as stalls:`; `worst_s` is the longest that this process was kept from running."""

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._enough.set()
        self._thread.join()

    def _watch(self) -> None:
        looked_at = time.monotonic()
        while not self._enough.wait(TICK_S):
            now = time.monotonic()
            self.worst_s = max(self.worst_s, now - looked_at - TICK_S)
            looked_at = now


def timed(test: Callable[Arguments, Awaitable[None]]) -> Callable[Arguments, Awaitable[None]]:
    """Run it again when it failed and the machine had stalled. It must make afresh whatever it changes."""

    @functools.wraps(test)
    async def again(*arguments: Arguments.args, **named: Arguments.kwargs) -> None:
        for left in reversed(range(ATTEMPTS)):
            with Stalls() as stalls:
                try:
                    return await test(*arguments, **named)
                except Exception as failure:
                    if not left or stalls.worst_s <= CALM_S:
                        failure.add_note(f"the worst stall of this machine meanwhile: {stalls.worst_s:.3f} s")
                        raise
            print(f"{test.__name__}: failed while the machine stalled for {stalls.worst_s:.2f} s; again", file=sys.stderr)
        return None

    return again
