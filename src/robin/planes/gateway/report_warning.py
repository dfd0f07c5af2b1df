"""The warning that a policy only reports, repeated as long as it does: nobody should believe that it protects."""

import math
from typing import Final

from robin.planes.gateway.metrics import GatewayMetrics
from robin.telemetry.logs import EventLog

_EVERY_S: Final = 300.0


class ReportWarning:
    """`tend` is called once a second. The runtime warns at the start, a reload that begins to report is warned of at once."""

    __slots__ = ("_counted", "_due_at", "_events", "_metrics")

    def __init__(self, events: EventLog, metrics: GatewayMetrics, now: float) -> None:
        self._events = events
        self._metrics = metrics
        self._due_at = now + _EVERY_S if metrics.report else -math.inf
        self._counted = 0

    def tend(self, now: float) -> None:
        """Warn if it is time to."""
        if not self._metrics.report:
            self._due_at = -math.inf
        elif now >= self._due_at:
            self._due_at = now + _EVERY_S
            passed, self._counted = self._counted, sum(self._metrics.would_deny.values())
            detail = "policy.mode is report: denials are recorded and not enforced"
            self._events.warning("policy_reports_only", detail=detail, would_deny=self._counted - passed)
