"""Grant `client_credentials` (RFC 6749 section 4.4): the identity token is the client assertion (RFC 7523 section 2.2, SPIFFE draft).

Security: the assertion is sent to one token endpoint, over TLS or loopback; an issuer that is not the one of its audience could replay it.
"""

from typing import Final

from robin import __version__
from robin.grants.grant import Flow, GrantFailure, GrantFailureClass, IssuedCredential, usable_s
from robin.grants.issuer_response import accept_token, unacceptable
from robin.grants.settings import ClientCredentialsSettings, Strictness
from robin.identity.issuer import IssuerRequest
from robin.model.identity import IdentityToken
from robin.model.secret import Secret
from robin.wire.oauth import FORM, TokenResponse, render_form

_LEAST_LEFT_S: Final = 5.0
_FIELDS: Final = (
    ("Content-Type", Secret(FORM.encode())),
    ("Accept", Secret(b"application/json")),
    ("User-Agent", Secret(f"robin/{__version__}".encode())),
)


def flow(settings: ClientCredentialsSettings, identity: IdentityToken, now: float) -> Flow:
    """Ask the token endpoint once. Returns the access token, usable as long as it and the settings allow. Raises GrantFailure."""
    if settings.client_auth == "identity":
        check_assertion(identity, settings.assertion_audience, now)
    response = yield IssuerRequest(
        method="POST",
        url=settings.token_endpoint,
        fields=_FIELDS,
        body=render_form(_parameters(settings, identity)),
        ca_file=settings.issuer.ca_file,
        limit_bytes=settings.issuer.max_response_bytes,
    )
    token = accept_token(response, settings.issuer, now=now)
    _check_scope(settings.check_scope, settings.scopes, token)
    _check_audience(settings.check_audience, settings.audience, token)
    return IssuedCredential(token=token.access_token, usable_s=_usable_s(settings, token, now))


def check_assertion(identity: IdentityToken, audience: str, now: float) -> None:
    """Raise GrantFailure unless this identity token may be sent as an assertion to the issuer of `audience`."""
    if identity.audiences != (audience,):
        count = len(identity.audiences)
        found = "no readable audience" if not count else f"{count} audiences" if count > 1 else "another audience"
        raise _unsuitable(f"bad_aud: the identity token has {found}; the issuer needs {audience[:200]} alone")
    if identity.expires_at is None or identity.expires_at <= now + _LEAST_LEFT_S:
        raise _unsuitable("expired: the identity token has less than 5 s left; check that the platform rotates it")


def _unsuitable(detail: str) -> GrantFailure:
    return GrantFailure(GrantFailureClass.FIX_CONFIGURATION, "assertion_unsuitable", detail)


def _parameters(settings: ClientCredentialsSettings, identity: IdentityToken) -> list[tuple[str, str | Secret]]:
    parameters: list[tuple[str, str | Secret]] = [("grant_type", "client_credentials")]
    if settings.client_auth == "identity":
        parameters += [("client_assertion_type", settings.assertion_type), ("client_assertion", identity.value)]
    if settings.client_id:
        parameters.append(("client_id", settings.client_id))
    if settings.audience:
        parameters.append(("audience", settings.audience))
    parameters += [("resource", resource) for resource in settings.resources]
    if settings.scopes:
        parameters.append(("scope", " ".join(settings.scopes)))
    return parameters + list(settings.extra)


def _check_scope(strictness: Strictness, asked: tuple[str, ...], token: TokenResponse) -> None:
    """A response without `scope` granted what was asked for (RFC 6749 section 5.1)."""
    if strictness == "require" and token.scopes is not None and not token.scopes.issuperset(asked):
        raise unacceptable("scope_not_granted")


def _check_audience(strictness: Strictness, asked: str, token: TokenResponse) -> None:
    if strictness == "require" and asked and token.audiences is not None and asked not in token.audiences:
        raise unacceptable("audience_not_granted")


def _usable_s(settings: ClientCredentialsSettings, token: TokenResponse, now: float) -> float:
    """A JWT ends no later than its own `exp`; the same margin for skew is taken off that."""
    issuer = settings.issuer
    lifetime_s = issuer.default_ttl_s if token.expires_in_s is None else token.expires_in_s
    if token.expires_at is not None:
        lifetime_s = min(lifetime_s, token.expires_at - now)
    return usable_s(max(0.0, lifetime_s), max_s=issuer.max_ttl_s, skew_s=issuer.skew_s, cap_s=settings.cap_s)
