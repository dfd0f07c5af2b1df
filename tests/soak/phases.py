"""The plan of a soak: cycles of phases, what goes wrong in each, and therefore what an exchange in it may end in; nothing else may.

Tokens rotate all the time. Three of the six phases allow no failure at all: that Robin reloads, rotates its roots or is at ease is no
excuse.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.soak.ledger import Result, Row
from tests.soak.mix import KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Mischief:
    """What the upstream does on purpose, as shares of the answers (`on_accept`: of the connections)."""

    closes: float = 0.0  # ends a kept connection behind a whole answer, unannounced
    before: float = 0.0  # drops the connection when the request is read, unanswered
    amid: float = 0.0  # drops it within the answer
    on_accept: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One stretch of a cycle. `weight`: its length in units. `codes`: what Robin may refuse with; `unrepeatable`: what only requests that
    may not be sent twice may be refused with; `ends`: the other results that are no failure here. `tears`: how many times more callers
    misbehave."""

    name: str
    weight: float
    mischief: Mischief = field(default_factory=Mischief)
    codes: frozenset[str] = frozenset()
    unrepeatable: frozenset[str] = frozenset()
    ends: frozenset[Result] = frozenset()
    tears: float = 1.0
    rate: float = 1.0


_DOWN = frozenset({"connect_refused", "upstream_closed", "upstream_tls"})

CALM = Phase(name="calm", weight=4)
RELOAD = Phase(name="reload", weight=3)
CLOSING = Phase(name="closing", weight=3, mischief=Mischief(closes=0.2), unrepeatable=frozenset({"upstream_closed"}))
TEARING = Phase(
    name="tearing",
    weight=3,
    mischief=Mischief(closes=0.02, before=0.02, amid=0.02, on_accept=0.05),
    codes=_DOWN,
    ends=frozenset({Result.CUT}),
    tears=6.0,
)
RESTARTS = Phase(name="restarts", weight=3, codes=_DOWN, ends=frozenset({Result.CUT}))
EXHAUSTION = Phase(name="exhaustion", weight=3, codes=frozenset({"limit_connections"}))
REST = Phase(name="rest", weight=0, rate=0.0)
DRAIN = Phase(
    name="drain",
    weight=0,
    codes=frozenset({"draining"}),
    ends=frozenset({Result.UNANSWERED, Result.SHUT, Result.GOODBYE}),
)
CYCLE = (CALM, RELOAD, CLOSING, TEARING, RESTARTS, EXHAUSTION, REST)
UNITS = sum(phase.weight for phase in CYCLE)

_ALWAYS = {"torn": frozenset({Result.LEFT}), "left": frozenset({Result.LEFT})}


def failure(row: Row, plan: Sequence[Phase], *, tls: bool) -> str:
    """Why this exchange may not have ended as it did, in the phases that it lived through; nothing when it may.

    What is pipelined behind an answer that broke off is never answered. A killed upstream ends its connections with a plain FIN: over
    TLS that is no proper end (RFC 9112 9.8), without it nobody can tell.
    """
    kind = KINDS[row.kind]
    if row.result is Result.RIGHT or row.result in _ALWAYS.get(kind.name, ()):
        return ""
    lived = plan[row.began : row.ended + 1]
    if row.result is Result.REFUSED:
        if any(row.code in phase.codes or (not kind.again and row.code in phase.unrepeatable) for phase in lived):
            return ""
        return f"refused with {row.code}"
    ends = frozenset().union(*(phase.ends for phase in lived))
    if row.result in ends or (row.result is Result.UNANSWERED and kind.name == "pipeline" and Result.CUT in ends):
        return ""
    if row.result is Result.SHORT and RESTARTS in lived and not tls:
        return ""
    return row.result.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long everything lasts. `cycles`: how many; `unit_s`: the length of one unit of weight."""

    cycles: int
    unit_s: float


REST_S = 9.0  # about what a rest takes: the slowest exchange ends, idle connections grow old, the heap is trimmed
START_AND_DRAIN_S = 8.0
_UNIT_MIN_S, _UNIT_MAX_S = 1.0, 3.0


def times(seconds: float) -> Times:
    """As many cycles as fit, at least two (the first is the warm-up), with units as long as that allows."""
    left = seconds - START_AND_DRAIN_S
    unit_s = max(_UNIT_MIN_S, min(_UNIT_MAX_S, seconds / 240.0))
    return Times(cycles=max(2, round(left / (UNITS * unit_s + REST_S))), unit_s=unit_s)
