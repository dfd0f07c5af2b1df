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
    "expire_time": "`expireTime` is not a time",
}


def accept_token(
    response: IssuerResponse, issuer: IssuerSettings, *, now: float, issued_type: str = "", intermediate: bool = False
) -> TokenResponse:
    """Return the token of a success. Raises GrantFailure. `now` is the wall clock; `intermediate` as in `parse_token_response`."""
    if response.status != 200:
        raise classify_refusal(response, now)
    try:
        return parse_token_response(
            response.fields,
            response.body,
            issued_type=issued_type,
            token_bytes_max=issuer.max_token_bytes,
            intermediate=intermediate,
        )
    except BadTokenResponse as bad:
        raise unacceptable(bad.reason) from None


def unacceptable(reason: str) -> GrantFailure:
    """The failure for a success with a body that cannot be accepted."""
    text = _REASONS.get(reason, "the token is not what was asked for")
    return GrantFailure(GrantFailureClass.INVESTIGATE, "issuer_answer_invalid", f"{reason}: {text}; check the issuer")


def classify_refusal(response: IssuerResponse, now: float) -> GrantFailure:
    """Return the failure for a status other than 200."""
    code = parse_token_error(response.body)
    if code == "invalid_grant" and is_refusal(response.status):
        text = "invalid_grant: the issuer refused the identity token; check that the issuer trusts this identity"
        return GrantFailure(GrantFailureClass.REAUTHORIZE, "subject_refused", text, issuer_error=code)
    return refusal_by_status(response, now, code=code, passing=code in _PASSING, throttled=response.status == 429)


def is_refusal(status: int) -> bool:
    """Whether a status is about the request, and neither a passing condition nor another place."""
    return 400 <= status < 500 and status not in (408, 429)


def refusal_by_status(
    response: IssuerResponse, now: float, *, code: str, passing: bool, throttled: bool, request_id: str = ""
) -> GrantFailure:
    """The failure of a status other than 200, where `code`, what the issuer says, has no meaning of its own but `passing`."""
    status, fix = response.status, GrantFailureClass.FIX_CONFIGURATION
    if 300 <= status < 400:
        text = f"status_{status}: redirects of an issuer are not followed; name the final token endpoint"
        return GrantFailure(fix, "issuer_redirected", text)
    if status < 400:
        text = f"status_{status}: a success is a 200; check the issuer"
        return GrantFailure(GrantFailureClass.INVESTIGATE, "issuer_answer_invalid", text)
    if status in (408, 429) or status >= 500 or passing:
        after_s = parse_retry_after(response.fields.get("retry-after"), now) if throttled or status >= 500 else None
        public = "issuer_rate_limited" if throttled else "issuer_unavailable"
        text = f"{code or f'status_{status}'}: the issuer cannot serve this now"
        return GrantFailure(
            GrantFailureClass.RETRY,
            public,
            text,
            retry_after_s=after_s,
            throttled=throttled,
            issuer_error=code,
            request_id=request_id,
        )
    text = f"{code or f'status_{status}'}: the issuer refused the request; check the grant in the profile, and the client at the issuer"
    return GrantFailure(fix, "grant_refused", text, issuer_error=code, request_id=request_id)
