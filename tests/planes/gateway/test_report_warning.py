"""How often a policy that only reports is warned of."""

from robin.planes.gateway.metrics import GatewayMetrics
from robin.planes.gateway.report_warning import ReportWarning
from robin.telemetry.logs import EventLog


class Lines(EventLog):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.kept: list[object] = []

    def warning(self, event: str, **fields: object) -> None:
        assert event == "policy_reports_only"
        self.kept.append(fields["would_deny"])


def test_a_policy_that_only_reports_is_warned_of_every_five_minutes_while_it_does() -> None:  # E16
    metrics, lines = GatewayMetrics(report=True), Lines()
    warning = ReportWarning(lines, metrics, 1000.0)
    seen = []
    for second in range(1, 1201):
        metrics.would_deny["rule"] += 2
        if second == 700:
            metrics.report = False  # a reload
        if second == 750:
            metrics.report = True
        before = len(lines.kept)
        warning.tend(1000.0 + second)
        seen += [second] * (len(lines.kept) - before)
    assert (seen, lines.kept) == ([300, 600, 750, 1050], [600, 600, 300, 600])
