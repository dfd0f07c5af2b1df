"""The judge of the soak is itself judged: a story in which all is well has no findings, and each thing that must never be is found."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.rows import every_row
from tests.soak.judge import GROWTH_BYTES, Evidence, Verdict, judge
from tests.soak.ledger import Result, Row, Seen
from tests.soak.look import Size
from tests.soak.mix import KINDS, NUMBER
from tests.soak.phases import CALM, CLOSING, DRAIN, EXHAUSTION, RELOAD, REST, RESTARTS, TEARING
from tests.soak.records import Records
from tests.soak.side import Rest

PLAN = (CALM, RELOAD, CLOSING, TEARING, RESTARTS, EXHAUSTION, REST, DRAIN)
MIB = 1 << 20


def rest(descriptors: int = 21, resident_bytes: int = 32 * MIB, **left: float) -> Rest:
    return Rest(at_s=10.0, size=Size(resident_bytes=resident_bytes, descriptors=descriptors), left=left, requests=7, records=7)


@dataclass
class Story:
    """What one side would leave behind; `tell` adds an exchange with what the upstream and Robin wrote of it."""

    rows: list[Row] = field(default_factory=list)
    deliveries: list[tuple[int, int, Seen]] = field(default_factory=list)
    records: Records = field(default_factory=Records)
    rests: list[Rest] = field(default_factory=lambda: [rest(), rest()])
    violations: list[str] = field(default_factory=list)
    cuts: int = 1
    retries: int = 1
    tokens: int = 5
    returncode: int | None = 0
    tls: bool = False

    def tell(
        self,
        name: str,
        result: Result = Result.RIGHT,
        *,
        phase: int = 0,
        ended: int | None = None,
        code: str = "",
        status: int | None = None,
        began: int = 1,
        whole: int | None = None,
        outcomes: tuple[str, ...] | None = None,
        octets: int = 3,
        recorded_octets: int = 3,
    ) -> None:
        number, kind = len(self.rows) + 1, KINDS[NUMBER[name]]
        answered = kind.answered_by if status is None else status
        row = Row(
            number=number,
            kind=NUMBER[name],
            result=result,
            began=phase,
            ended=phase if ended is None else ended,
            status=answered,
            code=code,
            octets=octets,
            took_s=0.1,
        )
        self.rows.append(row)
        self.deliveries += [(number, row.kind, Seen.BEGAN)] * began
        self.deliveries += [(number, row.kind, Seen.WHOLE)] * (began * kind.whole if whole is None else whole)
        for outcome in (code or "forwarded",) if outcomes is None else outcomes:
            self.record(f"/{name}/{number}/9", outcome, answered, recorded_octets)

    def record(self, path: str | None, outcome: str, status: int, octets: int = 3) -> None:
        self.log({"event": "exchange", "outcome": outcome, "path": path, "status": status, "bytes_out": octets})

    def log(self, entry: dict[str, object]) -> None:
        self.records.hear("stdout", json.dumps(entry))

    def verdict(self) -> Verdict:
        return judge(
            Evidence(
                name="story",
                tls=self.tls,
                plan=PLAN,
                rows=self.rows,
                deliveries=self.deliveries,
                records=self.records,
                rests=self.rests,
                violations=self.violations,
                cuts=self.cuts,
                retries=self.retries,
                tokens=self.tokens,
                rotations=5,
                returncode=self.returncode,
            )
        )


def good_story() -> Story:
    """Every kind ends right once, and every phase shows what it is for."""
    story = Story()
    for kind in KINDS:
        if kind.name == "loris":
            story.tell("loris", began=0, outcomes=())
            story.record(None, "request_timeout", 408)
        elif kind.name in {"torn", "left"}:
            story.tell(kind.name, Result.LEFT, status=0, whole=0, outcomes=("client_closed",))
        else:
            story.tell(kind.name)
    story.tell("post", Result.REFUSED, phase=2, code="upstream_closed", status=502)
    story.tell("large", Result.CUT, phase=3, outcomes=("upstream_aborted",))
    story.tell("get", Result.REFUSED, phase=4, code="connect_refused", status=502, began=0)
    story.tell("get", Result.REFUSED, phase=5, code="limit_connections", status=503, began=0)
    story.tell("get", Result.SHUT, phase=7, status=0, began=0, outcomes=())
    story.tell("websocket", Result.GOODBYE, phase=7)
    for event in ("reload", "accept_failed", "upstream_ca_failed"):
        story.log({"event": event, "level": "error" if event != "reload" else "info"})
    return story


def test_a_story_in_which_all_is_well_has_no_findings() -> None:
    verdict = good_story().verdict()
    assert verdict.findings == []
    assert verdict.exchanges == len(KINDS) + 6
    assert verdict.results["right"] == len(KINDS) - 2


def _short_over_tls(story: Story) -> None:
    story.tls = True
    story.tell("large", Result.SHORT, phase=4)


def _an_exchange_that_never_ended(story: Story) -> None:
    story.tell("get")
    del story.rows[0]


SPOILED: list[tuple[str, str, Callable[[Story], object]]] = [
    ("wrong", "no failure but those that a phase allows", lambda story: story.tell("get", Result.WRONG)),
    ("hung", "no failure but those that a phase allows", lambda story: story.tell("get", Result.HUNG, phase=4)),
    (
        "refused in calm",
        "no failure but those that a phase allows",
        lambda story: story.tell("get", Result.REFUSED, code="connect_refused", status=502, began=0),
    ),
    (
        "not repeated",
        "no failure but those that a phase allows",
        lambda story: story.tell("get", Result.REFUSED, phase=2, code="upstream_closed", status=502),
    ),
    (
        "cut by a reload",
        "no failure but those that a phase allows",
        lambda story: story.tell("large", Result.CUT, phase=1, outcomes=("upstream_aborted",)),
    ),
    ("short over tls", "no failure but those that a phase allows", _short_over_tls),
    (
        "cut in the drain",
        "no failure but those that a phase allows",
        lambda story: story.tell("sse", Result.CUT, phase=7, outcomes=("upstream_aborted",)),
    ),
    ("post lost", "an answered POST was delivered exactly once", lambda story: story.tell("post", began=0)),
    ("post doubled and answered", "an answered POST was delivered exactly once", lambda story: story.tell("post", began=2)),
    (
        "post doubled and unanswered",
        "no POST is delivered twice",
        lambda story: story.tell("post", Result.REFUSED, phase=3, code="upstream_closed", status=502, began=2),
    ),
    ("get lost", "an answered request was delivered, at most twice", lambda story: story.tell("get", began=0)),
    (
        "torn taken for whole",
        "a request cut short is never whole for the upstream",
        lambda story: story.tell("torn", Result.LEFT, status=0, whole=1, outcomes=("client_closed",)),
    ),
    (
        "unsent was sent",
        "what was refused unsent was not sent",
        lambda story: story.tell("post", Result.REFUSED, phase=5, code="limit_connections", status=503, began=1),
    ),
    (
        "shut was sent",
        "what was refused unsent was not sent",
        lambda story: story.tell("post", Result.UNANSWERED, phase=7, status=0, began=1, outcomes=()),
    ),
    ("no record", "one access record per exchange", lambda story: story.tell("get", outcomes=())),
    ("two records", "one access record per exchange", lambda story: story.tell("get", outcomes=("forwarded", "forwarded"))),
    ("a record of nobody", "one access record per exchange", lambda story: story.record(None, "peer_denied", 403)),
    (
        "records dropped silently",
        "one access record per exchange",
        lambda story: story.rests.__setitem__(1, replace(story.rests[1], requests=8)),
    ),
    ("a record too many", "nothing but what callers sent", lambda story: story.record("/get/9999/1", "forwarded", 200)),
    ("a delivery of nothing", "nothing but what callers sent", lambda story: story.deliveries.append((5000, NUMBER["get"], Seen.BEGAN))),
    ("a record that lies", "a record says what the caller saw", lambda story: story.tell("get", recorded_octets=2)),
    (
        "a refusal recorded otherwise",
        "a record says what the caller saw",
        lambda story: story.tell("post", Result.REFUSED, phase=3, code="upstream_closed", status=502, outcomes=("client_closed",)),
    ),
    ("an exchange that never ended", "every exchange ends once", _an_exchange_that_never_ended),
    ("more failures than faults", "a torn connection fails one exchange at most", lambda story: setattr(story, "cuts", 0)),
    ("something left", "nothing is left at rest", lambda story: story.rests.__setitem__(1, rest(robin_upstream_connections=1.0))),
    ("a descriptor leaks", "no descriptor is leaked", lambda story: story.rests.__setitem__(1, rest(descriptors=22))),
    (
        "memory grows",
        "memory is flat",
        lambda story: setattr(story, "rests", [rest(resident_bytes=32 * MIB + cycle * GROWTH_BYTES // 6) for cycle in range(12)]),
    ),
    ("a wrong exit", "a drain under load ends with 0", lambda story: setattr(story, "returncode", 4)),
    ("a wrong byte", "no wrong byte either way", lambda story: story.violations.append("post 7: body differs")),
    ("a bug in the log", "no error of Robin's own", lambda story: story.log({"event": "exchange_failed", "level": "error"})),
    ("a traceback", "every line is a record or an event", lambda story: story.records.hear("stderr", "Traceback (most recent call last):")),
    (
        "nothing was torn",
        "the soak reached everything",
        lambda story: setattr(story, "rows", [row for row in story.rows if row.result is not Result.LEFT]),
    ),
    ("tokens that never arrive", "the soak reached everything", lambda story: setattr(story, "tokens", 1)),
]


def test_what_must_never_be_is_found() -> None:
    with every_row() as row:
        for name, invariant, spoil in SPOILED:
            with row(name):
                story = good_story()
                spoil(story)
                findings = {finding.invariant: finding for finding in story.verdict().findings}
                assert invariant in findings
                assert findings[invariant].count >= 1
                assert findings[invariant].cases


def test_an_upstream_killed_without_tls_may_end_an_unframed_answer_early() -> None:
    story = good_story()
    story.tell("large", Result.SHORT, phase=4)
    assert story.verdict().findings == []


def test_an_exchange_may_fail_as_any_phase_that_it_lived_through_allows() -> None:
    story = good_story()
    story.tell("get", Result.REFUSED, phase=2, ended=6, code="connect_refused", status=502, began=0)
    assert story.verdict().findings == []


def test_memory_that_wavers_does_not_grow() -> None:
    story = good_story()
    story.rests = [rest(resident_bytes=size * MIB) for size in (30, 50, 46, 53, 47, 52, 48, 51, 46, 54)]
    assert story.verdict().findings == []
