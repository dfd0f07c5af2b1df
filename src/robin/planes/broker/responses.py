"""What the verifier answers: a problem body with the reason and nothing else of the request, and the headers of an accepted one."""

import json
from http import HTTPStatus
from typing import Final

from robin.model.faults import Fault, FaultKind, FaultSource
from robin.model.passport import HTTPSIG, TRANSCRIPT, PassportRoute
from robin.model.passport_reasons import REASONS, Reason
from robin.policy.passport_verify import Findings

ACCEPT_SIGNATURE: Final = (
    'wimse=("@method" "@request-target" "@authority" "workload-identity-token");created;expires;tag="wimse-workload-to-workload"'
)
_OF_ENGINE: Final = {"limit_body": "body_too_large"}


class PassportFault(Fault):
    """A refusal of the verifier for the engine, which knows only faults."""

    def __init__(self, reason: Reason, found: Findings) -> None:
        Exception.__init__(self, reason.code)
        self.status, self.fields = status_of(reason, found.profile, found.route)
        error = "proxy_internal_error" if self.status >= 500 else "http_request_denied"
        self.kind = FaultKind(code=reason.code, status=self.status, error=error, source=FaultSource.POLICY, title=reason.meaning)
        self.detail = reason.remedy
        self.retry_after_s = 1 if reason.retryable and self.status == 503 else None
        self.reason = reason


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
        """One whole response. A fault of the engine keeps its code, but for what is a reason of the verifier under another name."""
        if isinstance(fault, PassportFault):
            return render_refusal(fault.reason, fault.status, fault.fields, request_id=request_id, close=close, head_only=head_only)
        named = _OF_ENGINE.get(fault.code)
        if named is not None:
            return render_refusal(REASONS[named], fault.kind.status, b"", request_id=request_id, close=close, head_only=head_only)
        retry = b"" if fault.retry_after_s is None else b"Retry-After: 1\r\n"
        body = _body(fault.code, fault.kind.title, fault.kind.status, request_id, source=fault.kind.source.value, retry=bool(retry))
        return _render(fault.kind.status, fault.code, retry, body, close=close, head_only=head_only)


def render_refusal(reason: Reason, status: int, lines: bytes, *, request_id: str, close: bool, head_only: bool = False) -> bytes:
    """One whole response."""
    body = _body(reason.code, reason.meaning, status, request_id, source="policy", retry=reason.retryable)
    return _render(status, reason.code, lines, body, close=close, head_only=head_only)


def _body(code: str, title: str, status: int, request_id: str, *, source: str, retry: bool) -> bytes:
    members = {"type": f"urn:robin:fault:{code}", "title": title, "status": status, "code": code, "source": source}
    members |= {"retry": "after" if retry else "never", "detail": title, "request_id": request_id}
    return json.dumps(members | {"allowed": False, "reason": code, "retryable": retry}).encode("ascii")


def _render(status: int, code: str, lines: bytes, body: bytes, *, close: bool, head_only: bool) -> bytes:
    head = b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
    head += b"Content-Type: application/problem+json\r\nContent-Length: %d\r\nCache-Control: no-store\r\n" % len(body)
    head += b'Proxy-Status: robin; error=http_request_denied; details="%b"\r\n' % code.encode()
    head += lines + (b"Connection: close\r\n" if close else b"") + b"\r\n"
    return head if head_only else head + body


def passport_lines(found: Findings, *, asserted_digest: str | None = None) -> bytes:
    """What the service is told of an accepted request, as header lines."""
    passport, route, credited = found.passport, found.route, found.credited
    assert passport is not None
    assert route is not None
    assert credited is not None
    values = {
        "Subject": passport.subject,
        "Issuer": passport.issuer,
        "Trust-Domain": passport.trust_domain,
        "Jti": passport.jti,
        "Route-Id": route.route_id,
        "Profile": passport.profile,
        "Signer-Class": passport.key_binding,
        "Identity": credited.identity,
        "Key-Protection": credited.key_protection,
        "Content-Digest": asserted_digest or "",
    }
    return b"".join(f"Robin-Passport-{name}: {value}\r\n".encode("ascii") for name, value in values.items() if value)
