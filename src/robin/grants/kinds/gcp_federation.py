"""Grant `gcp_federation`: Google's security token service (RFC 8693), and with `impersonate` the token of a service account.

Security: the federated token of the first call is sent to the IAM Credentials API alone and is never a credential of a request then.
"""

import json
from typing import Final

from robin import __version__
from robin.grants.cloud_settings import CLOUD_PLATFORM, GcpSettings
from robin.grants.grant import Flow, Inputs, IssuedCredential, usable_s
from robin.grants.issuer_response import accept_token, classify_refusal, unacceptable
from robin.grants.preflight import GOOGLE, check_for
from robin.grants.token_request import Parameters
from robin.identity.issuer import IssuerRequest, IssuerResponse
from robin.model.secret import Secret
from robin.wire.oauth import FORM, BadTokenResponse, parse_date, parse_impersonated, render_form

_AGENT: Final = ("User-Agent", Secret(f"robin/{__version__}".encode()))
_ACCEPT: Final = ("Accept", Secret(b"application/json"))
_FIELDS: Final = (("Content-Type", Secret(FORM.encode())), _ACCEPT, _AGENT)
_ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name


def flow(settings: GcpSettings, inputs: Inputs, now: float) -> Flow:
    """Ask once, and with `impersonate` a second time. Returns the access token. Raises GrantFailure."""
    assert inputs.identity is not None
    check_for(GOOGLE, inputs.identity, settings.assertion_audience, now)
    response = yield IssuerRequest(
        method="POST",
        url=settings.token_endpoint,
        fields=_FIELDS,
        body=render_form(form_of(settings, inputs, now)),
        limit_bytes=settings.issuer.max_response_bytes,
    )
    token = accept_token(response, settings.issuer, now=now, issued_type=_ACCESS_TOKEN)
    issuer = settings.issuer
    if not settings.impersonate:
        lifetime_s = issuer.default_ttl_s if token.expires_in_s is None else token.expires_in_s
        usable = usable_s(lifetime_s, max_s=issuer.max_ttl_s, skew_s=issuer.skew_s, cap_s=settings.cap_s)
        warnings = _check_scope(settings, token.scopes)
        return IssuedCredential(token=token.access_token, usable_s=usable, scopes=token.scopes, warnings=warnings)
    response = yield IssuerRequest(
        method="POST",
        url=settings.impersonation_url,
        fields=(
            ("Authorization", token.access_token.wrapped(b"Bearer ", b"")),
            ("Content-Type", Secret(b"application/json")),
            _ACCEPT,
            _AGENT,
        ),
        body=Secret(impersonation_body(settings)),
        limit_bytes=issuer.max_response_bytes,
    )
    access_token, lifetime_s = _accept_impersonated(settings, response, now)
    usable = usable_s(lifetime_s, max_s=issuer.max_ttl_s, skew_s=issuer.skew_s, cap_s=settings.cap_s)
    return IssuedCredential(token=access_token, usable_s=usable)


def form_of(settings: GcpSettings, inputs: Inputs, _now: float) -> Parameters:
    """The parameters of the first call, in their order."""
    assert inputs.identity is not None
    scopes = settings.scopes if settings.scopes and not settings.impersonate else (CLOUD_PLATFORM,)
    return [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("audience", f"//iam.googleapis.com/{settings.workload_provider}"),
        ("scope", " ".join(scopes)),
        ("requested_token_type", _ACCESS_TOKEN),
        ("subject_token", inputs.identity.value),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
    ]


def impersonation_body(settings: GcpSettings) -> bytes:
    """The JSON of the second call."""
    delegates = [one if one.startswith("projects/") else f"projects/-/serviceAccounts/{one}" for one in settings.delegates]
    members = {
        "delegates": delegates,
        "scope": list(settings.scopes or (CLOUD_PLATFORM,)),
        "lifetime": f"{settings.impersonate_lifetime_s}s",
    }
    return json.dumps(members, separators=(",", ":")).encode()


def _accept_impersonated(settings: GcpSettings, response: IssuerResponse, now: float) -> tuple[Secret, float]:
    """The token and its life by the issuer's clock. Raises GrantFailure."""
    if response.status != 200:
        raise classify_refusal(response, now)
    try:
        token, expires_at = parse_impersonated(response.fields, response.body, token_bytes_max=settings.issuer.max_token_bytes)
    except BadTokenResponse as bad:
        raise unacceptable(bad.reason) from None
    date = parse_date(response.fields.get("date"))
    return token, max(0.0, expires_at - (now if date is None else date))


def _check_scope(settings: GcpSettings, granted: frozenset[str] | None) -> tuple[str, ...]:
    """A response without `scope` granted what was asked for (RFC 6749 section 5.1)."""
    if granted is None or settings.check_scope == "off" or granted.issuperset(settings.scopes):
        return ()
    if settings.check_scope == "require":
        raise unacceptable("scope_not_granted")
    return ("scope_not_granted",)
