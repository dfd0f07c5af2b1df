"""`static_file`: the token stands in a file that `files` of the provider names, and something else renews it there."""

from typing import Final

from robin.config.compiling import Compiling
from robin.config.diagnostic import Position
from robin.config.grant_kinds.kind import OF_CALLS, GrantKind
from robin.config.profile_parts import TokenGrant
from robin.grants.settings import GrantPlan


def plan_of_file(compiling: Compiling, at: Position) -> GrantPlan:
    """The plan of a credential whose token stands in a file."""
    name = compiling.credential.name
    return compiling.plan(identity="", audience="", settings=None, token_file=compiling.file(name, at, f"the credential {name}"))


def _compile(compiling: Compiling, grant: TokenGrant) -> GrantPlan | None:
    return plan_of_file(compiling, grant.at)


STATIC_FILE: Final = GrantKind(
    name="static_file",
    compile=_compile,
    calls_token_endpoint=False,
    no_effect=OF_CALLS | {"audience", "scopes", "resource", "audience_overrides", "cache_ttl", "cache_ttl_seconds"},
)
