"""What connections leave free in the heap goes back to the system, a moment after they have closed.

glibc by itself gives back the top of its heap only: one small thing that lives on keeps all below it, and under load that changes the heap
at rest grows for ever (docs/how-to/bound-memory.md). Other C libraries have no such call, and are left alone.
"""

from collections.abc import Callable
from typing import Final

from robin.transport.deadlines import Sweeper

EVERY_S: Final = 2.0  # no oftener: it takes a millisecond as a rule, 20 for 180 MB given back
_PAUSE: Final = 100.0  # and not before so many times what it took: a hundredth of the time at most, however large the heap


def find_malloc_trim() -> Callable[[], object] | None:
    """glibc's malloc_trim(3), all of it; None where the C library has none."""
    try:
        import ctypes  # noqa: PLC0415 - a Python without libffi has none, and is not worse off for it than before

        trim = ctypes.CDLL(None).malloc_trim
    except (ImportError, OSError, AttributeError):
        return None
    trim.argtypes = (ctypes.c_size_t,)
    return lambda: trim(0)


class MallocTrimmer:
    """Trims after `sweeper` has discarded items. `trim` must not raise."""

    __slots__ = ("_discarded", "_due_at", "_monotonic", "_sweeper", "_trim")

    def __init__(self, sweeper: Sweeper, trim: Callable[[], object], monotonic: Callable[[], float]) -> None:
        """`monotonic`: seconds, read before and after the find_malloc_trim."""
        self._sweeper = sweeper
        self._trim = trim
        self._monotonic = monotonic
        self._discarded = -1  # what starting up left is given back too
        self._due_at = 0.0

    def run(self, now: float) -> None:
        """A chore of the sweep: give back what is free, if a connection closed since the last time."""
        if self._sweeper.discarded != self._discarded and now >= self._due_at:
            self._discarded = self._sweeper.discarded
            began_at = self._monotonic()
            self._trim()
            self._due_at = now + max(EVERY_S, _PAUSE * (self._monotonic() - began_at))
