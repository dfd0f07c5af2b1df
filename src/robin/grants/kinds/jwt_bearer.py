"""Grant `jwt_bearer` (RFC 7523 section 2.1): a JWT of the subject is the authorization itself; the client need not be authenticated.

Security: as for `client_credentials`; with a subject of a file or a caller, the token endpoint gets a token of another party.
"""

from typing import Final

from robin.grants.grant import Flow, Inputs
from robin.grants.settings import TokenRequestSettings
from robin.grants.token_request import Parameters, asked_for, call_token_endpoint, client_parameters, subject_of

_TYPE: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"


def flow(settings: TokenRequestSettings, inputs: Inputs, now: float) -> Flow:
    """Ask the token endpoint once. Raises GrantFailure."""
    subject = subject_of(settings, inputs)
    return (yield from call_token_endpoint(settings, inputs, now, lambda: form_of(settings, inputs, now), subject=subject))


def form_of(settings: TokenRequestSettings, inputs: Inputs, now: float) -> Parameters:
    """The parameters of the call, in their order."""
    return [
        ("grant_type", _TYPE),
        ("assertion", subject_of(settings, inputs).value),
        *client_parameters(settings, inputs, now),
        *asked_for(settings, inputs.audience),
    ]
