"""What the broker and the verifier count; the names are in telemetry/names.py."""

from collections import defaultdict
from collections.abc import Callable, Iterator

from robin.telemetry import names
from robin.telemetry.histogram import EXCHANGE_S, Histogram
from robin.telemetry.names import Reading


class PassportMetrics:
    """Plain counters. `bundle_age_s`, `replay_entries` and `svid_expiry_s` are asked at a scrape."""

    __slots__ = (
        "bundle_age_s",
        "bundle_reload_errors",
        "connections",
        "denied",
        "issued",
        "replay_entries",
        "seconds",
        "svid_expiry_s",
        "verified",
    )

    def __init__(self) -> None:
        self.issued: defaultdict[tuple[str, str], int] = defaultdict(int)  # (profile, class)
        self.denied: defaultdict[tuple[str, str], int] = defaultdict(int)  # (component, reason)
        self.verified: defaultdict[tuple[str, str, str], int] = defaultdict(int)  # (profile, surface, outcome)
        self.seconds: dict[str, Histogram] = {}  # by profile
        self.connections = 0
        self.bundle_reload_errors = 0
        self.bundle_age_s: Callable[[], float | None] = lambda: None
        self.replay_entries: Callable[[], int] = lambda: 0
        self.svid_expiry_s: Callable[[], float | None] = lambda: None

    def observe(self, profile: str, seconds: float) -> None:
        """Note how long one verification took."""
        self.seconds.setdefault(profile, Histogram(EXCHANGE_S)).observe(seconds)

    def readings(self) -> Iterator[Reading]:
        """Every series, read now."""
        for labels, count in self.issued.items():
            yield names.PASSPORT_ISSUED, labels, count
        for denied, count in self.denied.items():
            yield names.PASSPORT_DENIED, denied, count
        for verified, count in self.verified.items():
            yield names.PASSPORT_VERIFIED, verified, count
        for profile, histogram in self.seconds.items():
            yield names.PASSPORT_VERIFY, (profile,), histogram
        yield names.REPLAY_ENTRIES, (), self.replay_entries()
        if (age_s := self.bundle_age_s()) is not None:
            yield names.BUNDLE_AGE, (), age_s
        yield names.BUNDLE_RELOAD_ERRORS, (), self.bundle_reload_errors
        yield names.BROKER_CONNECTIONS, (), self.connections
        if (expiry_s := self.svid_expiry_s()) is not None:
            yield names.SVID_EXPIRY, (), expiry_s
