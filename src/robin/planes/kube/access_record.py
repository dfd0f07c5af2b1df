"""The columns of the access record, and the recorder that notes the end of each request in the audit too."""

from typing import Any, Final

from robin.planes.kube.audit import KubeAudit, end_reason_of
from robin.planes.kube.bodies import Bodies
from robin.planes.kube.exchange import Agent
from robin.planes.kube.metrics import KubeMetrics
from robin.planes.kube.sessions import Sessions
from robin.telemetry.columns import Column, Columns, render_path
from robin.telemetry.record import ExchangeRecord
from robin.telemetry.recorder import Recorder


def _render(parts: tuple[str, ...], record: ExchangeRecord, timestamp: str, _identity: str) -> str:
    ts, decision, agent, tier, path, bytes_in, bytes_out, duration, end = parts
    exchange = record.caller.exchange if isinstance(record.caller, Agent) else None
    judged = None if exchange is None else exchange.decision
    return (
        f'{ts}"{timestamp}"{decision}"{"" if exchange is None else exchange.id}"{agent}"{"-" if exchange is None else exchange.agent}"'
        f"{tier}{'null' if judged is None else judged.tier}{path}{render_path(record.path)}"
        f"{bytes_in}{record.bytes_in}{bytes_out}{record.bytes_out}{duration}{record.duration_s:.6f}{end}"
    )


KUBE_COLUMNS: Final = Columns(
    columns=(
        Column(name="ts"),
        Column(name="event", constant="exchange"),
        Column(name="decision"),
        Column(name="agent"),
        Column(name="tier"),
        Column(name="outcome", attribute="outcome"),
        Column(name="method", attribute="method"),
        Column(name="path"),
        Column(name="status", attribute="status"),
        Column(name="upstream_status", attribute="upstream_status"),
        Column(name="bytes_in"),
        Column(name="bytes_out"),
        Column(name="duration_s"),
    ),
    render=_render,
)


class AuditingRecorder(Recorder):
    """A Recorder that notes each end in the audit, the sessions and the metrics."""

    __slots__ = ("_audit", "_bodies", "_kube", "_sessions")

    def __init__(self, *args: Any, audit: KubeAudit, sessions: Sessions, bodies: Bodies, kube_metrics: KubeMetrics, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._audit = audit
        self._sessions = sessions
        self._bodies = bodies
        self._kube = kube_metrics

    def finish(self, record: ExchangeRecord) -> None:
        """Note an exchange that ended."""
        super().finish(record)
        exchange = record.caller.exchange if isinstance(record.caller, Agent) else None
        if exchange is not None:
            self._bodies.finish(exchange)
            self._sessions.finish(exchange, end_reason_of(exchange, record))
        self._kube.note_end(exchange, record)
        self._audit.finished(exchange, record)
