"""When to refresh and when to try again: pure arithmetic, every draw and instant an argument.

Instants of tokens are wall-clock seconds, since `exp` is; what waits is monotonic; `WallStep` says when the two must be married anew.
"""

import math
from typing import Final

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
EARLIEST_S: Final = 1.0
WALL_STEP_S: Final = 2.0
FORCED_EVERY_S: Final = 30.0


def refresh_at(*, received_at: float, expires_at: float, refresh_before_s: float, draw: float) -> float:
    """The wall instant at which a token becomes STALE. `draw` is uniform in [0, 1): a fleet must not refresh as one.

    A tenth of the lead is spread; the lead is at most half of the life that the token had left when it came.
    """
    lead_s = min(refresh_before_s, (expires_at - received_at) / 2)
    return max(expires_at - lead_s * (1 - draw / 10), received_at + EARLIEST_S)


def backoff_s(failures: int, draw: float) -> float:
    """Seconds to the next try after the `failures`-th failure in a row, counted from 0. `draw` is uniform in [0, 1)."""
    ceiling_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures, 16))
    return ceiling_s * (0.5 + draw / 2)


class WallStep:
    """Notices that the wall clock was set, or that the machine slept, by its distance from the monotonic clock."""

    __slots__ = ("_distance",)

    def __init__(self, *, wall: float, monotonic: float) -> None:
        self._distance = wall - monotonic

    def happened(self, *, wall: float, monotonic: float) -> bool:
        """Whether the wall stepped by more than 2 s since this last said so."""
        distance = wall - monotonic
        if abs(distance - self._distance) <= WALL_STEP_S:
            return False
        self._distance = distance
        return True


class Forced:
    """How often answers 401 may force another look at the platform: at most once per 30 s."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at = -math.inf

    def permits(self, now: float) -> bool:
        """Whether one may be forced now (monotonic seconds); if so, it counts as done."""
        if now - self._at < FORCED_EVERY_S:
            return False
        self._at = now
        return True
