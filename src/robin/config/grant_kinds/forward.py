"""`forward`: the identity token itself is the credential, and `audience` is its audience."""

from typing import Final

from robin.config.compiling import Compiling
from robin.config.grant_kinds.kind import GrantKind
from robin.config.profile_parts import TokenGrant
from robin.grants.settings import GrantPlan


def _compile(compiling: Compiling, grant: TokenGrant) -> GrantPlan | None:
    if not grant.audience:
        compiling.error(grant.at, "value_invalid", "grant_type forward needs an audience", "add `audience`")
        return None
    return compiling.plan(identity=compiling.identity(grant.audience), audience=grant.audience, settings=None)


FORWARD: Final = GrantKind(name="forward", compile=_compile, calls_token_endpoint=False)
