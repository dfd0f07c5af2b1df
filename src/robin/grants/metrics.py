"""What grants count; the names are in telemetry/names.py. Labels are words of the configuration and of closed lists."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from robin.telemetry import names
from robin.telemetry.histogram import CONNECT_S, Histogram
from robin.telemetry.names import Reading


class GrantMetrics:
    """Plain counters. What the cache holds is asked at a scrape: `usable_s` returns seconds by (provider, credential)."""

    __slots__ = (
        "cache",
        "calls",
        "clock_offset_s",
        "durations",
        "entries",
        "flights",
        "forced",
        "injections",
        "negative",
        "redacted",
        "replays",
        "throttled",
        "usable_s",
        "waiters",
        "warnings",
    )

    def __init__(self) -> None:
        self.calls: defaultdict[tuple[str, str, str], int] = defaultdict(int)  # provider, kind, outcome
        self.durations: dict[tuple[str, str], Histogram] = {}  # provider, kind
        self.cache: defaultdict[tuple[str, str], int] = defaultdict(int)  # provider, result
        self.forced: defaultdict[tuple[str, str], int] = defaultdict(int)  # provider, result
        self.replays: defaultdict[tuple[str, str], int] = defaultdict(int)  # provider, result
        self.injections: defaultdict[tuple[str, str], int] = defaultdict(int)  # provider, style
        self.throttled: defaultdict[str, int] = defaultdict(int)
        self.warnings: defaultdict[tuple[str, str], int] = defaultdict(int)  # provider, reason
        self.redacted: defaultdict[str, int] = defaultdict(int)
        self.waiters: defaultdict[str, int] = defaultdict(int)
        self.clock_offset_s: dict[str, float] = {}
        self.entries: Callable[[], int] = lambda: 0
        self.flights: Callable[[], Mapping[str, int]] = dict
        self.negative: Callable[[], Mapping[str, int]] = dict
        self.usable_s: Callable[[], Mapping[tuple[str, str], float]] = dict

    def call(self, provider: str, kind: str, outcome: str, duration_s: float) -> None:
        """Count one call to an issuer."""
        self.calls[provider, kind, outcome] += 1
        self.durations.setdefault((provider, kind), Histogram(CONNECT_S)).observe(duration_s)

    def readings(self) -> Iterator[Reading]:
        """Every series, read now."""
        for call, count in self.calls.items():
            yield names.GRANT_CALLS, call, count
        for labels, histogram in self.durations.items():
            yield names.GRANT_CALL_DURATION, labels, histogram
        tables = (
            (names.GRANT_CACHE, self.cache),
            (names.GRANT_FORCED, self.forced),
            (names.GRANT_REPLAYS, self.replays),
            (names.GRANT_INJECTIONS, self.injections),
            (names.GRANT_WARNINGS, self.warnings),
        )
        for name, table in tables:
            for pair, count in table.items():
                yield name, pair, count
        yield names.GRANT_CACHE_ENTRIES, (), self.entries()
        single = (
            (names.GRANT_FLIGHTS, self.flights()),
            (names.GRANT_WAITERS, self.waiters),
            (names.GRANT_NEGATIVE, self.negative()),
            (names.GRANT_THROTTLED, self.throttled),
            (names.GRANT_REDACTED, self.redacted),
        )
        for name, counts in single:
            for label, count in counts.items():
                yield name, (label,), count
        for credential, seconds in self.usable_s().items():
            if math.isfinite(seconds):
                yield names.GRANT_USABLE, credential, seconds
        for provider, seconds in self.clock_offset_s.items():
            yield names.GRANT_CLOCK_OFFSET, (provider,), seconds
