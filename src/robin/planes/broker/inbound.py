"""The inbound verifier: the engine in front of one service, with the verifier as its authentication and its judge of the body."""

from dataclasses import dataclass
from typing import Final

from robin.model.caller import Caller
from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.model.message import Framing, HeldBody, RequestHead
from robin.model.passport import HTTPSIG, ReceivedRequest
from robin.model.passport_reasons import Refused
from robin.model.secret import Secret
from robin.model.verdict import Permit
from robin.planes.broker.responses import PassportFault, passport_lines, passport_values
from robin.planes.broker.verifier import Verification, Verifier
from robin.telemetry.record import ExchangeRecord
from robin.transport.entropy import Entropy
from robin.wire.forwarding import HOP_BY_HOP
from robin.wire.shape import ParsedRequest

_OF_BODIES: Final = {"limit_body": Refused("body_too_large"), "request_timeout": Refused("nonce_stale", "slow_body")}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedCaller(Caller):
    """The caller of one request whose head was verified."""

    verification: Verification


def received(head: RequestHead, *, authority: str | None = None, target: str | None = None, method: str | None = None) -> ReceivedRequest:
    """The request as it was received; the arguments replace what a forward-auth proxy sends in headers."""
    spelled = head.shape.spelled if isinstance(head, ParsedRequest) else head.names
    fields = tuple(
        (name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t"))
        for name, value in zip(spelled, head.field_values, strict=True)
    )
    body_bytes = None if head.framing == Framing.CHUNKED else head.length
    return ReceivedRequest(
        method=method or head.method,
        target=target if target is not None else head.target.decode("latin-1"),
        authority=authority if authority is not None else head.host.decode("latin-1"),
        fields=fields,
        body_bytes=body_bytes,
    )


class InboundSteps:
    """What the engine asks of the verifier, in its order: the caller, the body, and what to send to the service."""

    __slots__ = ("_entropy", "_most", "_verifier")

    def __init__(self, verifier: Verifier, *, max_body_bytes: int, entropy: Entropy) -> None:
        self._verifier = verifier
        self._most = max_body_bytes
        self._entropy = entropy

    async def authenticate(self, head: RequestHead, caller: Caller) -> Caller:
        """Steps 1 to 12. Raises PassportFault."""
        one = Verification(request=received(head), request_id=self._entropy.token_hex(12), surface="inbound")
        try:
            if (detail := find_ambiguity(head)) is not None:
                raise await self._verifier.refuse(one, Refused("transcript_ambiguous", detail))
            await self._verifier.check_head(one)
            if head.length > self._most:
                raise await self._verifier.refuse(one, Refused("body_too_large"))
        except Refused as refused:
            raise PassportFault(refused.reason, one.found, one.request_id) from None
        return VerifiedCaller(
            evidence=caller.evidence, listener=caller.listener, uid=caller.uid, gid=caller.gid, pid=caller.pid, verification=one
        )

    async def judge(self, permit: Permit, held: HeldBody) -> None:
        """Steps 13 to 15, before anything is contacted. Raises PassportFault."""
        one = _verification(permit)
        try:
            if len(held.octets) > self._most:
                raise await self._verifier.refuse(one, Refused("body_too_large"))
            await self._verifier.admit(one, held.octets)
        except Refused as refused:
            raise PassportFault(refused.reason, one.found, one.request_id) from None

    async def note(self, record: ExchangeRecord, permit: Permit, _: HeldBody | None) -> None:
        """Give the access record the request_id of the audit record, which is written already."""
        record.request_id = _verification(permit).request_id

    def translate(self, fault: Fault, record: ExchangeRecord) -> Fault:
        """What the engine refuses behind a verified head: a body that is too large or too slow is a decision too, and has its record."""
        caller = record.caller
        if isinstance(fault, PassportFault):
            record.request_id = fault.request_id
        elif isinstance(caller, VerifiedCaller):
            one = caller.verification
            record.request_id = one.request_id
            refused = _OF_BODIES.get(fault.code)
            if refused is not None:
                self._verifier.note_refusal(one, refused)
                return PassportFault(refused.reason, one.found, one.request_id)
        return fault

    # as the engine's credentials: what was verified, for the service

    def ready(self, permit: Permit) -> Credential:
        """The headers for the service; a bearer that a wimse-httpsig proof covers is passed on."""
        one = _verification(permit)
        lines = [Secret(line) for line in passport_lines(passport_values(one.found))]
        if one.found.profile == HTTPSIG:
            lines += [Secret(f"Authorization: {value}\r\n".encode("latin-1")) for value in one.request.values("authorization")]
        return Credential(fields=tuple(lines), note="passport", identity=None)

    async def obtain(self, permit: Permit, notes: dict[str, object]) -> Credential:
        """The same."""
        return self.ready(permit)

    def rejected(self, permit: Permit, credential: Credential) -> None:
        """A 401 of the service is passed on."""

    async def renew(self, permit: Permit, credential: Credential) -> Credential | None:
        """None: there is no other one."""


def find_ambiguity(head: RequestHead) -> str | None:
    """Why the service could be sent another request than this one: a detail of `transcript_ambiguous`, None where it could not."""
    if head.target_authority is not None:
        return "absolute_form"
    if head.upgrade is not None:
        return "upgrade"
    named = head.connection_options - HOP_BY_HOP  # a field that Connection names ends here, also one that the proof covers
    return "connection_option" if named.intersection(head.names) else None


def _verification(permit: Permit) -> Verification:
    caller = permit.caller
    assert isinstance(caller, VerifiedCaller)
    return caller.verification
