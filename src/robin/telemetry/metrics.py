"""The engine's counters: plain ints on one slotted object, incremented in place by the loop's thread, read at a scrape.

Rules: no locks, no label lookups beyond one dict get, no series that a caller can invent. `Recorder.flush` increments what is
known at the end of an exchange (the attributes marked so), the engine the rest. Tables are `defaultdict(int)`: `retries["eof"] += 1`.
"""

import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping

from robin.telemetry import names
from robin.telemetry.histogram import CONNECT_S, EXCHANGE_S, Histogram
from robin.telemetry.names import MetricName, Reading

_CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")
"""`code_class` by hundreds of the status sent to the caller; `none` where no head was sent."""


class Metrics:
    """Every counter of one process except those of its identities (`IdentityMetrics`)."""

    __slots__ = (
        "body_bytes_in",
        "body_bytes_out",
        "ca_reloads",
        "connect_duration",
        "downstream_connections",
        "drain_state",
        "in_flight",
        "peer_denied",
        "request_duration",
        "requests",
        "retries",
        "time_to_first_byte",
        "unsafe",
        "upgrades",
        "upgrades_active",
        "upstream_active",
        "upstream_idle",
        "upstream_responses",
        "version",
    )

    def __init__(self, *, version: str, unsafe: Mapping[str, bool]) -> None:
        self.version = version
        self.unsafe = dict(unsafe)
        # incremented by Recorder.flush
        self.requests: defaultdict[tuple[str, str, int], int] = defaultdict(int)  # (outcome, method, hundreds of the status or 0)
        self.request_duration: dict[str, Histogram] = {}  # by outcome
        self.time_to_first_byte = Histogram(EXCHANGE_S)
        self.upstream_responses: defaultdict[int, int] = defaultdict(int)  # by status code
        # incremented by the engine
        self.in_flight = 0
        self.body_bytes_in = 0  # from callers
        self.body_bytes_out = 0  # to callers
        self.downstream_connections: defaultdict[str, int] = defaultdict(int)  # by listener
        self.upstream_active = 0
        self.upstream_idle = 0
        self.retries: defaultdict[str, int] = defaultdict(int, eof=0, reset=0)
        self.connect_duration: dict[str, Histogram] = {}  # by result
        self.upgrades_active = 0
        self.upgrades: defaultdict[str, int] = defaultdict(int, switched=0, refused=0, failed=0)
        self.drain_state = 0  # 0 serving, 1 minimum delay, 2 closing
        self.peer_denied: defaultdict[str, int] = defaultdict(int)
        self.ca_reloads: defaultdict[str, int] = defaultdict(int, loaded=0, failed=0)

    def connected(self, result: str, duration_s: float) -> None:
        """Count one attempt to connect to the upstream: `ok` or the code of its fault."""
        histogram = self.connect_duration.get(result)
        if histogram is None:
            histogram = self.connect_duration[result] = Histogram(CONNECT_S)
        histogram.observe(duration_s)

    def readings(self) -> Iterator[Reading]:
        """Every series, read now."""
        for (outcome, method, hundreds), count in self.requests.items():
            yield names.REQUESTS, (outcome, method, _CLASSES[hundreds]), count
        for outcome, histogram in self.request_duration.items():
            yield names.REQUEST_DURATION, (outcome,), histogram
        yield names.TIME_TO_FIRST_BYTE, (), self.time_to_first_byte
        yield names.REQUESTS_IN_FLIGHT, (), self.in_flight
        yield names.BODY_BYTES, ("in",), self.body_bytes_in
        yield names.BODY_BYTES, ("out",), self.body_bytes_out
        yield from _table(names.DOWNSTREAM_CONNECTIONS, self.downstream_connections)
        yield names.UPSTREAM_CONNECTIONS, ("active",), self.upstream_active
        yield names.UPSTREAM_CONNECTIONS, ("idle",), self.upstream_idle
        for code, count in self.upstream_responses.items():
            yield names.UPSTREAM_RESPONSES, (str(code),), count
        yield from _table(names.UPSTREAM_RETRIES, self.retries)
        for result, histogram in self.connect_duration.items():
            yield names.UPSTREAM_CONNECT_DURATION, (result,), histogram
        yield names.UPGRADES_ACTIVE, (), self.upgrades_active
        yield from _table(names.UPGRADES, self.upgrades)
        yield names.DRAIN_STATE, (), self.drain_state
        yield from _table(names.PEER_DENIED, self.peer_denied)
        yield from _table(names.CA_RELOADS, self.ca_reloads)
        for switch, in_force in self.unsafe.items():
            yield names.UNSAFE, (switch,), int(in_force)
        yield names.BUILD, (self.version, platform.python_version()), 1


def _table(name: MetricName, table: Mapping[str, int]) -> Iterator[Reading]:
    for label, count in table.items():
        yield name, (label,), count
