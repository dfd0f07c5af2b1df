"""Every number measured, by row and contender; medians, and ratios taken round by round.

A ratio is the median of the rounds' own ratios: both sides of each quotient were measured within seconds of each other,
so a machine that slows down for a while slows both.
"""

from collections import defaultdict
from dataclasses import dataclass
from statistics import median

DIRECT = "direct"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    key: str
    title: str
    unit: str
    more_is_better: bool
    digits: int = 0
    ratio: bool = True  # a quotient of two contenders means something


def _capacity(key: str, title: str, each: str) -> tuple[Row, ...]:
    return (
        Row(key=key, title=title, unit=f"{each}/s", more_is_better=True),
        Row(key=f"{key}_cpu", title=f"- processor time per {each}", unit="µs", more_is_better=False, digits=1),
        Row(key=f"{key}_busy", title="- proxy core in use by the proxy", unit="%", more_is_better=True, ratio=False),
        Row(key=f"{key}_p99", title="- p99 at that load", unit="µs", more_is_better=False, ratio=False),
    )


def _cost(key: str, title: str) -> tuple[Row, ...]:
    return (
        Row(key=key, title=title, unit="request/s", more_is_better=True, ratio=False),
        Row(key=f"{key}_cpu", title="- processor time per request", unit="µs", more_is_better=False, digits=1, ratio=False),
    )


GATEWAY_ROWS = (
    *_capacity("absolute", "absolute-form GET, small, kept alive", "request"),
    *_capacity("tunnels", "new CONNECT tunnels, one request in each", "tunnel"),
    Row(key="tunnel_stream", title="1 GiB through one tunnel", unit="MB/s", more_is_better=True),
    Row(key="tunnel_stream_cpu", title="- processor time per GiB", unit="ms", more_is_better=False),
    Row(key="tunnel_stream_busy", title="- proxy core in use by the proxy", unit="%", more_is_better=True, ratio=False),
    *_capacity("bridge", "TLS bridge, small, kept alive, credential injected", "request"),
    *_capacity("bridge_new", "TLS bridge, a new connection for each request, leaf cached", "request"),
    *_capacity("bridge_minted", "TLS bridge, a new connection for each request, leaf minted", "request"),
    *(row for count in ("10", "1,000", "10,000") for row in _cost(f"rules_{count.replace(',', '')}", f"absolute-form GET, {count} rules")),
    Row(
        key="rules_ratio",
        title="processor time with 10,000 rules over that with 10",
        unit="x",
        more_is_better=False,
        digits=2,
        ratio=False,
    ),
    *_cost("grant_forward", "absolute-form GET, credential by forward"),
    *_cost("grant_issued", "absolute-form GET, credential of an issuer, warm"),
    Row(key="grant_extra", title="processor time that the warm grant costs more", unit="µs", more_is_better=False, digits=1, ratio=False),
    *_cost("replicas_1", "absolute-form GET, one replica"),
    *_cost("replicas_2", "absolute-form GET, two replicas on the same core"),
    Row(
        key="replicas_tokens", title="tokens that two replicas obtain for one credential", unit="tokens", more_is_better=False, ratio=False
    ),
    Row(key="gateway_idle", title="memory, idle", unit="MB", more_is_better=False, digits=1),
    Row(key="gateway_tunnels", title="memory with 1,000 idle tunnels", unit="MB", more_is_better=False, digits=1),
    Row(key="gateway_growth", title="memory growth over 1 GiB through a bridge", unit="MiB", more_is_better=False, digits=1, ratio=False),
)
"""Of `bench/run --plane gateway`."""

ROWS = (
    Row(key="small", title="small keep-alive requests, 32 connections", unit="req/s", more_is_better=True),
    Row(key="small_cpu", title="- processor time per request", unit="µs", more_is_better=False, digits=1),
    Row(key="small_busy", title="- proxy core in use by the proxy", unit="%", more_is_better=True, ratio=False),
    Row(key="small_p99", title="- p99 at that load", unit="µs", more_is_better=False, ratio=False),
    Row(key="varied", title="small requests, heads change on each exchange", unit="req/s", more_is_better=True),
    Row(key="varied_cpu", title="- processor time per request", unit="µs", more_is_better=False, digits=1),
    Row(key="varied_busy", title="- proxy core in use by the proxy", unit="%", more_is_better=True, ratio=False),
    Row(key="varied_p99", title="- p99 at that load", unit="µs", more_is_better=False, ratio=False),
    Row(key="asleep", title="small requests, caller and upstream sleep when idle", unit="req/s", more_is_better=True),
    Row(key="asleep_cpu", title="- processor time per request", unit="µs", more_is_better=False, digits=1),
    Row(key="asleep_busy", title="- proxy core in use by the proxy", unit="%", more_is_better=True, ratio=False),
    Row(key="tls", title="small requests, TLS upstream", unit="req/s", more_is_better=True),
    Row(key="tls_cpu", title="- processor time per request", unit="µs", more_is_better=False, digits=1),
    Row(key="tls_busy", title="- proxy core in use by the proxy", unit="%", more_is_better=True, ratio=False),
    Row(key="download", title="1 GiB download, one stream", unit="MB/s", more_is_better=True),
    Row(key="download_cpu", title="- processor time per GiB", unit="ms", more_is_better=False),
    Row(key="download_busy", title="- proxy core in use by the proxy", unit="%", more_is_better=True, ratio=False),
    Row(key="upload", title="1 GiB upload, one stream", unit="MB/s", more_is_better=True),
    Row(key="upload_cpu", title="- processor time per GiB", unit="ms", more_is_better=False),
    Row(key="upload_busy", title="- proxy core in use by the proxy", unit="%", more_is_better=True, ratio=False),
    Row(key="latency_p50", title="latency added at 5,000 req/s, p50", unit="µs", more_is_better=False),
    Row(key="latency_p99", title="latency added at 5,000 req/s, p99", unit="µs", more_is_better=False),
    Row(key="idle_file", title="memory, idle", unit="MB", more_is_better=False, digits=1),
    Row(key="idle_jwtsvid", title="memory, idle, jwtsvid source", unit="MB", more_is_better=False, digits=1, ratio=False),
    Row(key="clients_1000", title="memory with 1,000 idle clients", unit="MB", more_is_better=False, digits=1),
    Row(key="growth_download", title="memory growth over a 1 GiB download", unit="MiB", more_is_better=False, digits=1, ratio=False),
    Row(key="growth_upload", title="memory growth over a 1 GiB upload", unit="MiB", more_is_better=False, digits=1, ratio=False),
    Row(key="first_answer", title="exec to first answered request", unit="s", more_is_better=False, digits=3),
    *GATEWAY_ROWS,
)


class Ledger:
    """Numbers as they come in, and what went wrong."""

    def __init__(self) -> None:
        self._rounds: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        self.failures: list[str] = []

    def add(self, row: str, contender: str, turn: int, value: float) -> None:
        self._rounds[row, contender][turn] = value

    def has(self, row: str) -> bool:
        return any(key == row for key, _ in self._rounds)

    def median(self, row: str, contender: str) -> float | None:
        rounds = self._rounds.get((row, contender))
        return median(rounds.values()) if rounds else None

    def ratio(self, row: str, over: str, under: str) -> float | None:
        """Median over the rounds of over / under; None when they share no round."""
        above, below = self._rounds.get((row, over), {}), self._rounds.get((row, under), {})
        quotients = [above[turn] / below[turn] for turn in above.keys() & below.keys() if below[turn] > 0]
        return median(quotients) if quotients else None

    def as_json(self) -> list[dict[str, object]]:
        return [
            {"row": row, "contender": contender, "median": median(rounds.values()), "rounds": list(rounds.values())}
            for (row, contender), rounds in self._rounds.items()
        ]
