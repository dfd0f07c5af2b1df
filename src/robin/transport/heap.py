"""What connections leave free in the heap goes back to the system, a moment after they have closed.

glibc by itself gives back the top of its heap only: one small thing that lives on keeps all below it. The soak over TLS stood at 83 MiB at
rest that way, 6 MB of them in use, and at 40 to 44 with this. Other C libraries have no such call, and are left alone.
"""

from collections.abc import Callable
from typing import Final

from robin.transport.deadlines import Sweeper

EVERY_S: Final = 2.0  # at most; a millisecond is usual, 20 ms for 180 MB given back


def trimming() -> Callable[[], object] | None:
    """glibc's malloc_trim(3), all of it; None where the C library has none."""
    try:
        import ctypes  # noqa: PLC0415 - a Python without libffi has none, and is not worse off for it than before

        trim = ctypes.CDLL(None).malloc_trim
    except (ImportError, OSError, AttributeError):
        return None
    trim.argtypes = (ctypes.c_size_t,)
    return lambda: trim(0)


class Heap:
    """Trims after `sweeper` has lost items. `trim` must not raise."""

    __slots__ = ("_lost", "_sweeper", "_trim", "_trimmed_at")

    def __init__(self, sweeper: Sweeper, trim: Callable[[], object]) -> None:
        self._sweeper = sweeper
        self._trim = trim
        self._lost = -1  # what starting up left is given back too
        self._trimmed_at = 0.0

    def tidy(self, now: float) -> None:
        """A chore of the sweep: give back what is free, if a connection closed since the last time."""
        if self._sweeper.lost != self._lost and now - self._trimmed_at >= EVERY_S:
            self._lost, self._trimmed_at = self._sweeper.lost, now
            self._trim()
