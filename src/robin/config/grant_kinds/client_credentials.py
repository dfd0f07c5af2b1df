"""`client_credentials`: the workload asks for itself. It has no keys of its own."""

from typing import Final

from robin.config.compiling import Compiling
from robin.config.grant_kinds.kind import GrantKind
from robin.config.profile_parts import TokenGrant
from robin.grants.settings import GrantPlan


def _compile(compiling: Compiling, grant: TokenGrant) -> GrantPlan | None:
    if not compiling.check_endpoint(grant):
        return None
    audience = compiling.assertion_audience(grant, sent=grant.client_auth != "none")
    if grant.preset == "keycloak" and grant.audience:
        text = "Keycloak takes no notice of `audience` with client_credentials"
        compiling.warn(grant.at, "audience_ignored", text, "add the audience to the client's scopes at Keycloak, or use token_exchange")
    return compiling.plan(
        identity=compiling.identity(audience) if grant.client_auth == "identity" else "",
        audience=audience,
        settings=compiling.token_request(grant, audience),
        key_file=compiling.key_file(grant),
    )


CLIENT_CREDENTIALS: Final = GrantKind(name="client_credentials", compile=_compile)
