"""Parts for driving Robin's wire without a process: a credential made of plain bytes, and a message cut into head and rest."""

import math

from robin.model.credential import Credential
from robin.model.identity import IdentityToken
from robin.model.secret import Secret


def credential(token: bytes) -> Credential:
    """A credential for a token that nobody verifies."""
    identity = IdentityToken(
        value=Secret(token), subject=None, audiences=(), expires_at=None, not_before_at=None, seen_at=0.0, usable_until=math.inf
    )
    return Credential(fields=(Secret(b"Authorization: Bearer " + token + b"\r\n"),), note="forward", identity=identity)


def split_message(raw: bytes) -> tuple[bytes, bytes]:
    """The head with its empty line, and what follows."""
    end = raw.index(b"\r\n\r\n") + 4
    return raw[:end], raw[end:]
