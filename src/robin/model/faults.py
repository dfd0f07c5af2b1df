"""What can go wrong, as one closed, documented table; `proxy/rescue.py` and `proxy/refusal.py` turn a Fault or Denial into a response.

Codes are public: docs/reference/faults.md lists each, and tests compare code, docs and tests. A detail names no setting of any plane: it
holds words such as `{upstream_url}`, and `name_settings` puts in the plane's own name of the setting where the text is shown.
"""

import re
from collections.abc import Mapping
from typing import Final, Protocol

from robin.model.fault_kind import FaultKind, FaultRow, FaultSource, fault_table
from robin.model.gateway_faults import GATEWAY_FAULTS
from robin.model.grant_faults import GRANT_FAULTS
from robin.model.kube_faults import KUBE_FAULTS

__all__ = ["FAULTS", "OUTCOMES", "Fault", "FaultKind", "FaultSource", "Refusals", "name_settings"]


def _engine_faults() -> Mapping[str, FaultKind]:
    down, policy, identity = FaultSource.DOWNSTREAM, FaultSource.POLICY, FaultSource.IDENTITY
    up, local = FaultSource.UPSTREAM, FaultSource.LOCAL
    rows: tuple[FaultRow, ...] = (
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
    return fault_table(rows)


FAULTS: Final[Mapping[str, FaultKind]] = {**_engine_faults(), **GATEWAY_FAULTS, **KUBE_FAULTS, **GRANT_FAULTS}

# `outcome` of an exchange: a closed set, public in records and metrics; docs/reference/outcomes.md lists them.
OUTCOMES = frozenset({"forwarded", "local_response", "client_closed", "upstream_aborted", "drain_cut", *FAULTS})


class Fault(Exception):
    """An expected failure with a public code.

    `detail` starts with a stable reason word, states the fix, and never holds request or token bytes.
    `retry_after_s` overrides the kind's (clamped to 1 and the kind's maximum when rendered). `rule` names the rule that refused, if one
    did. `members` go into the problem body too: words of the configuration and of closed lists. `status` overrides the kind's.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        retry_after_s: float | None = None,
        rule: str = "",
        members: Mapping[str, str] | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.kind = FAULTS[code]
        self.detail = detail
        self.rule = rule
        self.members = members or {}
        self.status = self.kind.status if status is None else status
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
