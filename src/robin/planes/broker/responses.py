"""What the verifier answers: a problem body with the reason and nothing else of the request, and the headers of an accepted one."""

import json
from http import HTTPStatus
from typing import Final

from robin.model.faults import Fault, FaultKind, FaultSource
from robin.model.passport import HTTPSIG, TRANSCRIPT, PassportRoute, ReceivedRequest
from robin.model.passport_reasons import Reason
from robin.policy.passport_proof import HTTPSIG_FIELDS, TRANSCRIPT_FIELDS
from robin.policy.passport_verify import Findings
from robin.wire.http_signature import render_binary
from robin.wire.transcript import EMPTY_SHA256

ACCEPT_SIGNATURE: Final = (
    'wimse=("@method" "@request-target" "@authority" "workload-identity-token");created;expires;tag="wimse-workload-to-workload"'
)


OURS: Final = ("robin-passport-", "x-trustplane-")
_PUBLIC_COPIES: Final = tuple(f"x-trustplane-{name}" for name in ("subject", "issuer", "trust-domain", "jti"))


class PassportFault(Fault):
    """A refusal of the verifier for the engine, whose refusals are faults. `request_id` is that of its audit record."""

    def __init__(self, reason: Reason, found: Findings, request_id: str) -> None:
        Exception.__init__(self, reason.code)
        self.status, self.fields = status_of(reason, found.profile, found.route)
        error = "proxy_internal_error" if self.status >= 500 else "http_request_denied"
        self.kind = FaultKind(code=reason.code, status=self.status, error=error, source=FaultSource.POLICY, title=reason.meaning)
        self.detail = reason.remedy
        self.retry_after_s = 1 if reason.retryable and self.status == 503 else None
        self.reason = reason
        self.request_id = request_id


def status_of(reason: Reason, profile: str | None, route: PassportRoute | None) -> tuple[int, bytes]:
    """The status of a refusal, and its own header lines."""
    profiles = route.profiles if route is not None else ((profile,) if profile else (TRANSCRIPT, HTTPSIG))
    status, lines = reason.status(profile), b""
    if reason.code == "passport_missing":
        status = 401 if TRANSCRIPT in profiles else 400
        lines += b"WWW-Authenticate: Bearer\r\n" if TRANSCRIPT in profiles else b""
        lines += b"Accept-Signature: " + ACCEPT_SIGNATURE.encode() + b"\r\n" if HTTPSIG in profiles else b""
    if status == 503:
        lines += b"Retry-After: 1\r\n"
    return status, lines


class PassportRefusals:
    """How the inbound proxy writes refusals. A `model.faults.Refusals`."""

    __slots__ = ()

    def render(self, fault: Fault, *, request_id: str, close: bool, head_only: bool) -> bytes:
        """One whole response. A fault of the engine keeps its code."""
        if isinstance(fault, PassportFault):
            return render_refusal(fault.reason, fault.status, fault.fields, request_id=request_id, close=close, head_only=head_only)
        retry = b"" if fault.retry_after_s is None else b"Retry-After: 1\r\n"
        body = _body(fault.code, fault.kind.title, fault.kind.status, request_id, source=fault.kind.source.value, retry=bool(retry))
        return _render(fault.kind.status, fault.code, retry, body, close=close, head_only=head_only)


def render_refusal(reason: Reason, status: int, lines: bytes, *, request_id: str, close: bool, head_only: bool = False) -> bytes:
    """One whole response."""
    return _render(status, reason.code, lines, refusal_body(reason, status, request_id), close=close, head_only=head_only)


def refusal_body(reason: Reason, status: int, request_id: str) -> bytes:
    """The problem body of a refusal."""
    return _body(reason.code, reason.meaning, status, request_id, source="policy", retry=reason.retryable)


def _body(code: str, title: str, status: int, request_id: str, *, source: str, retry: bool) -> bytes:
    members = {"type": f"urn:robin:fault:{code}", "title": title, "status": status, "code": code, "source": source}
    members |= {"retry": "after" if retry else "never", "detail": title, "request_id": request_id}
    return json.dumps(members | {"allowed": False, "reason": code, "retryable": retry}).encode("ascii")


def refusal_lines(lines: bytes, body: bytes) -> bytes:
    """The header lines of a refusal: `lines` are those of its status."""
    return b"Content-Type: application/problem+json\r\nContent-Length: %d\r\nCache-Control: no-store\r\n" % len(body) + lines


def _render(status: int, code: str, lines: bytes, body: bytes, *, close: bool, head_only: bool) -> bytes:
    head = b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
    head += refusal_lines(b'Proxy-Status: robin; error=http_request_denied; details="%b"\r\n' % code.encode() + lines, body)
    head += (b"Connection: close\r\n" if close else b"") + b"\r\n"
    return head if head_only else head + body


def passport_values(found: Findings) -> dict[str, str]:
    """What the service is told of an accepted request: header and value, empty where there is none."""
    passport, route, credited, proof = found.passport, found.route, found.credited, found.proof
    assert passport is not None
    assert route is not None
    assert credited is not None
    assert proof is not None
    digest = ""
    if route.body == "asserted":  # the service compares: also that there is no body
        digest = proof.content_digest or f"sha-256={render_binary(bytes.fromhex(proof.body_sha256 or EMPTY_SHA256))}"
    return {
        "Robin-Passport-Subject": passport.subject,
        "Robin-Passport-Issuer": passport.issuer,
        "Robin-Passport-Trust-Domain": passport.trust_domain,
        "Robin-Passport-Jti": passport.jti,
        "Robin-Passport-Route-Id": route.route_id,
        "Robin-Passport-Profile": passport.profile,
        "Robin-Passport-Signer-Class": passport.key_binding,
        "Robin-Passport-Identity": credited.identity,
        "Robin-Passport-Key-Protection": credited.key_protection,
        "Robin-Passport-Content-Digest": digest,
    }


def passport_lines(values: dict[str, str]) -> list[bytes]:
    """Those of `passport_values` that there are, as header lines."""
    return [f"{name}: {value}\r\n".encode("ascii") for name, value in values.items() if value]


def render_allowed(found: Findings, request: ReceivedRequest, *, remove: bool) -> bytes:
    """The response that allows a request. `remove`: with the header by which Envoy takes credentials and forged copies off the request."""
    values = passport_values(found)
    lines = b"".join(passport_lines(values))
    if remove:
        used = ("authorization", *TRANSCRIPT_FIELDS) if found.profile == TRANSCRIPT else HTTPSIG_FIELDS
        set_ = {name.lower() for name, value in values.items() if value}
        absent = [name.lower() for name, value in values.items() if not value]
        sent = (name for name, _ in request.fields if name.replace("_", "-").startswith(OURS) and name not in set_)
        names = dict.fromkeys([*used, *absent, *_PUBLIC_COPIES, *sent])
        lines += f"x-envoy-auth-headers-to-remove: {','.join(names)}\r\n".encode("ascii")
    return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nCache-Control: no-store\r\n" + lines + b"\r\n"
