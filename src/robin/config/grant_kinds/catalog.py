"""Kinds of grants in profiles, by name: an explicit table, one row per file. `grants/catalog.py` has how they ask."""

from typing import Final

from robin.config.grant_kinds.aws_web_identity import AWS_WEB_IDENTITY
from robin.config.grant_kinds.azure_federation import AZURE_FEDERATION
from robin.config.grant_kinds.chain import CHAIN
from robin.config.grant_kinds.client_credentials import CLIENT_CREDENTIALS
from robin.config.grant_kinds.forward import FORWARD
from robin.config.grant_kinds.gcp_federation import GCP_FEDERATION
from robin.config.grant_kinds.jwt_bearer import JWT_BEARER
from robin.config.grant_kinds.kind import GrantKind
from robin.config.grant_kinds.static_file import STATIC_FILE
from robin.config.grant_kinds.token_exchange import TOKEN_EXCHANGE

_KINDS: Final = (
    *(CLIENT_CREDENTIALS, FORWARD, JWT_BEARER, TOKEN_EXCHANGE, CHAIN, STATIC_FILE),
    *(AWS_WEB_IDENTITY, GCP_FEDERATION, AZURE_FEDERATION),
)
KINDS: Final[dict[str, GrantKind]] = {kind.name: kind for kind in _KINDS}
