"""The counters of one identity: plain attributes that the identity layer increments and a scrape reads."""

from collections.abc import Iterator

from robin.telemetry import names
from robin.telemetry.histogram import CONNECT_S, Histogram
from robin.telemetry.names import Reading


class IdentityMetrics:
    """Counters of one identity. `source` is its label: the configured name of the source; it keeps the series of two identities apart.

    `code` and `reason` labels are closed sets: gRPC code names, fault codes and reason words.

    `cache_hit`: a token was ready; `cache_wait`: the request waited or re-read and was served; `cache_miss`: it went without (503).
    """

    __slots__ = (
        "cache_hit",
        "cache_miss",
        "cache_wait",
        "expires_at",
        "fetches",
        "ready",
        "refreshes",
        "rejected",
        "served_stale",
        "source",
        "torn_reads",
    )

    def __init__(self, source: str) -> None:
        self.source = source
        self.ready = False
        self.expires_at: float | None = None  # of the token in use; None: none, or it does not say
        self.cache_hit = 0
        self.cache_wait = 0
        self.cache_miss = 0
        self.served_stale = 0
        self.torn_reads = 0
        self.refreshes: dict[tuple[str, str], int] = {}  # (renewed|unchanged|error, code)
        self.rejected: dict[str, int] = {}  # reason word
        self.fetches: dict[str, Histogram] = {}  # renewed|unchanged|error

    def count_refresh(self, result: str, code: str, duration_s: float) -> None:
        """Count one read or fetch that ended."""
        key = (result, code)
        self.refreshes[key] = self.refreshes.get(key, 0) + 1
        histogram = self.fetches.get(result)
        if histogram is None:
            histogram = self.fetches[result] = Histogram(CONNECT_S)
        histogram.observe(duration_s)

    def count_rejected(self, reason: str) -> None:
        """Count one token or reply that did not pass the checks."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def readings(self) -> Iterator[Reading]:
        """Yield every series as it is now."""
        source = (self.source,)
        yield names.IDENTITY_READY, source, float(self.ready)
        if self.expires_at is not None:
            yield names.IDENTITY_EXPIRY, source, self.expires_at
        for result, histogram in self.fetches.items():
            yield names.IDENTITY_FETCH_DURATION, (self.source, result), histogram
        for (result, code), count in self.refreshes.items():
            yield names.IDENTITY_REFRESH, (self.source, result, code), count
        for result, count in (("hit", self.cache_hit), ("wait", self.cache_wait), ("miss", self.cache_miss)):
            yield names.IDENTITY_CACHE, (self.source, result), count
        yield names.IDENTITY_SERVED_STALE, source, self.served_stale
        for reason, count in self.rejected.items():
            yield names.IDENTITY_REJECTED, (self.source, reason), count
        yield names.IDENTITY_TORN_READS, source, self.torn_reads
