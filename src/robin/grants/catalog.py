"""Grant kinds by name: an explicit table, one line each."""

from collections.abc import Callable
from typing import Final

from robin.grants.grant import Credentials
from robin.grants.kinds.forward import Forward
from robin.identity.identity import Identity

GRANTS: Final[dict[str, Callable[[Identity], Credentials]]] = {
    "forward": Forward,
}
