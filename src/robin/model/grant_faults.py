"""The rows of the fault table about grants: what issuers, bindings and endpoints of provider profiles refuse.

A row: code, HTTP status, RFC 9209 proxy error type, source, title, and the Retry-After in seconds of a Fault without one of its own.
"""

from typing import Final

RETRY_AFTER_MAX_S: Final = 300
"""An issuer may ask for a pause of minutes; callers are not sent back earlier only to be refused."""

_INTERNAL: Final = "proxy_internal_error"
_DENIED: Final = "http_request_denied"

GRANT_ROWS: Final[tuple[tuple[str, int, str, str, str, int | None], ...]] = (
    ("issuer_unavailable", 503, _INTERNAL, "issuer", "The token issuer gave no response", 1),
    ("issuer_rate_limited", 503, _INTERNAL, "issuer", "The token issuer asks for a pause", 5),
    ("issuer_overloaded", 503, "connection_limit_reached", "issuer", "Too many calls to the token issuer are waiting", 1),
    ("grant_refused", 502, _INTERNAL, "issuer", "The token issuer refused the grant", 30),
    ("issuer_redirected", 502, _INTERNAL, "issuer", "The token issuer redirected the call", 30),
    ("issuer_tls_failed", 502, _INTERNAL, "issuer", "The TLS connection to the token issuer failed", 30),
    ("issuer_answer_invalid", 502, _INTERNAL, "issuer", "The response of the token issuer is not acceptable", 30),
    ("assertion_unsuitable", 502, "proxy_configuration_error", "identity", "The identity token does not suit the issuer", None),
    ("subject_refused", 502, _INTERNAL, "issuer", "The token issuer refused the identity token", 60),
    ("binding_withdrawn", 403, _DENIED, "policy", "The credential was withdrawn", None),
    ("endpoint_closed", 403, _DENIED, "policy", "The endpoint of the profile does not allow this request", None),
    ("path_not_canonical", 400, "http_request_error", "downstream", "The path is not in canonical form", None),
)
GRANT_FAULTS: Final = frozenset(row[0] for row in GRANT_ROWS)
"""Their codes."""
