"""Performs calls to issuers and key sets with the HTTP client of the transport: a URL becomes a Permit, a Fault becomes a reason."""

from typing import Final
from urllib.parse import urlsplit

from robin.identity.issuer import IssuerRequest, IssuerResponse, IssuerUnreachable
from robin.model.faults import Fault
from robin.model.route import TlsProfile
from robin.model.secret import Secret
from robin.model.verdict import Permit
from robin.policy.control import permit_control
from robin.transport.http_client import HttpClient

_REASONS: Final = {
    "upstream_certificate": "tls",
    "upstream_tls": "tls",
    "response_timeout": "timeout",
    "upstream_closed": "closed",
    "upstream_protocol": "protocol",
}


class PooledIssuerClient:
    """The issuer client of a running plane."""

    __slots__ = ("_client", "_tls")

    def __init__(self, client: HttpClient, *, tls: TlsProfile | None = None) -> None:
        """`tls` is for calls that name no roots of their own; None: the system's roots."""
        self._client = client
        self._tls = tls or TlsProfile()

    async def send(self, request: IssuerRequest, deadline_at: float) -> IssuerResponse:
        """Return the response by `deadline_at` (the loop's time). Raises IssuerUnreachable; ValueError for a URL that cannot be called."""
        permit, target = _parse(request, self._tls)
        try:
            response = await self._client.request(
                permit,
                request.method,
                target,
                request.fields,
                b"" if request.body is None else request.body,
                limit_bytes=request.limit_bytes,
                deadline_at=deadline_at,
            )
        except Fault as fault:
            raise _unreachable(fault) from None
        fields: dict[str, str] = {}
        for name, value in response.fields:
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        return IssuerResponse(status=response.status, fields=fields, body=Secret(response.body))


def _parse(request: IssuerRequest, tls: TlsProfile) -> tuple[Permit, str]:
    """The Permit and the target of a call."""
    url = urlsplit(request.url)
    if url.scheme not in {"http", "https"} or not url.hostname or "@" in url.netloc:
        raise ValueError("the URL of a call must be http or https, with a host and without user information")
    profile = tls if request.ca_file is None else TlsProfile(ca_file=request.ca_file)
    permit = permit_control(scheme=url.scheme, host=url.hostname, port=url.port, tls=profile)
    return permit, (url.path or "/") + (f"?{url.query}" if url.query else "")


def _unreachable(fault: Fault) -> IssuerUnreachable:
    word = fault.detail.partition(":")[0]
    reason = "too_large" if word == "response_too_large" else _REASONS.get(fault.code, "connect")
    return IssuerUnreachable(reason, answered=fault.code == "upstream_protocol" or word == "cut")
