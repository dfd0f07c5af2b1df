"""Grant `client_credentials` (RFC 6749 section 4.4): the client asks for itself, with an assertion (RFC 7523 section 2.2, SPIFFE draft).

Security: the assertion is sent to one token endpoint, over TLS or loopback; an issuer that is not the one of its audience could replay it.
"""

from robin.grants.grant import Flow, Inputs
from robin.grants.settings import TokenRequestSettings
from robin.grants.token_request import Parameters, asked_for, call_token_endpoint, client_parameters


def flow(settings: TokenRequestSettings, inputs: Inputs, now: float) -> Flow:
    """Ask the token endpoint once. Returns the access token, usable as long as it and the settings allow. Raises GrantFailure."""
    return (yield from call_token_endpoint(settings, inputs, now, lambda: form_of(settings, inputs, now)))


def form_of(settings: TokenRequestSettings, inputs: Inputs, now: float) -> Parameters:
    """The parameters of the call, in their order."""
    return [("grant_type", "client_credentials"), *client_parameters(settings, inputs, now), *asked_for(settings, inputs.audience)]
