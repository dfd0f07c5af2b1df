"""Robin's own answers as bytes: status, Proxy-Status (RFC 9209) and a problem body (RFC 9457); never mistaken for the upstream's."""

import json
from http import HTTPStatus
from typing import Final

from robin.model.faults import FaultKind
from robin.model.verdict import LocalResponse

ALLOW: Final = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


def render_problem(kind: FaultKind, *, detail: str, request_id: str, retry_after_s: float | None, close: bool, head_only: bool) -> bytes:
    """One whole response. `detail` holds no request or token bytes; `retry_after_s` is clamped to 1..30; `head_only` for HEAD."""
    after = None if retry_after_s is None else max(1, min(30, int(-(-retry_after_s // 1))))
    body = json.dumps(
        {
            "type": f"urn:robin:fault:{kind.code}",
            "title": kind.title,
            "status": kind.status,
            "code": kind.code,
            "source": kind.source.value,
            "retry": "never" if after is None else "after",
            "detail": detail,
            "request_id": request_id,
        }
    ).encode("ascii")
    lines = [
        b"HTTP/1.1 %d %b\r\n" % (kind.status, HTTPStatus(kind.status).phrase.encode("ascii")),
        b"Content-Type: application/problem+json\r\nContent-Length: %d\r\nCache-Control: no-store\r\n" % len(body),
        b'Proxy-Status: robin; error=%b; details="%b"\r\n' % (kind.error.encode("ascii"), kind.code.encode("ascii")),
    ]
    if after is not None:
        lines.append(b"Retry-After: %d\r\n" % after)
    if kind.code == "method_refused":
        lines.append(b"Allow: " + ALLOW + b"\r\n")
    if close:
        lines.append(b"Connection: close\r\n")
    lines.append(b"\r\n")
    if not head_only:
        lines.append(body)
    return b"".join(lines)


def render_local_response(response: LocalResponse, *, close: bool, head_only: bool) -> bytes:
    """The response of the proxy itself that a policy decided, such as the one to `OPTIONS *`."""
    head = b"HTTP/1.1 %d %b\r\n%b" % (response.status, HTTPStatus(response.status).phrase.encode("ascii"), response.fields)
    if response.status != 204:
        head += b"Content-Length: %d\r\n" % len(response.body)
    head += b"Connection: close\r\n\r\n" if close else b"\r\n"
    return head if head_only else head + response.body
