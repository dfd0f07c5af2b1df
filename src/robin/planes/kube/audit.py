"""The audit records of the plane: a decision before anything is minted or sent, a minted token, and the end of a request.

Rules a reader must keep: no record holds a token, a header value or a body. A decision that cannot be written is a refusal.
"""

from typing import Final, Literal

from robin.model.faults import Fault
from robin.planes.kube.exchange import KubeExchange
from robin.policy.kube.judge import Decision
from robin.policy.kube.request_info import RequestInfo
from robin.policy.kube.tiers import TIERS_VERSION
from robin.telemetry.audit import AuditLog, AuditRecord
from robin.telemetry.audit_file import AuditUnavailable
from robin.telemetry.record import ExchangeRecord

_SYNCED_TIER: Final = 2
_TARGET_MAX: Final = 512
_TEXT_MAX: Final = 4096  # of a part of a record that the agent chooses: all of them together must fit in a line
_WORD_MAX: Final = 512
_COMMAND_MAX: Final = 64
_END_REASONS: Final = {
    "forwarded": "complete",
    "client_closed": "client",
    "upstream_aborted": "upstream",
    "drain_cut": "shutdown",
}


class KubeAudit:
    """Writes to one AuditLog. `fsync` as in the settings: `writes` syncs decisions of tier 2 and above before anything is sent."""

    __slots__ = ("_fsync", "_log")

    def __init__(self, log: AuditLog, *, fsync: Literal["writes", "always"]) -> None:
        self._log = log
        self._fsync = fsync

    @property
    def failure(self) -> str:
        """Why the last write failed, empty while all is well."""
        return self._log.failure

    async def decided(self, exchange: KubeExchange) -> None:
        """Write the decision to forward. Raises Fault `kube.audit_unavailable`."""
        tier = 4 if exchange.decision is None else exchange.decision.tier
        sync = self._fsync == "always" or tier >= _SYNCED_TIER
        await self._append(AuditRecord(event="request.decided", id=exchange.id, fields=_decided(exchange), sync=sync))
        exchange.decided = True

    async def minted(self, exchange: KubeExchange, fields: dict[str, object]) -> None:
        """Write what was minted. Raises Fault `kube.audit_unavailable`."""
        await self._append(AuditRecord(event="token.minted", id=exchange.id, fields={"agent": exchange.agent, **fields}))

    def auth_failed(self, id_: str, *, cause: str, peer: str) -> None:
        """Note a request without an agent."""
        self._log.put(AuditRecord(event="auth.failed", id=id_, fields={"cause": cause, "peer": peer}))

    def policy_loaded(self, digest: str) -> None:
        """Note which policy is in force."""
        self._log.put(AuditRecord(event="policy.loaded", id="", fields={"policy_digest": digest}))

    def finished(self, exchange: KubeExchange | None, record: ExchangeRecord) -> None:
        """Note the end of a request: the refusal, or what was relayed."""
        if exchange is not None and exchange.decided:
            self._log.put(AuditRecord(event="request.done", id=exchange.id, fields=_done(exchange, record)))
        elif exchange is not None and exchange.decision is not None and exchange.decision.code:
            self._log.put(AuditRecord(event="request.decided", id=exchange.id, fields=_decided(exchange)))
        elif record.outcome != "kube.unauthenticated":  # that one is noted with its cause
            target = "" if record.path is None else record.path[:_TARGET_MAX].decode("latin-1")
            fields: dict[str, object] = {"code": record.outcome, "method": record.method, "target": target}
            if exchange is not None:
                fields |= {"agent": exchange.agent, "peer": exchange.peer}
            self._log.put(AuditRecord(event="request.refused", id="" if exchange is None else exchange.id, fields=fields))

    async def close(self) -> None:
        """Seal the log."""
        await self._log.close()

    async def _append(self, record: AuditRecord) -> None:
        try:
            await self._log.append(record)
        except AuditUnavailable:
            raise Fault("kube.audit_unavailable", "audit: the record could not be written, so nothing was sent") from None


def decision_fields(info: RequestInfo, decision: Decision) -> dict[str, object]:
    """What was asked and how it was judged, as a record and `robin explain kube --json` name it."""
    return {
        "verb": info.verb,
        "group": info.group[:_WORD_MAX],
        "version": info.version[:_WORD_MAX],
        "resource": info.resource[:_WORD_MAX],
        "subresource": info.subresource[:_WORD_MAX],
        "namespace": info.namespace,
        "name": info.name[:_WORD_MAX],
        "tier": decision.tier,
        "base_tier": decision.base_tier,
        "tier_reason": decision.tier_reason[:_WORD_MAX],
        "tiers_version": TIERS_VERSION,
        "decision": decision.decision,
        "code": decision.code or None,
        "rule": decision.rule or None,
    }


def _decided(exchange: KubeExchange) -> dict[str, object]:
    """The fields of `request.decided`."""
    request, decision = exchange.request, exchange.decision
    assert request is not None
    assert decision is not None
    info = request.info
    query = "&".join(f"{key}={value}" for key, value in request.target.query if key != "command")
    asked = request.target.values("command")
    command, container = _command(asked), next(iter(request.target.values("container")), None)
    cut = len(info.path) > _TEXT_MAX or len(query) > _TEXT_MAX or command != asked or len(container or "") > _WORD_MAX
    return {
        "agent": exchange.agent,
        "identity": exchange.identity,
        "authn": exchange.authn,
        "peer": exchange.peer,
        "method": request.method,
        "path": info.path[:_TEXT_MAX],
        "query": query[:_TEXT_MAX],
        **decision_fields(info, decision),
        "policy_digest": exchange.policy_digest,
        "approval_id": None,
        "body_bytes": exchange.body_bytes,
        "body_sha256": exchange.body_sha256 or None,
        "command": command or None,
        "container": None if container is None else container[:_WORD_MAX],
        "truncated": cut,
    }


def _command(parts: list[str]) -> list[str]:
    """The command of an exec, as far as there is room for it in a record."""
    kept, left = [], _TEXT_MAX
    for part in parts[:_COMMAND_MAX]:
        kept.append(part[: min(left, _WORD_MAX)])
        left -= len(kept[-1])
    return kept


def end_reason_of(exchange: KubeExchange, record: ExchangeRecord) -> str:
    """Why a request ended."""
    return exchange.end_reason or _END_REASONS.get(record.outcome, record.outcome)


def _done(exchange: KubeExchange, record: ExchangeRecord) -> dict[str, object]:
    return {
        "status": record.status,
        "upstream_status": record.upstream_status,
        "account": exchange.account or None,
        "jti": exchange.jti or None,
        "reused": False,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "duration_ms": int(record.duration_s * 1000),
        "end_reason": end_reason_of(exchange, record),
    }
