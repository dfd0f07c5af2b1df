"""What an origin accepts: the field that a grant made from an identity token."""

from dataclasses import dataclass

from robin.model.identity import IdentityToken
from robin.model.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One header field to inject. `field` is the whole line, `Name: value CRLF`, hidden; `grant` names the recipe.

    `identity` is the token it came from (subject, audience and expiry for the record).
    """

    field: Secret
    grant: str
    identity: IdentityToken
