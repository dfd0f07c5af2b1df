"""Grant kinds that call an issuer, by name: an explicit table, one row per kind in `grants/kinds/`. `config/grant_kinds` has their keys.

`forward` and `static_file` call none: their credential is the token of the identity, or of a file. A chain is a grant behind others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from robin.grants.grant import Flow, Inputs
from robin.grants.kinds import aws_web_identity, azure_federation, client_credentials, gcp_federation, jwt_bearer, token_exchange
from robin.model.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantKind:
    """How a kind starts its flow, with its settings, what it is given and the wall clock; and the parameters that it sends, to be shown."""

    flow: Callable[[Any, Inputs, float], Flow]
    form: Callable[[Any, Inputs, float], list[tuple[str, str | Secret]]]


GRANTS: Final[dict[str, GrantKind]] = {
    "client_credentials": GrantKind(flow=client_credentials.flow, form=client_credentials.form_of),
    "jwt_bearer": GrantKind(flow=jwt_bearer.flow, form=jwt_bearer.form_of),
    "token_exchange": GrantKind(flow=token_exchange.flow, form=token_exchange.form_of),
    "aws_web_identity": GrantKind(flow=aws_web_identity.flow, form=aws_web_identity.form_of),
    "gcp_federation": GrantKind(flow=gcp_federation.flow, form=gcp_federation.form_of),
    "azure_federation": GrantKind(flow=azure_federation.flow, form=azure_federation.form_of),
}
