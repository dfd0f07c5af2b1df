"""The codes of the gateway.

Those with the status 400 that `closes` after a CONNECT was answered never reach the caller as a response: they are in its record only.
"""

from collections.abc import Mapping
from typing import Final

from robin.model.fault_kind import FaultKind, FaultRow, fault_table

_ROWS: Final[tuple[FaultRow, ...]] = (
    ("authority_invalid", 400, "http_request_error", "downstream", "The authority is not valid", None, True),
    ("path_not_canonical", 400, "http_request_error", "downstream", "The path has no canonical form", None, False),
    ("scheme_unsupported", 400, "http_request_error", "downstream", "The scheme is not supported here", None, True),
    ("authority_mismatch", 421, "http_request_error", "downstream", "Host is not the target", None, True),
    ("misdirected", 421, "http_request_error", "downstream", "The request is not one for this listener", None, True),
    ("caller_unauthenticated", 407, "http_request_denied", "policy", "The caller is not authenticated", None, False),
    ("caller_token_invalid", 407, "http_request_denied", "policy", "The token of the caller is not accepted", None, False),
    ("rule_default", 403, "http_request_denied", "policy", "No rule allows it", None, False),
    ("rule_denied", 403, "http_request_denied", "policy", "A rule denies it", None, False),
    ("upgrade_denied", 403, "http_request_denied", "policy", "No rule allows the upgrade", None, False),
    ("address_refused", 403, "destination_ip_prohibited", "policy", "The address of the destination is refused", None, False),
    ("route_unknown", 404, "destination_not_found", "policy", "No route has it", None, False),
    ("limit_rate", 429, "http_request_error", "policy", "Too many requests in a second", 1, False),
    ("limit_inflight", 503, "connection_limit_reached", "local", "Too many requests at once", 1, False),
    ("limit_tunnels", 429, "http_request_error", "policy", "Too many tunnels", 1, False),
    ("limit_mints", 503, "connection_limit_reached", "local", "Too many certificates in a second", 1, False),
    ("issuer_keys_unavailable", 503, "proxy_internal_error", "identity", "The keys of the issuer are not available", 1, False),
    ("audit_unavailable", 503, "proxy_internal_error", "local", "The decision cannot be recorded", 1, False),
    ("bridge_unavailable", 503, "proxy_configuration_error", "local", "TLS cannot be bridged", None, False),
    ("parent_unreachable", 502, "destination_unavailable", "upstream", "The parent gateway cannot be reached", None, False),
    (
        "parent_refused",
        502,
        "destination_unavailable",
        "upstream",
        "The parent gateway does not accept the token",
        None,
        False,
    ),
    ("sni_mismatch", 400, "http_request_error", "downstream", "The server name is not the target", None, True),
    ("sni_missing", 400, "http_request_error", "downstream", "The server name is missing", None, True),
    ("ech_refused", 400, "http_request_error", "downstream", "Encrypted ClientHello is refused", None, True),
    ("alpn_refused", 400, "http_request_error", "downstream", "No protocol in common", None, True),
    ("not_tls", 400, "http_request_error", "downstream", "The first bytes are not TLS", None, True),
    ("not_http", 400, "http_request_error", "downstream", "The first bytes are not HTTP", None, True),
    ("client_hello_invalid", 400, "http_request_error", "downstream", "The ClientHello is not valid", None, True),
    ("tls_client_rejected", 400, "http_request_error", "downstream", "The client ended the TLS handshake", None, True),
)

GATEWAY_FAULTS: Final[Mapping[str, FaultKind]] = fault_table(_ROWS)
