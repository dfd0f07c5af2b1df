"""What an origin accepts: the header lines that a grant made, kept secret, and what the record may say about them."""

from dataclasses import dataclass

from robin.model.identity import IdentityToken
from robin.model.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Credential:
    """The header fields to inject. Each of `fields` is a whole line, `Name: value CRLF`; () injects nothing.

    `note` names the grant for the record. `identity` is the token that it was made from (subject, audience and expiry for the record).
    `token` is what an issuer gave, where the field that it is written to depends on the request and not on the grant: then `fields` is
    empty. `parts`: the credentials that this one was put together from, so that each can be replaced alone.
    """

    fields: tuple[Secret, ...]
    note: str
    identity: IdentityToken | None
    token: Secret | None = None
    parts: tuple["Credential", ...] = ()


NO_CREDENTIAL = Credential(fields=(), note="", identity=None)
"""For routes without a grant."""
