"""What an issuer's response means: a token that is accepted, or a GrantFailure with its class, code and wait."""

from typing import Final

from robin.grants.grant import GrantFailure, GrantFailureClass
from robin.grants.settings import IssuerSettings
from robin.identity.issuer import IssuerResponse
from robin.wire.oauth import BadTokenResponse, TokenResponse, parse_retry_after, parse_token_error, parse_token_response

_PASSING: Final = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
_REASONS: Final = {
    "content_coding": "the response has a content coding, though none was asked for",
    "media_type": "the response is not JSON by its media type",
    "json": "the body is not one JSON object",
    "duplicate_member": "a member is there twice",
    "access_token": "`access_token` is absent, too long, or not a token of RFC 6750",
    "token_type": "`token_type` is not Bearer",
    "issued_token_type": "the issuer issued another type of token than was asked for",
    "expires_in": "`expires_in` is not a number of seconds",
}


def accept_token(response: IssuerResponse, issuer: IssuerSettings, *, now: float, issued_type: str = "") -> TokenResponse:
    """Return the token of a success. Raises GrantFailure. `now` is the wall clock."""
    if response.status != 200:
        raise classify_refusal(response, now)
    try:
        return parse_token_response(response.fields, response.body, issued_type=issued_type, token_bytes_max=issuer.max_token_bytes)
    except BadTokenResponse as bad:
        raise unacceptable(bad.reason) from None


def unacceptable(reason: str) -> GrantFailure:
    """The failure for a success with a body that cannot be accepted."""
    text = _REASONS.get(reason, "the token is not what was asked for")
    return GrantFailure(GrantFailureClass.INVESTIGATE, "issuer_answer_invalid", f"{reason}: {text}; check the issuer")


def classify_refusal(response: IssuerResponse, now: float) -> GrantFailure:
    """Return the failure for a status other than 200."""
    status, code = response.status, parse_token_error(response.body)
    if 300 <= status < 400:
        text = f"status_{status}: redirects of an issuer are not followed; name the final token endpoint"
        return GrantFailure(GrantFailureClass.FIX_CONFIGURATION, "issuer_redirected", text)
    if status < 400:
        text = f"status_{status}: a success is a 200; check the issuer"
        return GrantFailure(GrantFailureClass.INVESTIGATE, "issuer_answer_invalid", text)
    if status in (408, 429) or status >= 500 or code in _PASSING:
        after_s = parse_retry_after(response.fields.get("retry-after"), now) if status == 429 or status >= 500 else None
        throttled = status == 429
        public = "issuer_rate_limited" if throttled else "issuer_unavailable"
        text = f"{code or f'status_{status}'}: the issuer cannot serve this now"
        return GrantFailure(GrantFailureClass.RETRY, public, text, retry_after_s=after_s, throttled=throttled, issuer_error=code)
    if code == "invalid_grant":
        text = "invalid_grant: the issuer refused the identity token; check that the issuer trusts this identity"
        return GrantFailure(GrantFailureClass.REAUTHORIZE, "subject_refused", text, issuer_error=code)
    text = f"{code or f'status_{status}'}: the issuer refused the request; check the grant in the profile, and the client at the issuer"
    return GrantFailure(GrantFailureClass.FIX_CONFIGURATION, "grant_refused", text, issuer_error=code)
