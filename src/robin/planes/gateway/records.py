"""What the gateway records: `gateway.decision` before the first byte goes upstream, `gateway.close` when an exchange or a tunnel has ended.

Neither holds a token, a field value, a body or a query. A refused request has both too. `connect_id` joins requests to their CONNECT.
Each call to an issuer of tokens is a `grant_call`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from robin.grants.grant import GrantCall
from robin.model.caller import Caller
from robin.model.faults import FAULTS, Fault
from robin.model.message import HeldBody
from robin.model.origin import Origin
from robin.model.route import Route
from robin.model.verdict import Denial, Permit
from robin.planes.gateway.grant_records import GrantRecords, render_call
from robin.planes.gateway.metrics import GatewayMetrics
from robin.planes.gateway.record_texts import NULL, RecordTexts, draft, keep
from robin.policy.gateway import NO_NOTES, RouteNotes
from robin.policy.relay import RelayPermit
from robin.telemetry.audit import AuditLog, AuditRecord
from robin.telemetry.audit_chain import Draft, Layout, RecordError, mend, quote
from robin.telemetry.audit_file import AuditUnavailable
from robin.telemetry.columns import Column, Columns, render_path
from robin.telemetry.record import ExchangeRecord
from robin.telemetry.recorder import Recorder

_AUTH_FAILURES: Final = frozenset({"caller_unauthenticated", "caller_token_invalid", "issuer_keys_unavailable", "peer_denied"})
_PATH_CHARS: Final = 1024
_GENERATIONS_KEPT: Final = 8  # each is a whole policy; as many reloads would have to come during one wait for a connection
_REASONS: Final = {
    "client_closed": "client_closed",
    "upstream_aborted": "upstream_closed",
    "drain_cut": "drain",
    "forwarded": "done",
    "local_response": "done",
}
_CUTS: Final = {"idle": "idle", "internal_error": "error"}
"""Of a response that was cut: where its reason is no end of the upstream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decided:
    """What all requests with the same decision have in their record of it. `series` are the labels of its metric."""

    op: str
    tls: object
    series: tuple[str, str, str, str, str]
    notes: RouteNotes
    layout: Layout


class GatewayRecords:
    """Writes both records, and counts them. `fail_closed`: what cannot be recorded is not forwarded."""

    __slots__ = (
        "_audit",
        "_grants",
        "_kept",
        "_metrics",
        "_notes_of",
        "_open",
        "_texts",
        "fail_closed",
        "generation",
        "instance",
        "new_id",
    )

    def __init__(
        self,
        audit: AuditLog,
        metrics: GatewayMetrics,
        grants: GrantRecords,
        *,
        instance: str,
        fail_closed: bool,
        notes_of: Callable[[Any], RouteNotes],
        generation: int = 1,
    ) -> None:
        self._audit = audit
        self._metrics = metrics
        self._texts = RecordTexts(plane=audit.plane, instance=instance)
        self.instance = instance
        self.fail_closed = fail_closed
        self.generation = generation
        self._notes_of = {generation: notes_of}
        self._kept: dict[tuple[object, ...], tuple[Route, Origin, _Decided]] = {}  # by the identity of the first two, and what else decides
        self._open: dict[str, ExchangeRecord] = {}  # the CONNECTs under way
        self.new_id: Callable[[], str] = str  # of a request: the recorder's
        self._grants = grants

    def note_call(self, call: GrantCall) -> None:
        """Record a call to an issuer of tokens."""
        fields = {"kind": "gateway", "instance": self.instance, "generation": self.generation, **render_call(call)}
        try:
            self._audit.put(AuditRecord(event="grant_call", id="", fields=fields))
        except RecordError:  # what an issuer said is no text, or there is too much of it
            self._audit.put(AuditRecord(event="grant_call", id="", fields={name: mend(value) for name, value in fields.items()}))

    def use(self, generation: int, notes_of: Callable[[Any], RouteNotes], grants: GrantRecords) -> None:
        """A new policy is in force. What those before decided, and still waits for something, is recorded as it was decided."""
        self._grants = grants
        self._kept.clear()
        self.generation, self._notes_of[generation] = generation, notes_of
        if len(self._notes_of) > _GENERATIONS_KEPT:
            del self._notes_of[min(self._notes_of)]

    async def decide(self, record: ExchangeRecord, permit: Permit, _: HeldBody | None = None) -> None:
        """Record a permit. A `proxy.engine.Audit`; raises Fault `audit_unavailable`."""
        if record.request_id is None:
            record.request_id = self.new_id()
        self._grants.note(record, permit)
        if record.retries:
            return  # the same decision, on another connection
        try:
            await self._audit.write(self._draft_decision(record, self._permitted(record, permit)))
        except AuditUnavailable:
            if self.fail_closed:
                raise Fault("audit_unavailable", "audit: the decision cannot be recorded, so nothing is forwarded") from None
        record.notes["decided"] = True
        if record.method == "CONNECT":
            self._open[record.request_id or ""] = record
        self._grants.count(record, sent=True)

    def finish(self, record: ExchangeRecord) -> None:
        """Record the end; and the decision first, where there was a refusal."""
        decided = bool(record.notes.get("decided"))
        if not decided:
            self._record_refusal(record)
        connect = record.caller.connect
        if connect is None:
            self._open.pop(record.request_id or "", None)
        elif (outer := self._open.get(connect.id)) is not None:  # a CONNECT that was opened carried what its requests did
            outer.bytes_in += record.bytes_in
            outer.bytes_out += record.bytes_out
        self._count(record)
        if decided:
            if "replayed" in record.notes or "echoed" in record.notes:
                self._grants.count_end(record)
        else:
            self._grants.count(record, sent=False)
        self._audit.put_draft(self._close(record))

    def _record_refusal(self, record: ExchangeRecord) -> None:
        verdict = record.verdict
        origin = _asked_of(verdict) if isinstance(verdict, Permit) else verdict.origin if isinstance(verdict, Denial) else None
        rule = verdict.rule if isinstance(verdict, Denial) else verdict.route.name if isinstance(verdict, Permit) else ""
        permit = verdict if isinstance(verdict, Permit) else None
        ruling, code = ("permit", "") if record.outcome == "local_response" else (_ruling(record.outcome), record.outcome)
        decided = self._decided(record, origin, verdict=ruling, code=code, rule=rule, permit=permit)
        self._audit.put_draft(self._draft_decision(record, decided, code))

    def _count(self, record: ExchangeRecord) -> None:
        metrics, outcome, notes = self._metrics, record.outcome, record.notes
        op, tls = str(notes["op"]), str(notes.get("tls") or "none")  # the decision has noted both
        metrics.ended(op, tls, record.duration_s)
        if record.caller.connect is None:
            metrics.octets["up", tls] += record.bytes_in
            metrics.octets["down", tls] += record.bytes_out
        if outcome == "forwarded":
            return
        why = str(notes.get("why") or outcome)
        if outcome in _AUTH_FAILURES:
            metrics.auth_failures[record.caller.listener, why] += 1
        elif outcome == "address_refused":
            metrics.address_refused[why] += 1
        elif outcome in {"upstream_certificate", "upstream_tls"}:
            metrics.upstream_tls[why] += 1
        elif outcome.startswith("limit_"):
            metrics.limits[why] += 1

    def _notes(self, permit: Permit) -> RouteNotes:
        notes_of = self._notes_of.get(permit.endpoint.generation) or self._notes_of[self.generation]  # a relay's permits have no generation
        return notes_of(permit.route)

    def _permitted(self, record: ExchangeRecord, permit: Permit) -> _Decided:
        """The same for each request of one route to one origin that is alike in all else that the decision says."""
        route, origin, caller, notes = permit.route, _asked_of(permit), record.caller, record.notes
        connect = caller.connect
        noted = notes.get("op"), notes.get("tls"), notes.get("why"), notes.get("reverse")
        scheme = None if connect is None else connect.scheme
        key = id(route), id(origin), permit.endpoint.generation, record.method, caller.listener, scheme, *noted
        known = self._kept.get(key)
        if known is not None and known[0] is route and known[1] is origin:
            return known[2]
        decided = self._decided(record, origin, verdict="permit", code="", rule=route.name, permit=permit)
        keep(self._kept, key, (route, origin, decided))
        return decided

    def _decided(
        self, record: ExchangeRecord, origin: Origin | None, *, verdict: str, code: str, rule: str, permit: Permit | None
    ) -> _Decided:
        notes = NO_NOTES if permit is None else self._notes(permit)
        connecting, listener = record.method == "CONNECT", record.caller.listener
        tls = record.notes.get("tls")
        scheme = None if origin is None else origin.scheme
        if connecting and tls in {"passthrough", "bridge"}:
            scheme = "https"
        op, rule, why = _op_of(record, notes), rule or notes.denied_by, record.notes.get("why")
        tls = tls or (None if connecting else _inner_tls(record.caller, scheme))
        fixed = (
            self.generation if permit is None else permit.endpoint.generation,
            listener,
            op,
            record.method,
            scheme,
            None if origin is None else origin.host,
            None if origin is None else origin.port,
            tls,
            verdict,
            code,
            "" if why is None or why == code else why,
            rule,
            notes.route or record.notes.get("reverse") or None,
            notes.would_deny,
        )
        series = listener, op, verdict, code, rule
        return _Decided(op=op, tls=tls, series=series, notes=notes, layout=self._texts.decision(fixed))

    def _draft_decision(self, record: ExchangeRecord, decided: _Decided, code: str = "") -> Draft:
        """The record of a decision, which is noted and counted. `code`: of a refusal."""
        record.notes["op"], record.notes["tls"] = decided.op, decided.tls
        self._metrics.decisions[decided.series] += 1
        if decided.notes.would_deny:
            self._metrics.would_deny[decided.notes.denied_by] += 1
        caller, path, texts, ts = record.caller, record.path, self._texts, self._audit.timestamp()
        values = (
            f'"{ts}"',
            f'"{record.request_id or ""}"',  # hex digits of ours
            NULL if caller.connect is None else quote(caller.connect.id),
            texts.caller(caller),
            NULL if path is None or record.method == "CONNECT" else quote(path[:_PATH_CHARS].decode("latin-1")),
            *texts.address(record.address),
            self._grants.render(record, code),
        )
        return draft(decided.layout, ts, values)

    def _close(self, record: ExchangeRecord) -> Draft:
        caller, dialled, verdict, sni, ts = record.caller, record.dialled, record.verdict, record.notes.get("sni"), self._audit.timestamp()
        spent = None if record.reused else dialled  # null where it found its connection, or did without
        values = (
            f'"{ts}"',
            f'"{record.request_id or ""}"',  # hex digits of ours
            NULL if caller.connect is None else quote(caller.connect.id),
            self._texts.caller(caller),
            NULL if record.status is None else str(record.status),
            NULL if sni is None else quote(str(sni)),
            str(record.bytes_in),
            str(record.bytes_out),
            str(round(record.duration_s * 1000)),
            NULL if record.ttfb_s is None else str(round(record.ttfb_s * 1000)),
            NULL if spent is None else _milliseconds(spent.connect_s),
            NULL if spent is None else _milliseconds(spent.tls_s),
            self._texts.upstream(record.address, dialled, record.reused),
            self._grants.render(record),
        )
        fault = record.outcome if record.outcome in FAULTS else ""
        generation = verdict.endpoint.generation if isinstance(verdict, Permit) else self.generation
        return draft(self._texts.close((generation, caller.listener, fault, self._reason(record))), ts, values)

    def _reason(self, record: ExchangeRecord) -> object:
        """Why it ended. What was cut with its CONNECT ended for the reason of that."""
        if record.outcome == "forwarded":
            return record.notes.get("reason") or "done"
        if record.outcome == "drain_cut":
            return "drain"
        connect = record.caller.connect
        outer = self._open.get(connect.id) if connect is not None and record.outcome == "client_closed" else None
        around = None if outer is None else outer.notes.get("reason")
        cut = _CUTS.get(str(record.notes.get("why"))) if record.outcome == "upstream_aborted" else None
        return record.notes.get("reason") or around or cut or _REASONS.get(record.outcome, "error")


def _ruling(outcome: str) -> str:
    """`deny` where the caller, its request, a rule or a limit is the reason; `failed` where nothing denied it, and it could not be sent."""
    return "deny" if outcome in FAULTS and FAULTS[outcome].denies else "failed"


def _asked_of(permit: Permit) -> Origin:
    """What was asked for: of a relay that is not what is dialled."""
    return permit.asked if isinstance(permit, RelayPermit) else permit.endpoint.origin


def _op_of(record: ExchangeRecord, notes: RouteNotes = NO_NOTES) -> str:
    """What was asked for: `connect`, `upgrade`, `request`; `reverse` of a route, `local` where the gateway itself answered."""
    if record.method == "CONNECT":
        return "connect"
    if record.outcome == "local_response":
        return "local"
    plain = "reverse" if notes.route or "reverse" in record.notes else "request"
    return str(record.notes.get("op") or ("upgrade" if notes.upgrading or record.outcome == "upgrade_denied" else plain))


def note_reason(fault: Fault, record: ExchangeRecord) -> Fault:
    """Keep the reason word of a refusal for its record. A `proxy.engine.Translate`."""
    record.notes["why"] = fault.detail.partition(":")[0] or fault.code
    return fault


def _inner_tls(caller: Caller, scheme: str | None) -> str | None:
    if caller.connect is not None:
        return "bridge" if caller.connect.scheme == "https" else "plain"
    return None if scheme is None else "originate" if scheme == "https" else "plain"


def _milliseconds(seconds: float | None) -> str:
    return NULL if seconds is None else str(round(seconds * 1000))


class GatewayRecorder(Recorder):
    """Counts exchanges like every plane, and writes the gateway's own records."""

    __slots__ = ("_leave", "_records")

    def attach(self, records: GatewayRecords, leave: Callable[[ExchangeRecord], None] = lambda _: None) -> None:
        """What writes the records, and what the end of an exchange gives back."""
        self._records = records
        self._leave = leave
        records.new_id = self.request_id

    def finish(self, record: ExchangeRecord) -> None:
        """The end of an exchange."""
        self._leave(record)
        if record.request_id is None:
            record.request_id = self.request_id()
        self._records.finish(record)
        super().finish(record)


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
