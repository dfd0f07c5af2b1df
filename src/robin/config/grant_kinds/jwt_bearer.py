"""`jwt_bearer`: a JWT of the subject is the authorization; the client is not authenticated unless `client_auth` says how."""

from typing import Any, Final

from robin.config.compiling import Compiling
from robin.config.grant_kinds.kind import GrantKind
from robin.config.grant_kinds.subject import SUBJECT_TOKEN, Subject, is_of_others, pinned_subject, plan_exchange, read_subject
from robin.config.profile_parts import TokenGrant
from robin.grants.settings import GrantPlan


def _compile(compiling: Compiling, grant: TokenGrant) -> GrantPlan | None:
    subject = grant.options
    assert isinstance(subject, Subject)
    return plan_exchange(compiling, grant, subject)


def _pinned(subject: Any) -> dict[str, object]:
    return {"subject_token": pinned_subject(subject)}


JWT_BEARER: Final = GrantKind(
    name="jwt_bearer",
    compile=_compile,
    fields=(SUBJECT_TOKEN,),
    read=read_subject,
    pinned=_pinned,
    client_auth="none",
    others_tokens=is_of_others,
)
