"""What may be used once: a bounded store in memory that forgets only what has expired, and a token bucket for each user."""

import heapq
from typing import Final, Literal

Outcome = Literal["fresh", "seen", "full", "unavailable"]


class MemoryReplayStore:
    """`consume` is atomic: it runs in one turn of the loop. At the limit nothing is evicted, and everything is denied."""

    __slots__ = ("_by_expiry", "_most", "_until")

    def __init__(self, most: int) -> None:
        self._most = most
        self._until: dict[bytes, float] = {}
        self._by_expiry: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        return len(self._until)

    def consume(self, key: bytes, until: float, now: float) -> Outcome:
        """Note the key until `until` (wall seconds); `seen` if it was noted already."""
        while self._by_expiry and self._by_expiry[0][0] < now:
            self._until.pop(heapq.heappop(self._by_expiry)[1], None)
        if key in self._until:
            return "seen"
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
