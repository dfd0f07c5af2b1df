"""The invariants of a soak: the callers' ledger, the upstream's ledger and Robin's own records must tell one story, and nothing may grow.

Pure: everything is read from what the run left behind. Each broken invariant is a Finding with a count and its first cases.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.soak.ledger import Result, Row, Seen
from tests.soak.mix import KINDS
from tests.soak.phases import EXHAUSTION, RESTARTS, TEARING, Phase, failure
from tests.soak.records import Records
from tests.soak.side import Rest

_CASES = 8
_UNSENT = frozenset({"limit_connections", "draining", "connect_refused", "upstream_tls"})
"""Refusals that say that the upstream saw nothing."""

GROWTH_BYTES = 8 << 20
"""What resident memory may grow from the first rests to the last: the allocator's noise. A leak of 4 bytes an exchange would be seen in a
run of 20 minutes, one of 40 in a run of two."""

_EXPECTED_ERRORS = frozenset({"accept_failed", "upstream_ca_failed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One broken invariant."""

    invariant: str
    count: int
    cases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one side left behind."""

    name: str
    tls: bool
    plan: Sequence[Phase]
    rows: Iterable[Row]
    deliveries: Iterable[tuple[int, int, Seen]]
    records: Records
    rests: Sequence[Rest]
    violations: Sequence[str]
    cuts: int
    retries: int
    tokens: int
    rotations: int
    returncode: int | None


@dataclass(slots=True)
class Verdict:
    """All findings, and the counts on the way: `results` by name, `kinds` right by kind, `refusals` by code."""

    exchanges: int = 0
    results: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    posts: int = 0
    broken: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def breaks(self, invariant: str, case: str) -> None:
        """One case of a broken invariant."""
        self.counts[invariant] += 1
        cases = self.broken.setdefault(invariant, [])
        if len(cases) < _CASES:
            cases.append(case)

    @property
    def findings(self) -> list[Finding]:
        """What is broken."""
        return [Finding(invariant=name, count=self.counts[name], cases=tuple(cases)) for name, cases in self.broken.items()]


class Deliveries:
    """How often the upstream saw each exchange begin, and whole."""

    def __init__(self, rows: Iterable[tuple[int, int, Seen]]) -> None:
        self._began, self._whole = array("B"), array("B")
        for number, _, seen in rows:
            if number >= len(self._began):
                more = [0] * (number + 65536 - len(self._began))
                self._began.extend(more)
                self._whole.extend(more)
            counts = self._began if seen is Seen.BEGAN else self._whole
            counts[number] = min(255, counts[number] + 1)

    def of(self, number: int) -> tuple[int, int]:
        """(times begun, times whole)."""
        return (self._began[number], self._whole[number]) if number < len(self._began) else (0, 0)

    def beyond(self, number: int) -> int:
        """How many exchanges behind `number` were seen."""
        return sum(1 for began in self._began[number + 1 :] if began)


def judge(evidence: Evidence) -> Verdict:
    """Judge one side."""
    verdict = Verdict()
    deliveries = Deliveries(evidence.deliveries)
    last = loris = loris_right = hit = 0
    numbers = bytearray()
    for row in evidence.rows:
        verdict.exchanges += 1
        last = max(last, row.number)
        if row.number >= len(numbers):
            numbers.extend(bytes(row.number + 65536 - len(numbers)))
        numbers[row.number] += 1
        kind = KINDS[row.kind]
        verdict.results[row.result.name.lower()] += 1
        if row.result is Result.RIGHT:
            verdict.kinds[kind.name] += 1
        if row.result is Result.REFUSED:
            verdict.refusals[row.code] += 1
        loris += kind.name == "loris"
        loris_right += kind.name == "loris" and row.result is Result.RIGHT
        hit += _was_torn(row, evidence.plan)
        if why := failure(row, evidence.plan, tls=evidence.tls):
            verdict.breaks("no failure but those that a phase allows", f"{_name(row, evidence.plan)}: {why}")
        _judge_delivery(verdict, row, *deliveries.of(row.number), evidence.plan)
        _judge_record(verdict, row, evidence.records, evidence.plan)
    for number, count in enumerate(numbers[1 : last + 1], 1):
        if count != 1:
            verdict.breaks("every exchange ends once", f"exchange {number} ended {count} times")
    _judge_records(verdict, evidence, last=last, loris=loris, loris_right=loris_right)
    if beyond := deliveries.beyond(last):
        verdict.breaks("nothing but what callers sent", f"{beyond} deliveries too many")
    if hit > evidence.cuts:
        verdict.breaks("a torn connection fails one exchange at most", f"{hit} exchanges failed by {evidence.cuts} torn connections")
    _judge_rests(verdict, evidence.rests)
    _judge_process(verdict, evidence)
    _judge_reach(verdict, evidence)
    return verdict


def _judge_records(verdict: Verdict, evidence: Evidence, *, last: int, loris: int, loris_right: int) -> None:
    """The records that belong to no exchange of the callers: only heads that never came whole have no path."""
    records = evidence.records
    if records.numbers > last + 1:
        verdict.breaks("nothing but what callers sent", f"{records.numbers - last - 1} records too many")
    others = {outcome: count for outcome, count in records.nameless.items() if outcome != "request_timeout"}
    if others or not loris_right <= records.nameless["request_timeout"] <= loris:
        verdict.breaks(
            "one access record per exchange", f"records without a path: {dict(records.nameless)}; heads cut short: {loris_right} of {loris}"
        )


def _name(row: Row, plan: Sequence[Phase]) -> str:
    phases = "-".join(dict.fromkeys(phase.name for phase in plan[row.began : row.ended + 1]))
    said = f" {row.status} {row.code}".rstrip() if row.status else ""
    return f"{KINDS[row.kind].name} {row.number} in {phases} ({row.took_s:.3f} s): {row.result.name.lower()}{said}"


def _was_torn(row: Row, plan: Sequence[Phase]) -> bool:
    """Whether it failed by an upstream that tears connections, and by nothing else."""
    if row.result is not Result.CUT and row.code not in {"upstream_closed", "upstream_tls", "connect_refused"}:
        return False
    lived = plan[row.began : row.ended + 1]
    return TEARING in lived and RESTARTS not in lived


def _judge_delivery(verdict: Verdict, row: Row, began: int, whole: int, plan: Sequence[Phase]) -> None:
    """What the upstream got of it: an answered POST exactly once, any other at most once, a torn one never whole."""
    kind = KINDS[row.kind]
    case = f"{_name(row, plan)}: the upstream saw {began} begin, {whole} whole" if began != 1 or whole != 1 else ""
    if kind.method == "POST":
        verdict.posts += 1
        if row.result is Result.RIGHT and (began, whole) != (1, int(kind.whole)):
            verdict.breaks("an answered POST was delivered exactly once", case)
        elif began > 1 or whole > 1:
            verdict.breaks("no POST is delivered twice", case)
    elif row.result is Result.RIGHT and kind.whole and (not whole or began > 2):
        verdict.breaks("an answered request was delivered, at most twice", case)
    if not kind.whole and whole:
        verdict.breaks("a request cut short is never whole for the upstream", f"{_name(row, plan)}: {whole} whole")
    unsent = row.result in {Result.SHUT, Result.UNANSWERED} or (row.result is Result.REFUSED and row.code in _UNSENT)
    if unsent and began > int(kind.again and row.code in {"connect_refused", "upstream_tls", "limit_connections"}):
        verdict.breaks("what was refused unsent was not sent", f"{_name(row, plan)}: the upstream saw {began} begin, {whole} whole")


def _judge_record(verdict: Verdict, row: Row, records: Records, plan: Sequence[Phase]) -> None:
    """Exactly one record, which says what the caller saw."""
    count, outcome, status, octets = records.of(row.number)
    kind = KINDS[row.kind]
    invariant = "one access record per exchange"
    if kind.name == "loris":
        if count:
            verdict.breaks(invariant, f"{_name(row, plan)}: a record with a path")
        return
    sure = row.result not in {Result.LEFT, Result.UNANSWERED, Result.SHUT}
    if count > 1 or (sure and count != 1) or (row.result is Result.SHUT and count):
        verdict.breaks(invariant, f"{_name(row, plan)}: {count} records")
        return
    wrong = ""
    if row.result is Result.RIGHT:
        told = (outcome, status, octets)
        wanted = ("forwarded", row.status, octets if kind.name == "websocket" else row.octets)
        wrong = f"{told} instead of {wanted}" if told != wanted else ""
    elif row.result is Result.REFUSED:
        wrong = "" if (outcome, status) == (row.code, row.status) else f"{outcome} {status}"
    elif row.result is Result.CUT and outcome != ("forwarded" if kind.name == "websocket" else "upstream_aborted"):
        wrong = f"{outcome} {status}"
    if wrong:
        verdict.breaks("a record says what the caller saw", f"{_name(row, plan)}: the record says {wrong}")


def _judge_rests(verdict: Verdict, rests: Sequence[Rest]) -> None:
    """At rest nothing is left, and between the first rest and the last nothing has grown."""
    for rest in rests:
        if rest.left:
            verdict.breaks("nothing is left at rest", f"at {rest.at_s:.0f} s: {rest.left}")
        if rest.requests != rest.records:
            verdict.breaks("one access record per exchange", f"at {rest.at_s:.0f} s: {rest.requests} counted, {rest.records} written")
    if len(rests) < 2:
        verdict.breaks("the soak reached everything", f"{len(rests)} rests; two are needed to see growth")
        return
    descriptors = [rest.size.descriptors for rest in rests]
    if descriptors[-1] > descriptors[0]:
        verdict.breaks("no descriptor is leaked", f"open at each rest: {descriptors}")
    memory = [rest.size.resident_bytes for rest in rests]
    third = max(1, (len(memory) - 1) // 3)
    early = memory[1 : 1 + third] if len(memory) > 3 else memory[:1]  # the first cycle is the warm-up, where there are others
    if median(memory[-third:]) - median(early) > GROWTH_BYTES:
        verdict.breaks("memory is flat", f"MiB at each rest: {[round(size / 2**20, 1) for size in memory]}")


def _judge_process(verdict: Verdict, evidence: Evidence) -> None:
    """The process itself: its end, its log, and what the workers saw."""
    if evidence.returncode != 0:
        verdict.breaks("a drain under load ends with 0", f"exit {evidence.returncode}")
    for text in evidence.violations:
        verdict.breaks("no wrong byte either way", text)
    for text in evidence.records.unreadable:
        verdict.breaks("every line is a record or an event", text)
    for (level, event), count in evidence.records.levels.items():
        if level == "error" and event not in _EXPECTED_ERRORS:
            verdict.breaks("no error of Robin's own", f"{event}, {count} times")


def _judge_reach(verdict: Verdict, evidence: Evidence) -> None:
    """A soak that did not do what it says proves nothing."""
    invariant = "the soak reached everything"
    for kind in KINDS:
        if not verdict.kinds[kind.name] and kind.name not in {"torn", "left"}:
            verdict.breaks(invariant, f"no {kind.name} ended right")
    names = {phase.name for phase in evidence.plan}
    starved = evidence.records.events["accept_failed"] + verdict.refusals["limit_connections"]
    reached = {
        "a caller that left": verdict.results["left"],
        "a repeated request": evidence.retries,
        "a torn connection": evidence.cuts,
        "a refused connection": verdict.refusals["connect_refused"] or RESTARTS.name not in names,
        "want of descriptors": starved or EXHAUSTION.name not in names,
        "a SIGHUP": evidence.records.events["reload"],
        "an answer cut short": verdict.results["cut"],
    }
    for what, count in reached.items():
        if not count:
            verdict.breaks(invariant, f"never saw {what}")
    if evidence.tokens < 2 or evidence.tokens < evidence.rotations * 0.8 - 2:
        verdict.breaks(invariant, f"{evidence.tokens} tokens seen of {evidence.rotations}")
