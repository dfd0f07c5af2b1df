"""Audit records of passports: one for each decision, allow and deny, before it takes effect; what is unknown at that step is null.

Never in a record: a token, a proof, a nonce, a key, a header value, a query, a body. `transcript_sha256` or `base_sha256` joins the record
of an issue to that of its verification.
"""

from collections.abc import Callable, Mapping
from typing import Final

from robin.model.passport import TRANSCRIPT, PassportRoute
from robin.model.passport_reasons import Refused
from robin.planes.broker.issuer import Draft, Signed
from robin.policy.broker_issue import Attestation, Issue, Peer
from robin.policy.passport_verify import Findings
from robin.policy.x509_svid import SVID_PROFILE
from robin.telemetry.audit import AuditLog, AuditRecord
from robin.telemetry.audit_file import AuditUnavailable
from robin.telemetry.timestamp import TimestampFormatter
from robin.wire.broker_ipc import IssueRequest

EVENT_VERSION: Final = "trustplane-auth-audit-event-v0.1"
_FIELDS: Final = (
    "version occurred_at component outcome accepted reason_code detail_reason event_id request_id route_id audience issuer subject jti "
    "key_binding required_key_binding transcript_sha256 policy_id policy_version source_profile source_spiffe_id profile signer "
    "proof_profile identity key_protection mode evidence peer kid svid_sha256 base_sha256 bundle_serial body_mode method authority "
    "path_template surface via"
).split()


class PassportAudit:
    """Writes the records of one process. Raises Refused `audit_unavailable` where a record cannot be made safe."""

    __slots__ = ("_log", "_timestamps", "_wall")

    def __init__(self, log: AuditLog, wall: Callable[[], float]) -> None:
        self._log = log
        self._wall = wall
        self._timestamps = TimestampFormatter()

    @property
    def failure(self) -> str:
        """Why the last write failed; empty while all is well."""
        return self._log.failure

    async def write(self, event: str, request_id: str, values: Mapping[str, object]) -> None:
        """One record; returns when it is in the file."""
        try:
            await self._log.append(self._build(event, request_id, values))
        except AuditUnavailable as error:
            raise Refused("audit_unavailable", error.reason) from None

    def put(self, event: str, request_id: str, values: Mapping[str, object]) -> None:
        """One record of what is refused anyway; one that cannot be written is counted in the log itself."""
        self._log.put(self._build(event, request_id, values))

    def _build(self, event: str, request_id: str, values: Mapping[str, object]) -> AuditRecord:
        fields: dict[str, object] = dict.fromkeys(_FIELDS)
        fields |= {"version": EVENT_VERSION, "occurred_at": self._timestamps.text(self._wall()), "request_id": request_id or None}
        return AuditRecord(event=event, id=request_id, fields=fields | dict(values))

    async def close(self) -> None:
        """Seal the log."""
        await self._log.close()


def outcome(component: str, reason: str, detail: str, *, accepted: bool) -> dict[str, object]:
    """The fields that every record of a decision has."""
    return {
        "component": component,
        "outcome": "allow" if accepted else "deny",
        "accepted": accepted,
        "reason_code": reason,
        "detail_reason": detail or None,
    }


def of_peer(peer: Peer) -> dict[str, object]:
    """The peer of a broker's decision."""
    known = {"uid": peer.uid, "gid": peer.gid, "pid": peer.pid, "pid_proven": peer.pid_proven, "process": ascii_text(peer.process)}
    return {"peer": known | {"exe": ascii_text(peer.exe)}, "profile": "local/software", "signer": "local/software"}


def of_request(request: IssueRequest) -> dict[str, object]:
    """What a request asks for; its route and audience are claims until a route was found."""
    return {
        "proof_profile": request.profile,
        "method": ascii_text(request.method),
        "authority": ascii_text(request.authority),
        "route_id": None if request.route_id is None else ascii_text(request.route_id),
        "audience": None if request.audience is None else ascii_text(request.audience),
    }


def of_route(route: PassportRoute) -> dict[str, object]:
    """The route of a decision."""
    return {
        "route_id": route.route_id,
        "path_template": route.path_template,
        "required_key_binding": route.required_key_binding,
        "body_mode": route.body,
    }


def of_issue(issue: Issue, draft: Draft | None, issuer: str) -> dict[str, object]:
    """What is decided of a passport."""
    values: dict[str, object] = {
        "audience": issue.audience,
        "issuer": issuer,
        "subject": issue.principal.subject,
        "key_binding": issue.signer_class,
        "identity": issue.axes.identity,
        "key_protection": issue.axes.key_protection,
        "policy_id": issue.principal.rule,
    }
    values |= {} if issue.principal.attestation is None else of_attestation(issue.principal.attestation)
    return of_route(issue.route) | values | ({} if draft is None else {"jti": draft.jti, "kid": draft.kid})


def of_attestation(attestation: Attestation) -> dict[str, object]:
    """The SVID that was verified for a decision."""
    return {
        "profile": SVID_PROFILE,
        "mode": attestation.mode,
        "evidence": attestation.evidence,
        "svid_sha256": attestation.svid.sha256,
        "source_profile": SVID_PROFILE,
        "source_spiffe_id": attestation.svid.spiffe_id,
    }


def of_signed(signed: Signed) -> dict[str, object]:
    """The digest of what was signed."""
    profile = signed.draft.issue.request.profile
    return {"transcript_sha256" if profile == TRANSCRIPT else "base_sha256": signed.digest}


def of_findings(found: Findings) -> dict[str, object]:
    """What was found of a request so far."""
    values: dict[str, object] = {"proof_profile": found.profile}
    if found.route is not None:
        values |= of_route(found.route)
    if (passport := found.passport) is not None:
        values |= {
            "issuer": ascii_text(passport.issuer),
            "subject": ascii_text(passport.subject),
            "jti": ascii_text(passport.jti) or None,
            "kid": ascii_text(passport.kid),
            "key_binding": passport.key_binding,
            "audience": None if passport.audience is None else ascii_text(passport.audience),
        }
    if found.credited is not None:
        values |= {"identity": found.credited.identity, "key_protection": found.credited.key_protection}
    if (proof := found.proof) is not None:
        values["transcript_sha256" if proof.profile == TRANSCRIPT else "base_sha256"] = proof.digest
    return values


def ascii_text(text: str) -> str:
    """Text of others for a record: bounded, and without what a record cannot hold."""
    return text[:256].encode("ascii", "backslashreplace").decode("ascii")
