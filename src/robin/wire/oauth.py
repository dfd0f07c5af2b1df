"""Token requests and responses of OAuth 2.0 as bytes: the form, the success and the error of RFC 6749 section 5, and the injected field.

No text of an issuer leaves this module but the access token, as a Secret, and words that it has in a list of its own.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from robin.model.secret import Secret

FORM: Final = "application/x-www-form-urlencoded"
ISSUER_ERRORS: Final = frozenset(
    "invalid_request invalid_client invalid_grant unauthorized_client unsupported_grant_type invalid_scope invalid_target "
    "temporarily_unavailable server_error slow_down".split()
)
"""The error codes that may be shown; any other text of an issuer is its own prose."""

_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ENCODED: Final = tuple(bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in range(256))
_TOKEN68: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
_JSON_TYPE: Final = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json", re.IGNORECASE)
_DIGITS: Final = re.compile(r"[0-9]{1,18}")


class BadTokenResponse(Exception):
    """A success that cannot be accepted. `reason` is one stable word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenResponse:
    """A success (RFC 6749 section 5.1). `expires_in_s` None: the issuer does not say; at most 0: not to be kept.

    `expires_at` is the `exp` of a token that is a JWT, `audiences` its `aud`: neither is verified; None for other tokens.
    """

    access_token: Secret
    expires_in_s: float | None
    scopes: frozenset[str] | None
    expires_at: float | None
    audiences: tuple[str, ...] | None


def render_form(parameters: Iterable[tuple[str, str | Secret]]) -> Secret:
    """`application/x-www-form-urlencoded` in the order given; every byte but the unreserved ones of RFC 3986 is percent-encoded."""
    pairs = (_encode(name.encode()) + b"=" + _encode(_bytes(value)) for name, value in parameters)
    return Secret(b"&".join(pairs))


def _bytes(value: str | Secret) -> bytes:
    return value.reveal() if isinstance(value, Secret) else value.encode()


def _encode(octets: bytes) -> bytes:
    return b"".join(_ENCODED[byte] for byte in octets)


def render_field(name: str, prefix: str, token: Secret) -> Secret:
    """One whole header line, `name: prefix token`."""
    return Secret(name.encode("ascii") + b": " + prefix.encode("ascii") + token.reveal() + b"\r\n")


def parse_token_response(fields: dict[str, str], body: Secret, *, issued_type: str, token_bytes_max: int) -> TokenResponse:
    """Parse the body of a 200. `issued_type`: the type asked for (RFC 8693), "" where none was. Raises BadTokenResponse."""
    if fields.get("content-encoding", "identity").lower() != "identity":
        raise BadTokenResponse("content_coding")
    if _JSON_TYPE.fullmatch(fields.get("content-type", "").partition(";")[0].strip()) is None:
        raise BadTokenResponse("media_type")
    members = _parse_object(body)
    token = members.get("access_token")
    if not isinstance(token, str) or len(token) > token_bytes_max or _TOKEN68.fullmatch(token) is None:
        raise BadTokenResponse("access_token")
    kind = members.get("token_type")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise BadTokenResponse("token_type")
    issued = members.get("issued_token_type")
    if issued is not None and not _is_type_asked_for(issued, issued_type):
        raise BadTokenResponse("issued_token_type")
    scope = members.get("scope")
    claims = _claims(token)
    return TokenResponse(
        access_token=Secret(token.encode("ascii")),
        expires_in_s=_seconds(members["expires_in"]) if "expires_in" in members else None,
        scopes=frozenset(scope.split()) if isinstance(scope, str) else None,
        expires_at=_number(claims.get("exp")) if claims is not None else None,
        audiences=_audiences(claims.get("aud")) if claims is not None else None,
    )


def parse_token_error(body: Secret) -> str:
    """The `error` of a refusal (RFC 6749 section 5.2), if it is one of ISSUER_ERRORS; else ""."""
    try:
        code = _parse_object(body).get("error")
    except BadTokenResponse:
        return ""
    return code if isinstance(code, str) and code in ISSUER_ERRORS else ""


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds from `now`, the wall clock, of a Retry-After (RFC 9110 section 10.2.3): a number or a date. None for anything else."""
    if value is None:
        return None
    if _DIGITS.fullmatch(value) is not None:
        return float(value)
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - the sidecar, which reads challenges only, does not load it

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def parse_bearer_error(values: Iterable[bytes]) -> str | None:
    """The `error` of the Bearer challenge in WWW-Authenticate (RFC 6750 section 3), "" if it has none; None without such a challenge."""
    for value in values:
        found = _BEARER.search(value)
        if found is not None:
            error = _ERROR.search(value, found.end())
            return "" if error is None else (error[1] or error[2]).decode("latin-1")
    return None


_BEARER: Final = re.compile(rb"(?:^|,)\s*bearer(?=\s|,|$)", re.IGNORECASE)
_ERROR: Final = re.compile(rb'(?:[\s,])error\s*=\s*(?:"([^"]*)"|([^\s,"]+))', re.IGNORECASE)

_ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name
_JWT: Final = "urn:ietf:params:oauth:token-type:jwt"


def _is_type_asked_for(issued: object, asked: str) -> bool:
    wanted = asked or _ACCESS_TOKEN
    return issued == wanted or (wanted == _ACCESS_TOKEN and issued == _JWT)


def _parse_object(body: Secret) -> dict[str, object]:
    try:
        found = json.loads(body.reveal().decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except BadTokenResponse:
        raise
    except (ValueError, RecursionError):  # JSON, UTF-8, and integers of thousands of digits
        raise BadTokenResponse("json") from None
    if not isinstance(found, dict):
        raise BadTokenResponse("json")
    return found


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadTokenResponse("duplicate_member")
    return found


def _refuse(_: str) -> object:
    raise BadTokenResponse("json")


def _seconds(value: object) -> float:
    """An integer, an integral float, or digits in a string (some issuers write it so)."""
    if isinstance(value, str) and _DIGITS.fullmatch(value) is not None:
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e15 or value != int(value):
        raise BadTokenResponse("expires_in")
    return float(value)


def _claims(token: str) -> dict[str, object] | None:
    """The claims of a token that looks like a signed JWT; None for others. Nothing is verified: only lives are shortened by it."""
    segments = token.split(".")
    if len(segments) != 3 or len(segments[1]) % 4 == 1:
        return None
    try:
        found = json.loads(base64.urlsafe_b64decode(segments[1] + "=" * (-len(segments[1]) % 4)))
    except (ValueError, RecursionError, binascii.Error):
        return None
    return found if isinstance(found, dict) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        return None
    return float(value)


def _audiences(value: object) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    return tuple(one for one in listed if isinstance(one, str))
