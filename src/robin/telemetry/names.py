"""Every metric's name, kind, labels and meaning, once: code counts by attribute, the exposition and the reference page follow this table.

Labels are bounded: closed sets, settings or status codes; never a path, a subject, an audience, an address of a caller.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from robin.telemetry.histogram import Histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricName:
    """One metric family. A counter's name ends in `_total`; `labels` are its own labels, besides `plane`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    text: str


Reading = tuple[MetricName, tuple[str, ...], "float | Histogram"]
"""One series: its family, its label values in the order of `MetricName.labels`, and its value now."""


class Readable(Protocol):
    """A holder of counters, which yields its series at a scrape."""

    def readings(self) -> Iterator[Reading]:
        """Every series, read now; no waiting, no fetching."""
        ...


def _counter(name: str, text: str, *labels: str) -> MetricName:
    return MetricName(name=name, kind="counter", labels=labels, text=text)


def _gauge(name: str, text: str, *labels: str) -> MetricName:
    return MetricName(name=name, kind="gauge", labels=labels, text=text)


def _histogram(name: str, text: str, *labels: str) -> MetricName:
    return MetricName(name=name, kind="histogram", labels=labels, text=text)


REQUESTS: Final = _counter("robin_requests_total", "Exchanges that ended.", "outcome", "method", "code_class")
REQUEST_DURATION: Final = _histogram("robin_request_duration_seconds", "From the request head to the end of the exchange.", "outcome")
TIME_TO_FIRST_BYTE: Final = _histogram("robin_time_to_first_byte_seconds", "From the request head to the first byte of the answer.")
REQUESTS_IN_FLIGHT: Final = _gauge("robin_requests_in_flight", "Exchanges under way.")
BODY_BYTES: Final = _counter("robin_body_bytes_total", "Body bytes relayed: `in` from callers, `out` to callers.", "direction")
DOWNSTREAM_CONNECTIONS: Final = _gauge("robin_downstream_connections", "Open connections from callers.", "listener")
UPSTREAM_CONNECTIONS: Final = _gauge("robin_upstream_connections", "Open connections to the upstream: `active` or `idle`.", "state")
UPSTREAM_RESPONSES: Final = _counter("robin_upstream_responses_total", "Final answers of the upstream by status code.", "code")

IDENTITY_READY: Final = _gauge("robin_identity_ready", "1 while a token is usable, else 0.", "source")
IDENTITY_EXPIRY: Final = _gauge("robin_identity_expiry_timestamp_seconds", "When the token in use expires, since the epoch.", "source")
IDENTITY_FETCH_DURATION: Final = _histogram("robin_identity_fetch_duration_seconds", "One read or fetch of the token.", "source", "result")
IDENTITY_REFRESH: Final = _counter(
    "robin_identity_refresh_total",
    "Refreshes of the token: `renewed`, `unchanged`, `error`; `code`: why.",
    "source",
    "result",
    "code",
)
IDENTITY_CACHE: Final = _counter(
    "robin_identity_cache_total", "How requests found the token: `hit`, `wait` (joined a fetch), `miss` (went without).", "source", "result"
)
IDENTITY_SERVED_STALE: Final = _counter("robin_identity_served_stale_total", "Requests served with a token due for refresh.", "source")
IDENTITY_REJECTED: Final = _counter("robin_identity_rejected_total", "Tokens and replies refused by the checks.", "source", "reason")
IDENTITY_TORN_READS: Final = _counter("robin_identity_torn_reads_total", "Reads of the token file that met a writer.", "source")

UPSTREAM_RETRIES: Final = _counter("robin_upstream_retries_total", "Requests repeated on a new connection (keep-alive race).", "reason")
UPSTREAM_CONNECT_DURATION: Final = _histogram(
    "robin_upstream_connect_duration_seconds", "DNS, TCP and TLS together: `ok` or the code of the fault.", "result"
)
UPGRADES_ACTIVE: Final = _gauge("robin_upgrades_active", "Tunnels open after an upgrade.")
UPGRADES: Final = _counter("robin_upgrades_total", "Upgrades asked of the upstream: `switched`, `refused`, `failed`.", "result")
DRAIN_STATE: Final = _gauge("robin_drain_state", "0 serving, 1 minimum delay, 2 closing.")
PEER_DENIED: Final = _counter("robin_peer_denied_total", "Connections refused because of who opened them.", "reason")
CA_RELOADS: Final = _counter("robin_upstream_ca_reloads_total", "Reloads of the upstream's CA bundle: `loaded` or `failed`.", "result")
ACCESS_RECORDS_DROPPED: Final = _counter("robin_access_records_dropped_total", "Log lines lost: standard output was full, blocked or gone.")
UNSAFE: Final = _gauge("robin_unsafe", "1 where an unsafe switch is in force.", "switch")
BUILD: Final = _gauge("robin_build_info", "Always 1; the labels say what runs.", "version", "python")

PASSPORT_ISSUED: Final = _counter("robin_passport_issued_total", "Passports that the broker issued.", "profile", "class")
PASSPORT_DENIED: Final = _counter("robin_passport_denied_total", "Refusals of broker and verifier by their code.", "component", "reason")
PASSPORT_VERIFIED: Final = _counter("robin_passport_verified_total", "Requests that the verifier judged.", "profile", "surface", "outcome")
PASSPORT_VERIFY: Final = _histogram("robin_passport_verify_seconds", "One verification, without the body.", "profile")
REPLAY_ENTRIES: Final = _gauge("robin_replay_entries", "Passports and nonces that the replay store holds.")
BUNDLE_AGE: Final = _gauge("robin_bundle_age_seconds", "Seconds since the signed time of the bundle in force.")
BUNDLE_RELOAD_ERRORS: Final = _counter("robin_bundle_reload_errors_total", "Bundles that were not taken.")
BROKER_CONNECTIONS: Final = _gauge("robin_broker_connections", "Open connections of the broker's clients.")

PROCESS_CPU: Final = _counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
PROCESS_OPEN_FDS: Final = _gauge("process_open_fds", "Number of open file descriptors.")
PROCESS_MAX_FDS: Final = _gauge("process_max_fds", "Maximum number of open file descriptors.")
PROCESS_VIRTUAL: Final = _gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.")
PROCESS_RESIDENT: Final = _gauge("process_resident_memory_bytes", "Resident memory size in bytes.")
PROCESS_START: Final = _gauge("process_start_time_seconds", "Start time of the process since the Unix epoch in seconds.")

METRICS: Final[tuple[MetricName, ...]] = tuple(value for value in list(globals().values()) if isinstance(value, MetricName))
"""Every family, in the order of the reference page."""
