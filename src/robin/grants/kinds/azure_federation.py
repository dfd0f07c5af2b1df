"""Grant `azure_federation`: a federated credential of an application of Microsoft Entra; the identity token is its assertion (RFC 7523).

Security: the assertion is sent to the token endpoint of one tenant, and is good for one application there.
"""

from typing import Final

from robin import __version__
from robin.grants.cloud_settings import AzureSettings
from robin.grants.grant import Flow, GrantFailure, Inputs, IssuedCredential, usable_s
from robin.grants.issuer_response import accept_token
from robin.grants.preflight import ENTRA, check_for
from robin.grants.settings import JWT_BEARER
from robin.grants.token_request import Parameters
from robin.identity.issuer import IssuerRequest
from robin.model.secret import Secret
from robin.wire.oauth import FORM, parse_correlation_id, render_form

_FIELDS: Final = (
    ("Content-Type", Secret(FORM.encode())),
    ("Accept", Secret(b"application/json")),
    ("User-Agent", Secret(f"robin/{__version__}".encode())),
)


def flow(settings: AzureSettings, inputs: Inputs, now: float) -> Flow:
    """Ask the tenant once. Returns the access token. Raises GrantFailure."""
    assert inputs.identity is not None
    check_for(ENTRA, inputs.identity, settings.assertion_audience, now)
    response = yield IssuerRequest(
        method="POST",
        url=settings.token_endpoint,
        fields=_FIELDS,
        body=render_form(form_of(settings, inputs, now)),
        limit_bytes=settings.issuer.max_response_bytes,
    )
    issuer = settings.issuer
    try:
        token = accept_token(response, issuer, now=now)
    except GrantFailure as failure:
        failure.request_id = parse_correlation_id(response.body)
        raise
    lifetime_s = issuer.default_ttl_s if token.expires_in_s is None else token.expires_in_s
    if token.expires_at is not None:
        lifetime_s = min(lifetime_s, token.expires_at - now)
    usable = usable_s(max(0.0, lifetime_s), max_s=issuer.max_ttl_s, skew_s=issuer.skew_s, cap_s=settings.cap_s)
    return IssuedCredential(token=token.access_token, usable_s=usable, scopes=token.scopes)


def form_of(settings: AzureSettings, inputs: Inputs, _now: float) -> Parameters:
    """The parameters of the call, in their order."""
    assert inputs.identity is not None
    return [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", JWT_BEARER),
        ("client_assertion", inputs.identity.value),
        ("client_id", settings.client_id),
        ("scope", settings.scope),
    ]
