"""How the dates of a JWT are written: AWS takes whole seconds only, where RFC 7519 section 2 allows fractions."""

import json
from typing import Final

from robin.model.secret import Secret
from robin.wire.compact_jws import decode_base64url

_DATES: Final = ("exp", "iat", "nbf")


def has_whole_dates(token: Secret) -> bool:
    """Whether `exp`, `iat` and `nbf` of a JWT are written without a fraction, where they are there. The token was inspected before."""
    try:
        claims = json.loads(decode_base64url(token.reveal().decode("ascii").split(".")[1], canonical=False))
    except (ValueError, IndexError, RecursionError):
        return False
    return isinstance(claims, dict) and all(isinstance(claims.get(name, 0), int) for name in _DATES)
