"""Presets: the defaults of well-known issuers, what each requires, and what it refuses. One row per preset.

Sources: the pages of Keycloak, Okta and Auth0 on client authentication with signed JWTs and on token exchange; the pages of AWS, Google
and Microsoft Entra on workload identity federation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from robin.config.profile_keys import Keys
from robin.config.profile_parts import TokenGrant
from robin.grants.cloud_settings import AWS_AUDIENCE, ENTRA_AUDIENCE, GOOGLE_STS, entra_endpoint, google_audience, sts_endpoint
from robin.grants.settings import ASSERTION_TYP, JWT_BEARER, ClientAuth

_JWT: Final = "JWT"


def _nothing(_keys: Keys) -> str:
    return ""


def _no_audience(_keys: Keys, _endpoint: str) -> str:
    return ""


def _accept(_grant: TokenGrant) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One issuer. `grant_type`, `client_auth` None: the defaults of the file and of the kind.

    `requires` are keys of the token_grant. `token_endpoint` is made of its keys, and `audience` (that of assertions; "" for the general
    rules) of them and the endpoint; `assertion_type` "": by the identity token. `algorithms`, `typ` and `shares_audience` are as in
    `TokenGrant`. `refuses` returns why a grant cannot work with this issuer.
    """

    requires: tuple[str, ...]
    grant_type: str = "client_credentials"
    client_auth: ClientAuth | None = None
    token_endpoint: Callable[[Keys], str] = _nothing
    audience: Callable[[Keys, str], str] = _no_audience
    assertion_type: str = JWT_BEARER
    typ: str = ASSERTION_TYP
    algorithms: frozenset[str] = frozenset()
    shares_audience: bool = False
    refuses: Callable[[TokenGrant], str] = _accept


def _issuer(keys: Keys, _endpoint: str) -> str:
    return keys.text("issuer")


def _endpoint(_keys: Keys, endpoint: str) -> str:
    return endpoint


def _keycloak_endpoint(keys: Keys) -> str:
    return keys.text("issuer").rstrip("/") + "/protocol/openid-connect/token"


def _okta_endpoint(keys: Keys) -> str:
    """An org authorization server is named by its host alone, and has another path than the custom ones."""
    issuer = keys.text("issuer").rstrip("/")
    return issuer + ("/v1/token" if urlsplit(issuer).path.strip("/") else "/oauth2/v1/token")


def _auth0_endpoint(keys: Keys) -> str:
    return keys.text("issuer") + "oauth/token"


def _keycloak_refuses(grant: TokenGrant) -> str:
    if grant.client_auth == "identity" and grant.client_id:
        return "Keycloak finds the client by the subject of the identity token: there is no client_id"
    return ""


def _okta_refuses(grant: TokenGrant) -> str:
    return "Okta demands iss = sub = client_id, which no token of a platform has" if grant.client_auth == "identity" else ""


def _auth0_refuses(grant: TokenGrant) -> str:
    if grant.client_auth == "identity":
        return "Auth0 demands iss = sub = client_id, which no token of a platform has"
    if not grant.issuer.endswith("/"):
        return "the issuer of an Auth0 tenant ends in /"
    kind = getattr(getattr(grant.options, "subject", None), "type", "")
    return "Auth0 takes no subject_token_type that begins with urn:ietf" if kind.startswith("urn:ietf") else ""


def _sts_endpoint(keys: Keys) -> str:
    return sts_endpoint(keys.text("region"))


def _entra_endpoint(keys: Keys) -> str:
    return entra_endpoint(keys.text("authority_host"), keys.text("tenant"))


def _google_audience(keys: Keys, _endpoint: str) -> str:
    return google_audience(keys.text("workload_provider"))


def _only(kind: str) -> Callable[[TokenGrant], str]:
    def refuse(grant: TokenGrant) -> str:
        return "" if grant.kind == kind else f"the preset is that of grant_type {kind}"

    return refuse


PRESETS: Final[dict[str, Preset]] = {
    "keycloak": Preset(
        requires=("issuer",), token_endpoint=_keycloak_endpoint, audience=_issuer, assertion_type="", refuses=_keycloak_refuses
    ),
    "okta": Preset(
        requires=("issuer", "client_id", "scopes"),
        client_auth="private_key_jwt",
        token_endpoint=_okta_endpoint,
        audience=_endpoint,
        typ=_JWT,
        refuses=_okta_refuses,
    ),
    "auth0": Preset(
        requires=("issuer", "client_id", "audience"),
        client_auth="private_key_jwt",
        token_endpoint=_auth0_endpoint,
        audience=_issuer,
        typ=_JWT,
        refuses=_auth0_refuses,
    ),
    "aws": Preset(
        requires=("role_arn", "region"),
        grant_type="aws_web_identity",
        token_endpoint=_sts_endpoint,
        audience=lambda _keys, _endpoint: AWS_AUDIENCE,
        shares_audience=True,
        refuses=_only("aws_web_identity"),
    ),
    "google": Preset(
        requires=("workload_provider",),
        grant_type="gcp_federation",
        token_endpoint=lambda _: GOOGLE_STS,
        audience=_google_audience,
        shares_audience=True,
        refuses=_only("gcp_federation"),
    ),
    "entra": Preset(
        requires=("tenant", "client_id"),
        grant_type="azure_federation",
        token_endpoint=_entra_endpoint,
        audience=lambda _keys, _endpoint: ENTRA_AUDIENCE,
        shares_audience=True,
        refuses=_only("azure_federation"),
    ),
}
NO_PRESET: Final = Preset(requires=())
