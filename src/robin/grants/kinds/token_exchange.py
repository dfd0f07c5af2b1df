"""Grant `token_exchange` (RFC 8693): a token of the subject becomes another one, on behalf of an actor if there is one.

Security: the token endpoint gets the subject's token; a profile that names another endpoint could collect the tokens of others, which is
what `pin` of a provider is for.
"""

from typing import Final

from robin.grants.grant import Flow, GivenToken, Inputs
from robin.grants.settings import TokenRequestSettings
from robin.grants.token_request import Parameters, asked_for, call_token_endpoint, client_parameters, subject_of

_TYPE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"


def flow(settings: TokenRequestSettings, inputs: Inputs, now: float) -> Flow:
    """Ask the token endpoint once. Raises GrantFailure."""
    subject = subject_of(settings, inputs)
    return (yield from call_token_endpoint(settings, inputs, now, lambda: form_of(settings, inputs, now), subject=subject))


def form_of(settings: TokenRequestSettings, inputs: Inputs, now: float) -> Parameters:
    """The parameters of the call, in their order."""
    subject = subject_of(settings, inputs)
    own = isinstance(subject, GivenToken) and not settings.subject_type
    parameters: Parameters = [
        ("grant_type", _TYPE),
        *client_parameters(settings, inputs, now),
        ("subject_token", subject.value),
        ("subject_token_type", subject.type if own and isinstance(subject, GivenToken) else settings.subject_type),
    ]
    if settings.actor:
        actor = inputs.identity if settings.actor == "identity" else inputs.actor
        assert actor is not None
        parameters += [("actor_token", actor.value), ("actor_token_type", settings.actor_type)]
    parameters.append(("requested_token_type", settings.requested_type))
    return [*parameters, *asked_for(settings, inputs.audience)]
