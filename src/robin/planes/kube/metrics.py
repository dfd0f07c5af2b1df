"""What the Kubernetes plane counts beside the engine (telemetry/names.py has the names); the label `agent` holds names of the policy."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from robin.planes.kube.exchange import KubeExchange
from robin.planes.kube.minting import Minted
from robin.telemetry import names
from robin.telemetry.histogram import EXCHANGE_S, Histogram
from robin.telemetry.names import Reading
from robin.telemetry.record import ExchangeRecord

_LIFE_S: Final = (60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 43200.0, 86400.0)
_UNAUTHENTICATED: Final = "kube.unauthenticated"


class KubeMetrics:
    """Plain counters, and what is asked at a scrape."""

    __slots__ = (
        "auth_failures",
        "bootstrap_expiry_s",
        "is_agent",
        "mints",
        "policy_digest",
        "policy_reloads",
        "refusals",
        "requests",
        "seconds",
        "session_ends",
        "sessions",
        "tokens",
    )

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str, str]] = Counter()  # agent, tier, decision, code
        self.refusals: Counter[str] = Counter()  # by code
        self.auth_failures: Counter[str] = Counter()  # by cause
        self.mints: Counter[str] = Counter()  # `ok`, or the code
        self.policy_reloads: Counter[str] = Counter()
        self.seconds: dict[tuple[str, str], Histogram] = {}  # tier, phase
        self.tokens = {kind: Histogram(_LIFE_S) for kind in ("asked", "granted", "effective")}
        self.is_agent: Callable[[str], bool] = lambda _name: False
        self.sessions: Callable[[], Counter[str]] = Counter
        self.session_ends: Counter[tuple[str, str]] = Counter()
        self.policy_digest: Callable[[], str] = str
        self.bootstrap_expiry_s: Callable[[], float | None] = lambda: None

    def note_token(self, minted: Minted) -> None:
        """Count the lives of a token that was minted."""
        for kind, seconds in (("asked", minted.asked_s), ("granted", minted.granted_s), ("effective", minted.effective_s)):
            self.tokens[kind].observe(seconds)

    def note_end(self, exchange: KubeExchange | None, record: ExchangeRecord) -> None:
        """Count a request that ended."""
        if exchange is None or exchange.decision is None:
            if record.outcome != _UNAUTHENTICATED:
                self.refusals[record.outcome] += 1
            return
        decision, code = exchange.decision, record.outcome if record.outcome.startswith("kube.") else ""
        agent = exchange.agent if self.is_agent(exchange.agent) else "-"
        self.requests[agent, str(decision.tier), decision.decision, code] += 1
        phases = {"total": record.duration_s}
        if exchange.decided:
            upstream_s = record.duration_s - exchange.decide_s - exchange.mint_s
            phases |= {"decide": exchange.decide_s, "mint": exchange.mint_s, "upstream": max(0.0, upstream_s)}
        for phase, seconds in phases.items():
            key = str(decision.tier), phase
            if key not in self.seconds:
                self.seconds[key] = Histogram(EXCHANGE_S)
            self.seconds[key].observe(seconds)

    def readings(self) -> Iterator[Reading]:
        """Every series, read now."""
        for labels, count in self.requests.items():
            yield names.KUBE_REQUESTS, labels, count
        for name, counts in (
            (names.KUBE_REFUSALS, self.refusals),
            (names.KUBE_AUTH_FAILURES, self.auth_failures),
            (names.KUBE_MINTS, self.mints),
            (names.KUBE_SESSIONS, self.sessions()),
            (names.KUBE_POLICY_RELOADS, self.policy_reloads),
        ):
            for label, count in counts.items():
                yield name, (label,), count
        for pair, histogram in self.seconds.items():
            yield names.KUBE_SECONDS, pair, histogram
        for kind, histogram in self.tokens.items():
            yield names.KUBE_TOKEN_SECONDS, (kind,), histogram
        for ends, count in self.session_ends.items():
            yield names.KUBE_SESSION_ENDS, ends, count
        yield names.KUBE_POLICY, (self.policy_digest(),), 1
        if (left_s := self.bootstrap_expiry_s()) is not None:
            yield names.KUBE_BOOTSTRAP_EXPIRY, (), left_s
