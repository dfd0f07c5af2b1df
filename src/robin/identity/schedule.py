"""When to refresh and when to try again: arithmetic without I/O, in which every random draw and every instant is an argument.

Instants of tokens are wall-clock seconds, since `exp` is one. Waits use the monotonic clock. `ClockJump` detects that the wall clock moved
against the monotonic clock, so that what was planned can be planned again.
"""

import math
from typing import Final

from robin.model.secret import Secret
from robin.wire.jwt_inspection import fingerprint

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
EARLIEST_S: Final = 1.0
CLOCK_JUMP_S: Final = 2.0
FORCED_REFRESH_EVERY_S: Final = 30.0
_SPREAD: Final = 0.1  # of the lead
_NEW_ENDPOINT_S: Final = 0.5


def refresh_at(*, received_at: float, expires_at: float, usable_until: float, refresh_before_s: float, draw: float) -> float:
    """Return the wall instant at which a token becomes STALE. `draw` is uniform in [0, 1), so that a fleet does not refresh as one.

    The lead before expiry is `refresh_before_s`, less up to a tenth by the draw. It is at least the time in which the token is not usable
    any more (from `usable_until` to `expires_at`: the required rest of validity, or a tenth of the lifetime if that is less), and at most
    half of the life that the token had left when it was received.
    """
    lead_s = max(refresh_before_s, (expires_at - usable_until) / (1 - _SPREAD))
    lead_s = min(lead_s, (expires_at - received_at) / 2)
    return max(expires_at - lead_s * (1 - draw * _SPREAD), received_at + EARLIEST_S)


def backoff_s(failures: int, draw: float) -> float:
    """Return the seconds to the next try after the `failures`-th failure in a row, counted from 0. `draw` is uniform in [0, 1)."""
    ceiling_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures, 16))
    return ceiling_s * (0.5 + draw / 2)


def new_endpoint_s(draw: float) -> float:
    """Return the seconds to the try after a failing endpoint was replaced, which all sidecars of a node see together."""
    return draw * _NEW_ENDPOINT_S


class ClockJump:
    """Detects that the wall clock was set, or that the machine slept, by its distance from the monotonic clock."""

    __slots__ = ("_distance",)

    def __init__(self, *, wall: float, monotonic: float) -> None:
        self._distance = wall - monotonic

    def happened(self, *, wall: float, monotonic: float) -> bool:
        """Return True if the wall clock moved by more than 2 s since this last returned True."""
        distance = wall - monotonic
        if abs(distance - self._distance) <= CLOCK_JUMP_S:
            return False
        self._distance = distance
        return True


class RefreshRateLimit:
    """Limits how often 401 responses may force a refresh: at most once per `every_s`."""

    __slots__ = ("_at", "_every_s")

    def __init__(self, every_s: float = FORCED_REFRESH_EVERY_S) -> None:
        self._every_s = every_s
        self._at = -math.inf

    def permits(self, now: float) -> bool:
        """Return True if a refresh may be forced now (monotonic seconds), and count it as done."""
        if now - self._at < self._every_s:
            return False
        self._at = now
        return True


class FirstSeen:
    """Remembers when the last token was first seen: its lifetime counts from then, however often it is read or returned again."""

    __slots__ = ("_at", "_fingerprint")

    def __init__(self) -> None:
        self._fingerprint = b""
        self._at = 0.0

    def when(self, text: Secret, wall: float) -> float:
        """Return the wall clock at which this token was first seen: now, if it differs from the last one."""
        found = fingerprint(text)
        if found != self._fingerprint:
            self._fingerprint, self._at = found, wall
        return self._at
