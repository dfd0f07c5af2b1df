"""What the gateway records: `gateway.decision` before the first byte goes upstream, `gateway.close` when an exchange or a tunnel has ended.

Neither holds a token, a field value, a body or a query. A refused request has both too. `connect_id` joins requests to their CONNECT.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from robin.model.address import ResolvedAddress
from robin.model.caller import Caller
from robin.model.faults import FAULTS, Fault
from robin.model.message import HeldBody
from robin.model.origin import Origin
from robin.model.verdict import Denial, Permit
from robin.policy.gateway import NO_NOTES, RouteNotes
from robin.telemetry.audit import AuditRecord
from robin.telemetry.audit_chain import ZEROS, hash_of, render_line
from robin.telemetry.audit_file import AuditUnavailable
from robin.telemetry.columns import Column, Columns, render_path
from robin.telemetry.record import ExchangeRecord
from robin.telemetry.recorder import Recorder
from robin.telemetry.timestamp import TimestampFormatter
from robin.telemetry.writer import LineWriter

_PATH_CHARS: Final = 1024
_REASONS: Final = {"client_closed": "client_closed", "upstream_aborted": "upstream_closed", "drain_cut": "drain", "forwarded": "done"}


class Audit(Protocol):
    """What records are written to."""

    async def append(self, record: AuditRecord) -> None:
        """Return when the record is written. Raises AuditUnavailable."""
        ...

    def put(self, record: AuditRecord) -> None:
        """Write the record in a moment."""
        ...

    async def close(self) -> bool:
        """Write what waits."""
        ...


class StandardOutputAudit:
    """A chained log on standard output, through the writer that all lines take. It is unavailable while that writer drops lines."""

    __slots__ = ("_dropped", "_head", "_seq", "_timestamps", "_wall", "_writer")

    def __init__(self, writer: LineWriter, wall: Callable[[], float]) -> None:
        self._writer = writer
        self._wall = wall
        self._timestamps = TimestampFormatter()
        self._seq = 0
        self._head = ZEROS
        self._dropped = 0

    async def append(self, record: AuditRecord) -> None:
        """Queue the record. Raises AuditUnavailable where it, or one before it since the last call, was dropped."""
        self.put(record)
        if self._writer.dropped != self._dropped:
            self._dropped = self._writer.dropped
            raise AuditUnavailable("write_failed", "standard output does not take the records")

    def put(self, record: AuditRecord) -> None:
        """Queue the record."""
        self._seq += 1
        ts = self._timestamps.text(self._wall())
        draft: dict[str, object] = {"v": 1, "seq": self._seq, "prev": self._head}
        rest = {"ts": ts, "plane": "gateway", "event": record.event, "id": record.id, **record.fields}
        self._head = hash_of({**draft, **rest})
        self._writer.put([render_line({**draft, "hash": self._head, **rest}).decode("ascii")])

    async def close(self) -> bool:
        """The writer is closed by the runtime."""
        return True


class GatewayRecords:
    """Writes both records. `fail_closed`: what cannot be recorded is not forwarded."""

    __slots__ = ("_audit", "_notes_of", "_would_deny", "decisions", "fail_closed", "generation", "instance")

    def __init__(
        self, audit: Audit, *, instance: str, fail_closed: bool, notes_of: Callable[[Any], RouteNotes], generation: int = 1
    ) -> None:
        self._audit = audit
        self.instance = instance
        self.fail_closed = fail_closed
        self.generation = generation
        self._notes_of = notes_of
        self._would_deny = 0
        self.decisions: dict[tuple[str, str], int] = {}

    async def decide(self, record: ExchangeRecord, permit: Permit, _: HeldBody | None = None) -> None:
        """Record a permit. A `proxy.engine.Audit`; raises Fault `audit_unavailable`."""
        if record.retries:
            return  # the same decision, on another connection
        fields = self._decision(record, permit.endpoint.origin, verdict="permit", code="", rule=permit.route.name, permit=permit)
        try:
            await self._audit.append(AuditRecord(event="gateway.decision", id=record.request_id or "", fields=fields))
        except AuditUnavailable:
            if self.fail_closed:
                raise Fault("audit_unavailable", "audit: the decision cannot be recorded, so nothing is forwarded") from None
        record.notes["decided"] = True

    def finish(self, record: ExchangeRecord) -> None:
        """Record the end; and the decision first, where there was a refusal."""
        if not record.notes.get("decided"):
            self._record_refusal(record)
        self._audit.put(AuditRecord(event="gateway.close", id=record.request_id or "", fields=self._close(record)))

    def _record_refusal(self, record: ExchangeRecord) -> None:
        verdict = record.verdict
        origin = verdict.endpoint.origin if isinstance(verdict, Permit) else verdict.origin if isinstance(verdict, Denial) else None
        rule = verdict.rule if isinstance(verdict, Denial) else verdict.route.name if isinstance(verdict, Permit) else ""
        permit = verdict if isinstance(verdict, Permit) else None
        fields = self._decision(record, origin, verdict="deny", code=record.outcome, rule=rule, permit=permit)
        self._audit.put(AuditRecord(event="gateway.decision", id=record.request_id or "", fields=fields))

    def _common(self, record: ExchangeRecord) -> dict[str, object]:
        caller = record.caller
        return {
            "kind": "gateway",
            "instance": self.instance,
            "generation": self.generation,
            "connect_id": caller.connect.id if caller.connect is not None else None,
            "listener": caller.listener,
            "caller": render_caller(caller),
        }

    def _decision(
        self, record: ExchangeRecord, origin: Origin | None, *, verdict: str, code: str, rule: str, permit: Permit | None
    ) -> dict[str, object]:
        notes = NO_NOTES if permit is None else self._notes_of(permit.route)
        connecting = record.method == "CONNECT"
        tls = record.notes.get("tls")
        scheme = None if origin is None else origin.scheme
        if connecting and tls in {"passthrough", "bridge"}:
            scheme = "https"
        key = (verdict, code)
        self.decisions[key] = self.decisions.get(key, 0) + 1
        return {
            **self._common(record),
            "op": "connect" if connecting else "request",
            "method": record.method,
            "scheme": scheme,
            "host": None if origin is None else origin.host,
            "port": None if origin is None else origin.port,
            "path": None if connecting or record.path is None else record.path[:_PATH_CHARS].decode("latin-1"),
            "tls": tls or (None if connecting else _inner_tls(record.caller, scheme)),
            "verdict": verdict,
            "code": code,
            "rule": rule or notes.denied_by,
            "would_deny": notes.would_deny,
            "addresses": {"chosen": None if record.address is None else record.address.host},
        }

    def _close(self, record: ExchangeRecord) -> dict[str, object]:
        fault = record.outcome if record.outcome in FAULTS else ""
        return {
            **self._common(record),
            "status": record.status,
            "sni": record.notes.get("sni"),
            "bytes_up": record.bytes_in,
            "bytes_down": record.bytes_out,
            "duration_ms": round(record.duration_s * 1000),
            "ttfb_ms": None if record.ttfb_s is None else round(record.ttfb_s * 1000),
            "upstream": _render_upstream(record.address, reused=record.reused),
            "fault": fault,
            "reason": "drain" if record.outcome == "drain_cut" else record.notes.get("reason") or _REASONS.get(record.outcome, "error"),
        }


def _inner_tls(caller: Caller, scheme: str | None) -> str | None:
    if caller.connect is not None:
        return "bridge" if caller.connect.scheme == "https" else "plain"
    return None if scheme is None else "originate" if scheme == "https" else "plain"


def render_caller(caller: Caller) -> dict[str, object]:
    """The caller as records have it."""
    return {"id": caller.id, "evidence": str(caller.evidence), "issuer": caller.issuer, "pod": caller.pod, "addr": caller.address}


def _render_upstream(address: ResolvedAddress | None, *, reused: bool | None) -> Mapping[str, object] | None:
    return None if address is None else {"ip": address.host, "port": address.port, "reused": reused}


class GatewayRecorder(Recorder):
    """Counts exchanges like every plane, and writes the gateway's own records."""

    __slots__ = ("_records",)

    def attach(self, records: GatewayRecords) -> None:
        """What writes the records."""
        self._records = records

    def finish(self, record: ExchangeRecord) -> None:
        """The end of an exchange."""
        if record.request_id is None:
            record.request_id = self.request_id()
        self._records.finish(record)
        super().finish(record)


def decide_with_id(records: GatewayRecords, recorder: Recorder) -> Callable[[ExchangeRecord, Permit, HeldBody | None], Awaitable[None]]:
    """`records.decide`, with a request id first."""

    async def decide(record: ExchangeRecord, permit: Permit, held: HeldBody | None) -> None:
        if record.request_id is None:
            record.request_id = recorder.request_id()
        await records.decide(record, permit, held)

    return decide


def _render(parts: tuple[str, ...], record: ExchangeRecord, timestamp: str, _: str) -> str:
    ts, request_id, path, end = parts
    return f'{ts}"{timestamp}"{request_id}"{record.request_id}"{path}{render_path(record.path)}{end}'


GATEWAY_COLUMNS: Final = Columns(
    columns=(
        Column(name="ts"),
        Column(name="event", constant="exchange"),
        Column(name="request_id"),
        Column(name="outcome", attribute="outcome"),
        Column(name="method", attribute="method"),
        Column(name="path"),
        Column(name="status", attribute="status"),
        Column(name="listener", attribute="caller.listener"),
    ),
    render=_render,
)
"""The gateway's access lines are off: its audit has them. The columns are there for the console of a developer."""
