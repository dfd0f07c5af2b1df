"""`azure_federation`: the token of an application of Microsoft Entra that trusts the workload by a federated credential."""

from dataclasses import dataclass
from typing import Any, Final

from robin.config.compiling import Compiling
from robin.config.grant_kinds.clouds import check_form, plan_of_cloud, refuse_keys
from robin.config.grant_kinds.kind import GrantKind, Reading
from robin.config.profile_fields import text
from robin.config.profile_parts import TokenGrant
from robin.grants.cloud_settings import ENTRA_AUTHORITY, AzureSettings
from robin.grants.settings import GrantPlan

NAME: Final = "azure_federation"
_TENANT: Final = r"(?!(?:common|organizations|consumers)$)[A-Za-z0-9][A-Za-z0-9.-]{0,252}"
_AUTHORITY: Final = r"https?://[!-.0->@-~]+/?"


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureOptions:
    """The keys of the kind."""

    tenant: str
    authority_host: str


def _read(reading: Reading) -> AzureOptions:
    keys, error = reading.keys, reading.findings.error
    refuse_keys(reading, NAME, "check_scope")
    scopes = keys.texts("scopes")
    if len(scopes) != 1 or not scopes[0].endswith("/.default"):
        error(
            keys.place("scopes"),
            "value_invalid",
            "scopes is not one that ends in /.default",
            "write it such as https://vault.azure.net/.default",
        )
    return AzureOptions(
        tenant=check_form(reading, "tenant", _TENANT, "value_invalid", "the id or a domain of one tenant"),
        authority_host=check_form(reading, "authority_host", _AUTHORITY, "value_invalid", "a URL without a path"),
    )


def _pinned(options: Any) -> dict[str, object]:
    host = options.authority_host
    return {"tenant": options.tenant, "authority_host": "" if host == ENTRA_AUTHORITY else host}


def _compile(compiling: Compiling, grant: TokenGrant) -> GrantPlan | None:
    scope = grant.scopes[0] if grant.scopes else ""
    return plan_of_cloud(compiling, grant, AzureSettings(token_endpoint=grant.token_endpoint, client_id=grant.client_id, scope=scope))


AZURE_FEDERATION: Final = GrantKind(
    name=NAME,
    compile=_compile,
    preset="entra",
    fields=(
        text("tenant", "of entra: its id, or a domain of it"),
        text("authority_host", f"of entra: {ENTRA_AUTHORITY} by default", default=ENTRA_AUTHORITY),
    ),
    read=_read,
    pinned=_pinned,
)
