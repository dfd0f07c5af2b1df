"""Grant kinds by name: an explicit table, one row per kind in `grants/kinds/`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from robin.grants.grant import Flow, Grant
from robin.grants.kinds import forward
from robin.identity.identity import Identity
from robin.model.identity import IdentityToken


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantKind:
    """How a kind starts its flow, and whether it calls an issuer."""

    flow: Callable[[IdentityToken, float], Flow]
    calls_issuer: bool


GRANTS: Final[dict[str, GrantKind]] = {
    "forward": GrantKind(flow=forward.flow, calls_issuer=False),
}


def build_grant(kind: str, identity: Identity) -> Grant:
    """Return the grant of a kind that needs an identity and no other settings."""
    row = GRANTS[kind]
    return Grant(name=kind, key=(kind, id(identity)), identity=identity, flow=row.flow, calls_issuer=row.calls_issuer)
