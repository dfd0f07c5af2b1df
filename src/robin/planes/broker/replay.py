"""What may be used once: a bounded store in memory that forgets only what has expired, and a token bucket for each user."""

import heapq
import math
from typing import Final, Literal

Outcome = Literal["fresh", "seen", "stale", "full", "unavailable"]


class MemoryReplayStore:
    """`consume` is atomic: it runs in one turn of the loop. At the limit nothing is evicted, and everything is denied.

    What ends before something that was forgotten is `stale`: a clock that is set back would make an expired use possible once more.
    """

    __slots__ = ("_by_expiry", "_forgotten_until", "_most", "_until")

    def __init__(self, most: int) -> None:
        self._most = most
        self._until: dict[bytes, float] = {}
        self._by_expiry: list[tuple[float, bytes]] = []
        self._forgotten_until = -math.inf

    def __len__(self) -> int:
        return len(self._until)

    def consume(self, key: bytes, until: float, now: float) -> Outcome:
        """Note the key until `until`, a time of the clock of `now`; `seen` if it was noted already, `stale` if that may be forgotten."""
        while self._by_expiry and self._by_expiry[0][0] < now:
            self._forgotten_until, forgotten = heapq.heappop(self._by_expiry)
            del self._until[forgotten]
        if key in self._until:
            return "seen"
        if until <= self._forgotten_until:
            return "stale"
        if len(self._until) >= self._most:
            return "full"
        self._until[key] = until
        heapq.heappush(self._by_expiry, (until, key))
        return "fresh"


class RateLimit:
    """At most `per_s` a second for each user, `burst` at once."""

    __slots__ = ("_burst", "_left", "_per_s")

    USERS_MOST: Final = 4096

    def __init__(self, *, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left: dict[int, tuple[float, float]] = {}  # what is left, and when that was

    def take(self, uid: int, now: float) -> bool:
        """Whether one more may be served now. `now` is monotonic."""
        left, at = self._left.get(uid, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._per_s)
        if len(self._left) > self.USERS_MOST:
            self._left = {user: pair for user, pair in self._left.items() if pair[0] + (now - pair[1]) * self._per_s < self._burst}
        self._left[uid] = (left - 1 if left >= 1 else left, now)
        return left >= 1
