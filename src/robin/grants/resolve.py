"""What one request gives to its grants: the tokens of its own fields and of files, and with them the key in the cache.

Two subjects never share a key: it holds the hash of each token that was given. A subject that is a JWT and about to expire is refused here,
before any call.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Final

from robin.grants.files import FileToken
from robin.grants.grant import GivenToken, Grant
from robin.grants.settings import digest_of
from robin.model.faults import Fault
from robin.model.secret import Secret
from robin.wire.jwt_inspection import fingerprint
from robin.wire.oauth import strip_bearer, token_expires_at

LEAST_LEFT_S: Final = 5.0
SUBJECT_BYTES_MAX: Final = 16384
_UNAUTHORIZED: Final = 401

CacheKey = tuple[Hashable, bytes]
"""That of the grant, and the digest of what it was given; empty where it is given nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A grant for one request."""

    grant: Grant
    key: CacheKey
    subject: GivenToken | None = None
    actor: GivenToken | None = None
    previous: "Resolved | None" = None


def own_key(grant: Grant) -> CacheKey:
    """The key of a grant that is given no tokens."""
    return grant.key, b""


def resolve(grant: Grant, subjects: Iterable[tuple[str, Secret]], now: float) -> Resolved:
    """The grant with its tokens. `subjects` are those of the request, `now` the wall clock. Raises Fault."""
    if not grant.is_given_tokens:
        previous = None if grant.previous is None else resolve(grant.previous, (), now)
        return Resolved(grant=grant, key=own_key(grant), previous=previous)
    previous = None if grant.previous is None else resolve(grant.previous, subjects, now)
    subject = actor = None
    if grant.subject_header:
        subject = _of_caller(grant.subject_header, subjects)
    elif grant.subject_file is not None:
        subject = _of_file(grant.subject_file.ready())
    if subject is not None:
        check_left(subject, now, of_caller=bool(grant.subject_header))
    if grant.actor_file is not None:
        actor = _of_file(grant.actor_file.ready())
        check_left(actor, now)
    given = [None if one is None else fingerprint(one.value).hex() for one in (subject, actor)]
    before = b"" if previous is None else previous.key[1]
    digest = digest_of(*(one or "" for one in given), before.hex())
    return Resolved(grant=grant, key=(grant.key, digest), subject=subject, actor=actor, previous=previous)


def check_left(token: GivenToken, now: float, *, of_caller: bool = False) -> None:
    """Raise Fault for a JWT that is past or about to expire."""
    if token.expires_at is not None and token.expires_at <= now + LEAST_LEFT_S:
        text = "expired: the token to be exchanged has less than 5 s left; send or write a current one"
        raise Fault("subject_token_expired", text, status=_UNAUTHORIZED if of_caller else None)


def _of_caller(name: str, subjects: Iterable[tuple[str, Secret]]) -> GivenToken:
    found = [value for other, value in subjects if other == name]
    token = strip_bearer(found[0], SUBJECT_BYTES_MAX) if len(found) == 1 else None
    if token is None:
        word = "missing" if not found else "several" if len(found) > 1 else "malformed"
        raise Fault("subject_token_missing", f"{word}: the request needs one token in the field {name}", status=_UNAUTHORIZED)
    return GivenToken(value=token, expires_at=token_expires_at(token))


def _of_file(token: FileToken) -> GivenToken:
    return GivenToken(value=token.value, expires_at=token.expires_at)
