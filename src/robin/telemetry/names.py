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

GRANT_CALLS: Final = _counter(
    "robin_grant_calls_total", "Calls to token issuers: `issued` or the code of the failure.", "provider", "kind", "outcome"
)
GRANT_CALL_DURATION: Final = _histogram("robin_grant_call_duration_seconds", "One call to a token issuer.", "provider", "kind")
GRANT_CACHE: Final = _counter(
    "robin_grant_cache_total",
    "How requests found their token: `hit`, `stale`, `miss`, `joined`, `negative`, `bypass` (an identity token).",
    "provider",
    "result",
)
GRANT_CACHE_ENTRIES: Final = _gauge("robin_grant_cache_entries", "Keys that the cache has a token of.")
GRANT_FLIGHTS: Final = _gauge("robin_grant_flights", "Fetches of tokens under way.", "provider")
GRANT_WAITERS: Final = _gauge("robin_grant_waiters", "Requests that wait for a token.", "provider")
GRANT_NEGATIVE: Final = _gauge("robin_grant_negative_entries", "Keys whose last fetch failed and that wait, by class of failure.", "class")
GRANT_FORCED: Final = _counter(
    "robin_grant_forced_refresh_total",
    "What a 401 led to: `refreshed`, `same_token`, `suppressed`, `failed`.",
    "provider",
    "result",
)
GRANT_REPLAYS: Final = _counter(
    "robin_grant_replays_total", "Requests sent again after a 401: `accepted`, `rejected`, `not_replayable`.", "provider", "result"
)
GRANT_INJECTIONS: Final = _counter("robin_grant_injections_total", "Credentials written into requests.", "provider", "style")
GRANT_THROTTLED: Final = _counter("robin_grant_throttled_total", "Fetches refused by the rate of their issuer.", "provider")
GRANT_WARNINGS: Final = _counter(
    "robin_grant_answer_warnings_total", "Tokens taken although `scope` or `audience` is not what was asked for.", "provider", "reason"
)
GRANT_REDACTED: Final = _counter("robin_grant_echo_redacted_total", "Responses with a field that held the credential.", "provider")
GRANT_USABLE: Final = _gauge("robin_grant_usable_seconds", "Seconds that the token in use can still be used.", "provider", "credential")
GRANT_CLOCK_OFFSET: Final = _gauge("robin_grant_clock_offset_seconds", "Clock of the issuer less our own.", "provider")

PASSPORT_ISSUED: Final = _counter("robin_passport_issued_total", "Passports that the broker issued.", "profile", "class")
PASSPORT_DENIED: Final = _counter("robin_passport_denied_total", "Refusals of broker and verifier by their code.", "component", "reason")
PASSPORT_VERIFIED: Final = _counter("robin_passport_verified_total", "Requests that the verifier judged.", "profile", "surface", "outcome")
PASSPORT_VERIFY: Final = _histogram("robin_passport_verify_seconds", "One verification, without the body.", "profile")
REPLAY_ENTRIES: Final = _gauge("robin_replay_entries", "Passports and nonces that the replay store holds.")
BUNDLE_AGE: Final = _gauge("robin_bundle_age_seconds", "Seconds since the signed time of the bundle in force.")
BUNDLE_RELOAD_ERRORS: Final = _counter("robin_bundle_reload_errors_total", "Bundles that were not taken.")
SVID_EXPIRY: Final = _gauge("robin_svid_expiry_seconds", "Seconds until the broker's X.509-SVID expires.")
BROKER_CONNECTIONS: Final = _gauge("robin_broker_connections", "Open connections of the broker's clients.")

KUBE_REQUESTS: Final = _counter("robin_kube_requests_total", "Requests of agents that were judged.", "agent", "tier", "decision", "code")
KUBE_REFUSALS: Final = _counter("robin_kube_refusals_total", "Requests that were refused before they were judged.", "code")
KUBE_AUTH_FAILURES: Final = _counter("robin_kube_auth_failures_total", "Requests without an agent, by cause.", "reason")
KUBE_SECONDS: Final = _histogram(
    "robin_kube_request_seconds", "Parts of a request: `decide`, `mint`, `upstream`, and `total`.", "tier", "phase"
)
KUBE_MINTS: Final = _counter("robin_kube_mints_total", "TokenRequests for agents: `ok` or the code.", "result")
KUBE_TOKEN_SECONDS: Final = _histogram("robin_kube_token_seconds", "Lives of tokens: `asked`, `granted`, `effective`.", "kind")
KUBE_SESSIONS: Final = _gauge("robin_kube_sessions", "Requests that last and are open, by kind.", "kind")
KUBE_SESSION_ENDS: Final = _counter("robin_kube_session_ends_total", "Requests that lasted and ended.", "kind", "reason")
KUBE_POLICY_RELOADS: Final = _counter("robin_kube_policy_reloads_total", "Reloads of the policy: `ok` or `error`.", "result")
KUBE_POLICY: Final = _gauge("robin_kube_policy_info", "Always 1; the label is the digest of the policy in force.", "digest")
KUBE_BOOTSTRAP_EXPIRY: Final = _gauge("robin_kube_bootstrap_expiry_seconds", "Seconds until the bootstrap credential expires.")
CONFIG_RELOADS: Final = _counter("robin_config_reload_total", "Reloads of the settings: `ok`, or `refused` whole.", "result")
GATEWAY_DECISIONS: Final = _counter(
    "robin_gateway_decisions_total", "Decisions, by what was asked for.", "listener", "op", "verdict", "code", "rule"
)
GATEWAY_WOULD_DENY: Final = _counter(
    "robin_gateway_would_deny_total", "Denials by rules that were reported alone; something else may have refused the request then.", "rule"
)
GATEWAY_AUTH_FAILURES: Final = _counter("robin_gateway_auth_failures_total", "Callers that were not accepted.", "listener", "reason")
GATEWAY_EXCHANGE: Final = _histogram("robin_gateway_exchange_seconds", "From the request head to the end.", "op", "tls")
GATEWAY_BYTES: Final = _counter("robin_gateway_bytes_total", "Octets of tunnels, and of bodies, `up` and `down`.", "direction", "tls")
GATEWAY_TUNNELS: Final = _gauge("robin_gateway_tunnels", "Open CONNECTs.", "tls")
GATEWAY_DNS: Final = _histogram("robin_gateway_dns_seconds", "One resolution that asked a name server: `ok` or its code.", "result")
GATEWAY_ADDRESS_REFUSED: Final = _counter("robin_gateway_address_refused_total", "Names without an address to connect to.", "class")
GATEWAY_UPSTREAM_TLS: Final = _counter("robin_gateway_upstream_tls_errors_total", "Handshakes with origins that failed.", "reason")
GATEWAY_CLIENT_TLS: Final = _counter("robin_gateway_client_tls_rejects_total", "Handshakes with clients that failed.", "alert")
GATEWAY_MINTS: Final = _counter("robin_gateway_leaf_mints_total", "Certificates that were signed.")
GATEWAY_LEAF_HITS: Final = _counter("robin_gateway_leaf_cache_hits_total", "Bridges that found their certificate.")
GATEWAY_CA_ENDS: Final = _gauge("robin_gateway_ca_not_after_seconds", "When the CA of a slot ends, since the epoch.", "slot")
GATEWAY_CA_SIGNING: Final = _gauge("robin_gateway_ca_signing", "1 for the slot that signs, else 0.", "slot")
GATEWAY_CA_PENDING: Final = _gauge("robin_gateway_ca_pending", "1 while another key waits in the signing slot for a restart.")
GATEWAY_JWKS_AGE: Final = _gauge("robin_gateway_jwks_age_seconds", "Seconds since the keys of an issuer were fetched.", "issuer")
GATEWAY_JWKS: Final = _counter("robin_gateway_jwks_fetches_total", "Fetches of keys: `ok`, or why not.", "issuer", "result")
GATEWAY_CANARY_UP: Final = _gauge("robin_gateway_canary_up", "1 while each address of the canary accepts a connection.")
GATEWAY_LIMITS: Final = _counter("robin_gateway_limit_hits_total", "Refusals because of a limit.", "limit")
GATEWAY_MODE: Final = _gauge("robin_gateway_mode", "1 for the mode of the policy, else 0.", "mode")

PROCESS_CPU: Final = _counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
PROCESS_OPEN_FDS: Final = _gauge("process_open_fds", "Number of open file descriptors.")
PROCESS_MAX_FDS: Final = _gauge("process_max_fds", "Maximum number of open file descriptors.")
PROCESS_VIRTUAL: Final = _gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.")
PROCESS_RESIDENT: Final = _gauge("process_resident_memory_bytes", "Resident memory size in bytes.")
PROCESS_START: Final = _gauge("process_start_time_seconds", "Start time of the process since the Unix epoch in seconds.")

METRICS: Final[tuple[MetricName, ...]] = tuple(value for value in list(globals().values()) if isinstance(value, MetricName))
"""Every family, in the order of the reference page."""
