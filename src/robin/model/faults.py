"""What can go wrong, as one closed, documented table; `proxy/rescue.py` and `proxy/refusal.py` turn a Fault or Denial into a response.

Codes are public: docs/reference/faults.md lists each, and tests compare code, docs and tests. A detail names no setting of any plane: it
holds words such as `{upstream_url}`, and `name_settings` puts in the plane's own name of the setting where the text is shown.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Protocol

from robin.model.gateway_faults import GATEWAY_FAULTS
from robin.model.grant_faults import GRANT_ROWS, RETRY_AFTER_MAX_S


class FaultSource(StrEnum):
    """Who is at fault."""

    DOWNSTREAM = "downstream"
    POLICY = "policy"
    IDENTITY = "identity"
    ISSUER = "issuer"
    UPSTREAM = "upstream"
    LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultKind:
    """One line of the fault table.

    `status` is the HTTP status; `error` the RFC 9209 proxy error type; `retry_after_s` the Retry-After of a Fault without one of its own
    (None: no Retry-After), `retry_after_max_s` the longest of any; `closes`: the downstream connection ends after the response, and later
    bytes are not parsed.
    """

    code: str
    status: int
    error: str
    source: FaultSource
    title: str
    retry_after_s: int | None = None
    retry_after_max_s: int = 30
    closes: bool = False


def _table() -> dict[str, FaultKind]:
    down, policy, identity = FaultSource.DOWNSTREAM, FaultSource.POLICY, FaultSource.IDENTITY
    up, local = FaultSource.UPSTREAM, FaultSource.LOCAL
    rows: tuple[tuple[str, int, str, FaultSource, str, int | None, bool], ...] = (
        ("bad_request", 400, "http_request_error", down, "The request is malformed", None, True),
        ("request_timeout", 408, "http_request_error", down, "The request head did not arrive in time", None, True),
        ("target_too_long", 414, "http_request_error", down, "The request target is too long", None, True),
        ("expectation_failed", 417, "http_request_error", down, "The expectation is not supported", None, True),
        ("limit_body", 413, "http_request_error", down, "The request body is too large", None, True),
        ("head_too_large", 431, "http_request_error", down, "The request head is too large", None, True),
        ("method_refused", 405, "http_request_error", down, "The method is refused", None, True),
        ("method_unknown", 501, "http_request_error", down, "The method is unknown", None, True),
        ("version_not_supported", 505, "http_request_error", down, "The HTTP version is not supported", None, True),
        ("host_not_allowed", 421, "http_request_denied", policy, "The Host is not allowed", None, False),
        ("origin_refused", 403, "http_request_denied", policy, "The browser origin is refused", None, False),
        ("required_header_missing", 403, "http_request_denied", policy, "The required header is missing", None, False),
        ("peer_denied", 403, "http_request_denied", policy, "The local peer is not allowed", None, True),
        ("loop", 502, "proxy_loop_detected", policy, "The request went through this proxy already", None, False),
        ("identity_unavailable", 503, "proxy_internal_error", identity, "No workload identity is available", 1, False),
        ("identity_expired", 503, "proxy_internal_error", identity, "The workload identity has expired", 1, False),
        ("identity_malformed", 503, "proxy_internal_error", identity, "The workload identity is malformed", 1, False),
        ("identity_not_yet_valid", 503, "proxy_internal_error", identity, "The workload identity is not valid yet", 1, False),
        ("audience_mismatch", 503, "proxy_configuration_error", identity, "The workload identity is for another audience", None, False),
        ("identity_refused", 503, "proxy_configuration_error", identity, "The platform refuses to issue an identity", None, False),
        ("dns_failed", 502, "dns_error", up, "The upstream name does not resolve", None, False),
        ("dns_timeout", 504, "dns_timeout", up, "The upstream name did not resolve in time", None, False),
        ("connect_refused", 502, "connection_refused", up, "The upstream refused the connection", None, False),
        ("connect_timeout", 504, "connection_timeout", up, "The upstream did not accept the connection in time", None, False),
        ("unroutable", 502, "destination_ip_unroutable", up, "The upstream address cannot be reached", None, False),
        ("upstream_certificate", 502, "tls_certificate_error", up, "The upstream certificate is not trusted", None, False),
        ("upstream_tls", 502, "tls_protocol_error", up, "The TLS handshake with the upstream failed", None, False),
        ("response_timeout", 504, "http_response_timeout", up, "The upstream did not answer in time", None, False),
        ("upstream_closed", 502, "http_response_incomplete", up, "The upstream closed before it answered", None, False),
        ("upstream_protocol", 502, "http_protocol_error", up, "The upstream answer is malformed", None, False),
        ("upgrade_failed", 502, "http_upgrade_failed", up, "The upstream did not switch protocols as asked", None, False),
        ("limit_connections", 503, "connection_limit_reached", local, "Too many connections", 1, False),
        ("draining", 503, "destination_unavailable", local, "Robin is shutting down", 1, True),
        ("internal_error", 500, "proxy_internal_error", local, "Robin failed", None, True),
    )
    table = {
        code: FaultKind(code=code, status=status, error=error, source=source, title=title, retry_after_s=after, closes=closes)
        for code, status, error, source, title, after, closes in (*rows, *_rows_of_planes())
    }
    for code, status, error, word, title, after in GRANT_ROWS:
        kind = FaultKind(code=code, status=status, error=error, source=FaultSource(word), title=title, retry_after_s=after)
        table[code] = replace(kind, retry_after_max_s=RETRY_AFTER_MAX_S)
    return table


def _rows_of_planes() -> Iterator[tuple[str, int, str, FaultSource, str, int | None, bool]]:
    for code, status, error, source, title, after, closes in GATEWAY_FAULTS:
        yield code, status, error, FaultSource(source), title, after, closes


FAULTS = _table()

PLANE_FAULTS: dict[str, FaultKind] = {}
"""The codes that only some plane has, beside those of the engine; a plane registers its table when it is built."""


def register_faults(kinds: Mapping[str, FaultKind]) -> None:
    """Make the codes of a plane known to Fault."""
    PLANE_FAULTS.update(kinds)


# `outcome` of an exchange: a closed set, public in records and metrics; docs/reference/outcomes.md lists them.
OUTCOMES = frozenset({"forwarded", "local_response", "client_closed", "upstream_aborted", "drain_cut", *FAULTS})


class Fault(Exception):
    """An expected failure with a public code.

    `detail` starts with a stable reason word, states the fix, and never holds request or token bytes.
    `retry_after_s` overrides the kind's (clamped to 1 and the kind's maximum when rendered). `rule` names the rule that refused, if one
    did. `members` go into the problem body too: words of the configuration and of closed lists.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        retry_after_s: float | None = None,
        rule: str = "",
        members: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.kind = FAULTS.get(code) or PLANE_FAULTS[code]
        self.detail = detail
        self.rule = rule
        self.members = members or {}
        self.retry_after_s = retry_after_s if retry_after_s is not None else self.kind.retry_after_s

    @property
    def code(self) -> str:
        """The stable lower_snake code."""
        return self.kind.code


class Refusals(Protocol):
    """How a plane, or one of its routes, writes refusals."""

    def render(self, fault: Fault, *, request_id: str, close: bool, head_only: bool) -> bytes:
        """One whole HTTP/1.1 response. `close`: the connection ends after it; `head_only`: the request was a HEAD."""
        ...


_SETTING: Final = re.compile(r"\{([a-z][a-z0-9_]*)\}")


def name_settings(text: str, names: Mapping[str, str]) -> str:
    """`text` with each `{setting}` as `names` has it; without a name it is plain words."""
    return _SETTING.sub(lambda found: names.get(found[1]) or "the " + found[1].replace("_", " "), text)
