"""How a credential would be obtained, to be shown: each call with its parameters, and words in place of every token."""

from typing import Final

from robin.grants.catalog import GRANTS
from robin.grants.grant import GivenToken, Inputs
from robin.grants.settings import JWT_BEARER, JWT_SPIFFE, GrantPlan, TokenRequestSettings
from robin.model.identity import IdentityToken
from robin.model.secret import Secret
from robin.wire.client_assertion import AssertionKey

_ASSERTION: Final = "<assertion signed with the key>"
_BY_SUBJECT: Final = f"{JWT_SPIFFE} for a SPIFFE ID, else {JWT_BEARER}"


def explain_plan(plan: GrantPlan) -> dict[str, object]:
    """The last call, and the stages before it."""
    shown = _stage(plan)
    return shown if plan.previous is None else {**shown, "stages": [_stage(one) for one in plan.stages[:-1]]}


def _stage(plan: GrantPlan) -> dict[str, object]:
    shown: dict[str, object] = {"kind": plan.kind, "identity": plan.identity or None, "identity_audience": plan.audience or None}
    settings = plan.settings
    if settings is None:
        return {**shown, "file": plan.token_file} if plan.token_file else shown
    words: dict[int, str] = {}

    def token(word: str) -> Secret:
        secret = Secret(b"")
        words[id(secret)] = word
        return secret

    identity = IdentityToken(
        value=token("<identity token>"), subject=None, audiences=(), expires_at=None, not_before_at=None, seen_at=0, usable_until=0
    )
    subject = GivenToken(value=token(_subject(plan)), type="<as issued>" if plan.previous is not None else "")
    inputs = Inputs(
        identity=identity,
        subject=subject,
        actor=GivenToken(value=token("<token in the file of the actor>")),
        key=AssertionKey(algorithm="", kid="", sign=lambda _: b""),
        audience=f"<subject of the identity {plan.audience_of}>" if plan.audience_of else "",
    )
    form = [
        (name, words.get(id(value), _ASSERTION) if isinstance(value, Secret) else value)
        for name, value in GRANTS[settings.kind].form(settings, inputs, 0.0)
    ]
    if isinstance(settings, TokenRequestSettings) and settings.client_auth == "identity" and not settings.assertion_type:
        form = [(name, _BY_SUBJECT if name == "client_assertion_type" else value) for name, value in form]
    return {**shown, "token_endpoint": settings.token_endpoint, "form": form}


def _subject(plan: GrantPlan) -> str:
    if plan.previous is not None:
        return "<token of the stage before>"
    return f"<token in the field {plan.subject_header}>" if plan.subject_header else "<token in the file of the subject>"
