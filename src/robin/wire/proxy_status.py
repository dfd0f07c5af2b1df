"""The proxy's own responses as bytes: status, Proxy-Status (RFC 9209) and a problem body (RFC 9457), unlike any of an upstream."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

from robin.model.faults import Fault, name_settings
from robin.model.verdict import LocalResponse

ALLOW: Final = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


class ProblemRefusals:
    """Refusals as problem bodies (RFC 9457) with Proxy-Status (RFC 9209). A `model.faults.Refusals`.

    `proxy` is the name of this proxy in Proxy-Status; `setting_names` are those of the plane, as `name_settings` takes them. `fields` are
    whole header lines to add, by code or by status: the challenges of a 407 or 401.
    """

    __slots__ = ("_fields", "_proxy", "_setting_names")

    def __init__(self, proxy: str, setting_names: Mapping[str, str], *, fields: Mapping[int | str, bytes] = MappingProxyType({})) -> None:
        self._proxy = proxy.encode("ascii")
        self._setting_names = setting_names
        self._fields = fields

    def render(self, fault: Fault, *, request_id: str, close: bool, head_only: bool) -> bytes:
        """One whole response. Retry-After is at least 1 s, and at most what its kind allows."""
        kind, after_s = fault.kind, fault.retry_after_s
        after = None if after_s is None else max(1, min(kind.retry_after_max_s, int(-(-after_s // 1))))
        body = json.dumps(
            {
                "type": f"urn:robin:fault:{kind.code}",
                "title": kind.title,
                "status": fault.status,
                "code": kind.code,
                "source": kind.source.value,
                "retry": "never" if after is None else "after",
                **({"rule": fault.rule} if fault.rule else {}),
                "detail": name_settings(fault.detail, self._setting_names),
                **fault.members,
                "request_id": request_id,
            }
        ).encode("ascii")
        proxy_status = (self._proxy, kind.error.encode("ascii"), kind.code.encode("ascii"))
        lines = [
            b"HTTP/1.1 %d %b\r\n" % (fault.status, HTTPStatus(fault.status).phrase.encode("ascii")),
            b"Content-Type: application/problem+json\r\nContent-Length: %d\r\nCache-Control: no-store\r\n" % len(body),
            b'Proxy-Status: %b; error=%b; details="%b"\r\n' % proxy_status,
        ]
        lines.append(self._fields.get(kind.code) or self._fields.get(fault.status, b""))
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
