"""The codes of the Kubernetes plane, each with its HTTP status and the reason of its Status object; and what the engine's own codes become.

The page docs/reference/kube.md lists each code; tests compare both.
"""

from collections.abc import Mapping
from typing import Final

from robin.model.fault_kind import FaultKind, FaultSource, fault_table

_DOWN, _POLICY, _IDENTITY = FaultSource.DOWNSTREAM, FaultSource.POLICY, FaultSource.IDENTITY
_UP, _LOCAL = FaultSource.UPSTREAM, FaultSource.LOCAL

_ROWS: Final = (
    ("target_form", 400, "BadRequest", "http_request_error", _DOWN, "The form of the target is refused", None, True),
    ("path_char", 400, "BadRequest", "http_request_error", _DOWN, "The path holds an ambiguous byte or escape", None, False),
    ("path_segment", 400, "BadRequest", "http_request_error", _DOWN, "The path holds an empty or dot segment", None, False),
    ("path_legacy", 400, "BadRequest", "http_request_error", _DOWN, "The path has an old verb prefix", None, False),
    ("path_name", 400, "BadRequest", "http_request_error", _DOWN, "A name in the path is not valid", None, False),
    ("query", 400, "BadRequest", "http_request_error", _DOWN, "The query is refused", None, False),
    ("upgrade", 400, "BadRequest", "http_request_error", _DOWN, "The upgrade is refused", None, False),
    ("request_malformed", 400, "BadRequest", "http_request_error", _DOWN, "The request is malformed", None, True),
    ("body_unexpected", 400, "BadRequest", "http_request_error", _DOWN, "This request cannot have a body", None, False),
    ("method", 405, "MethodNotAllowed", "http_request_error", _DOWN, "The method is refused", None, False),
    ("request_timeout", 408, "Timeout", "http_request_error", _DOWN, "The request did not arrive in time", None, True),
    ("body_too_large", 413, "RequestEntityTooLarge", "http_request_error", _DOWN, "The request body is too large", None, True),
    ("body_encoding", 415, "UnsupportedMediaType", "http_request_error", _DOWN, "The request body is coded", None, False),
    ("head_too_large", 431, "BadRequest", "http_request_error", _DOWN, "The request head is too large", None, True),
    ("unauthenticated", 401, "Unauthorized", "http_request_denied", _IDENTITY, "The agent is not authenticated", None, False),
    ("denied", 403, "Forbidden", "http_request_denied", _POLICY, "Policy denies the request", None, False),
    ("unknown_agent", 403, "Forbidden", "http_request_denied", _POLICY, "The agent is not in the policy", None, False),
    ("protected", 403, "Forbidden", "http_request_denied", _POLICY, "Robin's own accounts are protected", None, False),
    ("impersonation", 403, "Forbidden", "http_request_denied", _POLICY, "No agent may act as another user", None, False),
    ("revoked", 403, "Forbidden", "http_request_denied", _POLICY, "The credentials of the agent were revoked", None, False),
    ("too_many_streams", 429, "TooManyRequests", "http_request_denied", _LOCAL, "The agent has too many sessions open", 1, False),
    ("rate_limited", 429, "TooManyRequests", "http_request_denied", _LOCAL, "There are too many requests", 1, False),
    (
        "mint_forbidden",
        500,
        "InternalError",
        "proxy_configuration_error",
        _IDENTITY,
        "The cluster refuses to mint for this account",
        None,
        False,
    ),
    ("mint_invalid", 500, "InternalError", "proxy_configuration_error", _IDENTITY, "The cluster minted no usable token", None, False),
    (
        "mint_no_account",
        500,
        "InternalError",
        "proxy_configuration_error",
        _IDENTITY,
        "The account of the agent does not exist",
        None,
        False,
    ),
    (
        "bootstrap_rejected",
        500,
        "InternalError",
        "proxy_configuration_error",
        _IDENTITY,
        "The cluster refuses Robin's own credential",
        None,
        False,
    ),
    ("internal_error", 500, "InternalError", "proxy_internal_error", _LOCAL, "Robin failed", None, True),
    ("upstream_tls", 502, "InternalError", "tls_protocol_error", _UP, "The TLS handshake with the API server failed", None, False),
    ("upstream_redirect", 502, "InternalError", "http_protocol_error", _UP, "The API server redirects", None, False),
    ("upstream_unauthorized", 502, "InternalError", "http_protocol_error", _UP, "The API server refuses the minted token", None, False),
    ("upstream_protocol", 502, "InternalError", "http_protocol_error", _UP, "The response of the API server is malformed", None, False),
    ("mint_unavailable", 503, "ServiceUnavailable", "destination_unavailable", _IDENTITY, "No token could be minted now", 1, False),
    ("upstream_unreachable", 503, "ServiceUnavailable", "destination_unavailable", _UP, "The API server cannot be reached", 1, False),
    ("audit_unavailable", 503, "ServiceUnavailable", "proxy_internal_error", _LOCAL, "The audit record cannot be written", 5, False),
    ("draining", 503, "ServiceUnavailable", "destination_unavailable", _LOCAL, "Robin is shutting down", 1, True),
    ("upstream_timeout", 504, "Timeout", "http_response_timeout", _UP, "The API server did not answer in time", None, False),
)

KUBE_FAULTS: Final[Mapping[str, FaultKind]] = fault_table((f"kube.{code}", status, *rest) for code, status, _reason, *rest in _ROWS)
STATUS_REASONS: Final[Mapping[str, str]] = {f"kube.{row[0]}": row[2] for row in _ROWS}
"""The `reason` of the Status object of each code."""

FROM_ENGINE: Final[Mapping[str, str]] = {
    "bad_request": "kube.request_malformed",
    "request_timeout": "kube.request_timeout",
    "target_too_long": "kube.target_form",
    "expectation_failed": "kube.request_malformed",
    "limit_body": "kube.body_too_large",
    "head_too_large": "kube.head_too_large",
    "method_refused": "kube.method",
    "method_unknown": "kube.request_malformed",
    "version_not_supported": "kube.request_malformed",
    "loop": "kube.upstream_unreachable",
    "dns_failed": "kube.upstream_unreachable",
    "dns_timeout": "kube.upstream_unreachable",
    "connect_refused": "kube.upstream_unreachable",
    "connect_timeout": "kube.upstream_unreachable",
    "unroutable": "kube.upstream_unreachable",
    "upstream_certificate": "kube.upstream_tls",
    "upstream_tls": "kube.upstream_tls",
    "response_timeout": "kube.upstream_timeout",
    "upstream_closed": "kube.upstream_timeout",
    "upstream_protocol": "kube.upstream_protocol",
    "upgrade_failed": "kube.upstream_protocol",
    "limit_connections": "kube.rate_limited",
    "draining": "kube.draining",
    "internal_error": "kube.internal_error",
}
"""What each code that the engine raises on the way of a request becomes."""
