"""Grant kinds by name: an explicit table, one line each.

A policy names the kind in its Permit, and the wiring builds that one. The sidecar has one kind for all requests, so nothing chooses by
`Permit.grant` or looks at `Credential.grant` while it serves; they are for a plane whose routes differ in it.
"""

from collections.abc import Callable
from typing import Final

from robin.grants.grant import Credentials
from robin.grants.kinds.forward import Forward
from robin.identity.identity import Identity

GRANTS: Final[dict[str, Callable[[Identity], Credentials]]] = {
    "forward": Forward,
}
