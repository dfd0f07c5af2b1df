"""What an origin accepts: the header lines that a grant made, kept secret, and what the record may say about them."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from robin.model.identity import IdentityToken
from robin.model.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SigningKeys:
    """What a request is signed with (AWS Signature Version 4). The id is no secret: it stands in each signature."""

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Credential:
    """The header fields to inject. Each of `fields` is a whole line, `Name: value CRLF`; () injects nothing.

    `note` names the grant for the record. `identity` is the token that it was made from (subject, audience and expiry for the record).
    `token` is what an issuer gave, where the field that it is written to depends on the request and not on the grant: then `fields` is
    empty. `parts`: the credentials that this one was put together from, so that each can be replaced alone. `tokens` are those in the
    fields, where a response must not show them. `single_use`: for the requests that waited for it, and no others. `facts`: what a record
    may have about it. `issued_type`: what the issuer says the token is (RFC 8693 section 3). `source`: what the fields were built of, and
    `key` names it in the cache.
    may have about it. `signing`: the keys for the signature of each request; the fields of a signature are not among `fields`.
    """

    fields: tuple[Secret, ...]
    note: str
    identity: IdentityToken | None
    token: Secret | None = None
    parts: tuple["Credential", ...] = ()
    tokens: tuple[Secret, ...] = ()
    single_use: bool = False
    facts: Mapping[str, object] = field(default_factory=dict)
    issued_type: str = ""
    source: object = None
    key: Hashable = None
    signing: SigningKeys | None = None


NO_CREDENTIAL = Credential(fields=(), note="", identity=None)
"""For routes without a grant."""
