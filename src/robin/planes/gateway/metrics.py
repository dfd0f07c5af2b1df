"""What the gateway counts beside the engine; the names are in telemetry/names.py. No label is a host, a path or a caller."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

from robin.identity.trust.key_sources import KeySource, UrlKeys
from robin.telemetry import names
from robin.telemetry.histogram import CONNECT_S, EXCHANGE_S, Histogram
from robin.telemetry.names import Reading

_ALERTS_MAX: Final = 64


class GatewayMetrics:
    """Plain counters. `reloads` are by result."""

    __slots__ = (
        "address_refused",
        "auth_failures",
        "client_tls",
        "decisions",
        "dns",
        "exchanges",
        "limits",
        "octets",
        "reloads",
        "report",
        "tunnels",
        "upstream_tls",
        "would_deny",
    )

    def __init__(self, *, report: bool) -> None:
        self.report = report
        self.decisions: defaultdict[tuple[str, str, str, str, str], int] = defaultdict(int)  # (listener, op, verdict, code, rule)
        self.would_deny: defaultdict[str, int] = defaultdict(int)  # by rule
        self.auth_failures: defaultdict[tuple[str, str], int] = defaultdict(int)  # (listener, reason)
        self.exchanges: dict[tuple[str, str], Histogram] = {}  # (op, tls)
        self.octets: defaultdict[tuple[str, str], int] = defaultdict(int)  # (direction, tls)
        self.tunnels: defaultdict[str, int] = defaultdict(int)  # by tls
        self.dns: dict[str, Histogram] = {}  # by result
        self.address_refused: defaultdict[str, int] = defaultdict(int)  # by class
        self.upstream_tls: defaultdict[str, int] = defaultdict(int)  # by reason
        self.client_tls: defaultdict[str, int] = defaultdict(int)  # by alert
        self.limits: defaultdict[str, int] = defaultdict(int)  # by limit
        self.reloads: dict[str, int] = {"ok": 0, "refused": 0}

    def queried(self, result: str, seconds: float) -> None:
        """Note a resolution that asked a name server."""
        self.dns.setdefault(result, Histogram(CONNECT_S)).observe(seconds)

    def ended(self, op: str, tls: str, seconds: float) -> None:
        """Note the end of an exchange or a tunnel."""
        histogram = self.exchanges.get((op, tls))
        if histogram is None:
            histogram = self.exchanges[op, tls] = Histogram(EXCHANGE_S)
        histogram.counts[bisect_left(EXCHANGE_S, seconds)] += 1  # Histogram.observe, without the call
        histogram.total += seconds

    def rejected(self, alert: str) -> None:
        """Note a handshake with a client that failed. The words are OpenSSL's; a client cannot add to them without end."""
        self.client_tls[alert if alert in self.client_tls or len(self.client_tls) < _ALERTS_MAX else "other"] += 1

    def readings(self) -> Iterator[Reading]:
        """Every series, read now."""
        for decision, count in self.decisions.items():
            yield names.GATEWAY_DECISIONS, decision, count
        for failure, count in self.auth_failures.items():
            yield names.GATEWAY_AUTH_FAILURES, failure, count
        for labels, histogram in self.exchanges.items():
            yield names.GATEWAY_EXCHANGE, labels, histogram
        for octets, count in self.octets.items():
            yield names.GATEWAY_BYTES, octets, count
        for result, histogram in self.dns.items():
            yield names.GATEWAY_DNS, (result,), histogram
        for name, table in (
            (names.GATEWAY_WOULD_DENY, self.would_deny),
            (names.GATEWAY_TUNNELS, self.tunnels),
            (names.GATEWAY_ADDRESS_REFUSED, self.address_refused),
            (names.GATEWAY_UPSTREAM_TLS, self.upstream_tls),
            (names.GATEWAY_CLIENT_TLS, self.client_tls),
            (names.GATEWAY_LIMITS, self.limits),
        ):
            for label, count in table.items():
                yield name, (label,), count
        yield names.GATEWAY_MODE, ("enforce",), int(not self.report)
        yield names.GATEWAY_MODE, ("report",), int(self.report)
        for result, count in self.reloads.items():
            yield names.CONFIG_RELOADS, (result,), count

    def key_readings(self, keys: Mapping[str, KeySource]) -> Iterator[Reading]:
        """The series about the key sets of issuers."""
        for issuer, source in keys.items():
            if isinstance(source, UrlKeys):
                if source.age_s != float("inf"):
                    yield names.GATEWAY_JWKS_AGE, (issuer,), source.age_s
                for result, count in source.fetches.items():
                    yield names.GATEWAY_JWKS, (issuer, result), count
