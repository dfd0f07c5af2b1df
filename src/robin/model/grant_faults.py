"""The codes of grants: what issuers, bindings and endpoints of provider profiles refuse."""

from collections.abc import Mapping
from typing import Final

from robin.model.fault_kind import FaultKind, fault_table

_RETRY_AFTER_MAX_S: Final = 300
"""An issuer may ask for a pause of minutes; callers are not sent back earlier only to be refused."""

_INTERNAL: Final = "proxy_internal_error"
_DENIED: Final = "http_request_denied"
_BAD: Final = "http_request_error"

_ROWS: Final[tuple[tuple[str, int, str, str, str, int | None], ...]] = (
    ("issuer_unavailable", 503, _INTERNAL, "issuer", "The token issuer gave no response", 1),
    ("issuer_rate_limited", 503, _INTERNAL, "issuer", "The token issuer asks for a pause", 5),
    ("issuer_overloaded", 503, "connection_limit_reached", "issuer", "Too many calls to the token issuer are waiting", 1),
    ("grant_refused", 502, _INTERNAL, "issuer", "The token issuer refused the grant", 30),
    ("issuer_redirected", 502, _INTERNAL, "issuer", "The token issuer redirected the call", 30),
    ("issuer_tls_failed", 502, _INTERNAL, "issuer", "The TLS connection to the token issuer failed", 30),
    ("issuer_answer_invalid", 502, _INTERNAL, "issuer", "The response of the token issuer is not acceptable", 30),
    ("assertion_unsuitable", 502, "proxy_configuration_error", "identity", "The identity token does not suit the issuer", None),
    ("subject_refused", 502, _INTERNAL, "issuer", "The token issuer refused the subject", 60),
    ("subject_token_missing", 401, _INTERNAL, "downstream", "The request has no token to exchange", None),
    ("subject_token_expired", 502, _INTERNAL, "identity", "The token to exchange has expired", None),
    ("static_credential_unavailable", 503, _INTERNAL, "identity", "The file of the credential cannot be used", 1),
    ("binding_withdrawn", 403, _DENIED, "policy", "The credential was withdrawn", None),
    ("endpoint_closed", 403, _DENIED, "policy", "The endpoint of the profile does not allow this request", None),
    ("caller_credential_refused", 403, _DENIED, "policy", "The request carries a credential of its own", None),
    ("signing_mode_unsupported", 400, _BAD, "downstream", "The request cannot be signed as it announces its body", None),
    ("signing_body_too_large", 413, _BAD, "downstream", "The request body is too large to be signed", None),
    ("placeholder_misused", 403, _DENIED, "policy", "A placeholder is not replaced at this place", None),
)
GRANT_FAULTS: Final[Mapping[str, FaultKind]] = fault_table(((*row, False) for row in _ROWS), retry_after_max_s=_RETRY_AFTER_MAX_S)
