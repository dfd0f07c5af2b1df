"""The verdict over a soak that ran, and what it leaves in its folder: summary.json, soak.svg, and the log lines that are no routine."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from tests.soak.chart import Line, Panel, render
from tests.soak.judge import Evidence, Finding, Verdict, judge
from tests.soak.ledger import deliveries, results
from tests.soak.phases import Phase
from tests.soak.side import Side
from tests.soak.soak import Course, Soak


class Report:
    """Made when the soak has ended: judges both sides at once."""

    def __init__(self, soak: Soak) -> None:
        self._soak = soak
        self.verdicts: dict[str, Verdict] = {side.name: judge(evidence_of(side, soak.course.plan)) for side in soak.sides}

    @property
    def findings(self) -> list[tuple[str, Finding]]:
        """(side, what is broken)."""
        return [(name, finding) for name, verdict in self.verdicts.items() for finding in verdict.findings]

    @property
    def rate(self) -> float:
        """Exchanges a second over the phases with load."""
        seconds = sum(band.end_s - band.begin_s for band in self._soak.course.bands if band.name != "rest")
        return sum(verdict.exchanges for verdict in self.verdicts.values()) / max(seconds, 0.001)

    def write(self) -> Path:
        """All files; the ledgers go when nothing is broken. The summary's path."""
        folder = self._soak.folder
        (folder / "soak.svg").write_text(self._chart())
        write_logs(self._soak)
        for side in self._soak.sides:
            if not self.findings:
                side.results.unlink()
                side.deliveries.unlink()
        path = folder / "summary.json"
        path.write_text(json.dumps(self.summary(), indent=2) + "\n")
        return path

    def summary(self) -> dict[str, Any]:
        """The figures."""
        soak = self._soak
        calm = [second for second in soak.course.seconds if _phase_at(soak.course, second.at_s) == "calm"]
        return {
            "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._soak.started_at)),
            "seconds": round(self._soak.loaded_s, 1),
            "cycles": soak.times.cycles,
            "processors": os.cpu_count(),
            "passed": not self.findings,
            "requests_per_s": {"wanted": soak.rate, "achieved": round(self.rate), "held_back": sum(side.held for side in soak.sides)},
            "exchanges": sum(verdict.exchanges for verdict in self.verdicts.values()),
            "posts": sum(verdict.posts for verdict in self.verdicts.values()),
            "calm_latency_ms": {"p50": _median([second.p50_ms for second in calm]), "p99": _median([second.p99_ms for second in calm])},
            "sides": {side.name: self._of(side) for side in soak.sides},
            "broken": [
                {"side": name, "invariant": finding.invariant, "count": finding.count, "cases": finding.cases}
                for name, finding in self.findings
            ],
        }

    def _of(self, side: Side) -> dict[str, Any]:
        verdict = self.verdicts[side.name]
        return {
            "exchanges": verdict.exchanges,
            "results": dict(verdict.results.most_common()),
            "refusals": dict(verdict.refusals.most_common()),
            "right_by_kind": dict(verdict.kinds.most_common()),
            "records": side.records.total,
            "outcomes": dict(side.records.outcomes.most_common()),
            "events": dict(side.records.events.most_common()),
            "tokens_seen": len(side.tokens),
            "tokens_issued": side.rotations,
            "upstream_restarts": side.restarts,
            "connections_torn": side.cuts,
            "retries": side.retries,
            "memory_mib_at_rest": [round(rest.size.resident_bytes / 2**20, 2) for rest in side.rests],
            "descriptors_at_rest": [rest.size.descriptors for rest in side.rests],
            "drain_s": round(side.drain_s, 3),
            "exit": side.returncode,
        }

    def _chart(self) -> str:
        seconds, names = self._soak.course.seconds, [side.name for side in self._soak.sides]
        panels = [
            Panel(title="Load", unit="requests/s", lines=[Line(name="begun", points=[(one.at_s, one.begun) for one in seconds])]),
            Panel(
                title="Latency of small GET and POST, per second",
                unit="ms (logarithmic)",
                logarithmic=True,
                lines=[
                    Line(name="p50", points=[(one.at_s, one.p50_ms) for one in seconds]),
                    Line(name="p99", points=[(one.at_s, one.p99_ms) for one in seconds]),
                ],
            ),
            Panel(
                title="Resident memory of each sidecar",
                unit="MiB",
                lines=[
                    Line(name=name, points=[(one.at_s, one.sizes[name].resident_bytes / 2**20) for one in seconds if name in one.sizes])
                    for name in names
                ],
            ),
            Panel(
                title="Open descriptors of each sidecar",
                unit="descriptors",
                lines=[
                    Line(name=name, points=[(one.at_s, one.sizes[name].descriptors) for one in seconds if name in one.sizes])
                    for name in names
                ],
            ),
        ]
        exchanges = sum(verdict.exchanges for verdict in self.verdicts.values())
        broken = "every invariant held" if not self.findings else f"{len(self.findings)} invariants broken"
        wanted = f"{self.rate:,.0f} a second under load (wanted {self._soak.rate:,.0f})"
        subtitle = f"{exchanges:,} exchanges in {self._soak.loaded_s:.0f} s, {wanted}; {broken}"
        return render("Robin sidecar soak", subtitle, panels, self._soak.course.bands)


def write_logs(soak: Soak) -> None:
    """The lines of each sidecar that are no routine."""
    for side in soak.sides:
        (soak.folder / f"{side.name}-log.jsonl").write_text("".join(f"{line}\n" for line in side.records.kept))


def evidence_of(side: Side, plan: list[Phase]) -> Evidence:
    """What the judge needs of one side."""
    return Evidence(
        name=side.name,
        tls=side.tls,
        plan=plan,
        rows=results(side.results),
        deliveries=deliveries(side.deliveries),
        records=side.records,
        rests=side.rests,
        violations=side.violations,
        cuts=side.cuts,
        retries=side.retries,
        tokens=len(side.tokens),
        rotations=side.rotations,
        returncode=side.returncode,
    )


def _phase_at(course: Course, at_s: float) -> str:
    return next((band.name for band in course.bands if band.begin_s <= at_s < band.end_s), "")


def _median(values: list[float]) -> float:
    ordered = sorted(value for value in values if not math.isnan(value))
    return round(ordered[len(ordered) // 2], 3) if ordered else 0.0
