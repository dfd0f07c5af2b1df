"""Token requests and responses of OAuth 2.0 as bytes: the form, the success and the error of RFC 6749 section 5, and the injected field.

No text of an issuer leaves this module but the access token, as a Secret, and words that it has in a list of its own.
"""

import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from robin.model.secret import Secret
from robin.wire.compact_jws import decode_base64url

ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name
JWT: Final = "urn:ietf:params:oauth:token-type:jwt"
FORM: Final = "application/x-www-form-urlencoded"
ISSUER_ERRORS: Final = frozenset(
    "invalid_request invalid_client invalid_grant unauthorized_client unsupported_grant_type invalid_scope invalid_target "
    "temporarily_unavailable server_error slow_down".split()
)
"""The error codes that may be shown; any other text of an issuer is its own prose."""

_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ENCODED: Final = tuple(bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in range(256))
_TOKEN68: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
_VISIBLE: Final = re.compile(rb"[!-~](?:[ -~]*[!-~])?")
_JSON_TYPE: Final = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json", re.IGNORECASE)
_SCOPE: Final = re.compile(r"[!#-\[\]-~]+")
_SCOPES_CHARS: Final = 4096
_TELLING_CHARS: Final = 8  # no other text holds so long a token by chance
_DIGITS: Final = re.compile(r"[0-9]{1,18}")
_REQUEST_ID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})")
_FRACTION: Final = re.compile(r"\.[0-9]+")


class BadTokenResponse(Exception):
    """A success that cannot be accepted. `reason` is one stable word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenResponse:
    """A success (RFC 6749 section 5.1). `expires_in_s` None: the issuer does not say; at most 0: not to be kept.

    `expires_at` is the `exp` of a token that is a JWT, `audiences` its `aud`: neither is verified; None for other tokens. `issued_type`:
    what the issuer says the token is (RFC 8693 section 2.2.1), "" where it does not.
    """

    access_token: Secret
    expires_in_s: float | None
    scopes: frozenset[str] | None
    expires_at: float | None
    audiences: tuple[str, ...] | None
    issued_type: str = ""


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


def basic_pair(username: str, token: Secret) -> Secret:
    """What the scheme Basic writes for a user name and a token as its password (RFC 7617 section 2)."""
    return Secret(binascii.b2a_base64(username.encode("ascii") + b":" + token.reveal(), newline=False))


def parse_token_response(
    fields: dict[str, str], body: Secret, *, issued_type: str, token_bytes_max: int, intermediate: bool = False
) -> TokenResponse:
    """Parse the body of a 200. Raises BadTokenResponse.

    `issued_type`: the type asked for (RFC 8693), "" where none was. `intermediate`: the token is only exchanged for another one, so its
    `token_type` may be N_A.
    """
    members = _parse_json_object(fields, body)
    token = members.get("access_token")
    if not isinstance(token, str) or len(token) > token_bytes_max or _TOKEN68.fullmatch(token) is None:
        raise BadTokenResponse("access_token")
    kind = members.get("token_type")
    if not isinstance(kind, str) or kind.lower() not in (("bearer", "n_a") if intermediate else ("bearer",)):
        raise BadTokenResponse("token_type")
    issued = members.get("issued_token_type")
    if issued is not None and not _is_type_asked_for(issued, issued_type):
        raise BadTokenResponse("issued_token_type")
    scope = members.get("scope")
    claims = _claims(token)
    return TokenResponse(
        access_token=Secret(token.encode("ascii")),
        expires_in_s=_seconds(members["expires_in"]) if "expires_in" in members else None,
        scopes=_scopes(scope, token) if isinstance(scope, str) else None,
        expires_at=_number(claims.get("exp")) if claims is not None else None,
        audiences=_audiences(claims.get("aud")) if claims is not None else None,
        issued_type=issued if isinstance(issued, str) else "",
    )


def clean_token(content: Secret, bytes_max: int) -> Secret | None:
    """The token in the content of a file or field, without one end of line; None where that is not one line of visible ASCII."""
    octets = content.reveal()
    for end in (b"\r\n", b"\n"):
        if octets.endswith(end):
            octets = octets[: -len(end)]
            break
    fits = 0 < len(octets) <= bytes_max and _VISIBLE.fullmatch(octets) is not None
    return Secret(octets) if fits else None


def strip_bearer(content: Secret, bytes_max: int) -> Secret | None:
    """The token in a field, without the word Bearer before it; None where it is no token."""
    octets = content.reveal()
    if octets[:7].lower() == b"bearer ":
        octets = octets[7:].strip(b" ")
    fits = len(octets) <= bytes_max and _TOKEN68.fullmatch(octets.decode("latin-1")) is not None
    return Secret(octets) if fits else None


def token_expires_at(token: Secret) -> float | None:
    """The `exp` of a token that looks like a JWT, unverified; None for others."""
    try:
        claims = _claims(token.reveal().decode("ascii"))
    except UnicodeDecodeError:
        return None
    return None if claims is None else _number(claims.get("exp"))


def parse_token_error(body: Secret) -> str:
    """The `error` of a refusal (RFC 6749 section 5.2), if it is one of ISSUER_ERRORS; else ""."""
    try:
        code = _parse_object(body).get("error")
    except BadTokenResponse:
        return ""
    return code if isinstance(code, str) and code in ISSUER_ERRORS else ""


def parse_impersonated(fields: dict[str, str], body: Secret, *, token_bytes_max: int) -> tuple[Secret, float]:
    """The token of Google's generateAccessToken and when it ends, by Google's clock. Raises BadTokenResponse."""
    members = _parse_json_object(fields, body)
    token, until = members.get("accessToken"), members.get("expireTime")
    if not isinstance(token, str) or len(token) > token_bytes_max or _TOKEN68.fullmatch(token) is None:
        raise BadTokenResponse("access_token")
    expires_at = parse_time(until) if isinstance(until, str) else None
    if expires_at is None:
        raise BadTokenResponse("expire_time")
    return Secret(token.encode("ascii")), expires_at


def parse_correlation_id(body: Secret) -> str:
    """The id that Entra gives an error, "" without one."""
    try:
        found = _parse_object(body).get("correlation_id")
    except BadTokenResponse:
        return ""
    return found if isinstance(found, str) and _REQUEST_ID.fullmatch(found) is not None else ""


def parse_time(text: str) -> float | None:
    """Seconds since the epoch of an RFC 3339 time; None for anything else."""
    if _TIME.fullmatch(text) is None:
        return None
    try:
        return datetime.fromisoformat(_FRACTION.sub("", text)).timestamp()
    except (ValueError, OverflowError):
        return None


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds from `now`, the wall clock, of a Retry-After (RFC 9110 section 10.2.3): a number or a date. None for anything else."""
    if value is None:
        return None
    if _DIGITS.fullmatch(value) is not None:
        return float(value)
    date = parse_date(value)
    return None if date is None else max(0.0, date - now)


def parse_date(value: str | None) -> float | None:
    """Seconds since the epoch of an HTTP date (RFC 9110 section 5.6.7); None for anything else."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - the sidecar, which reads challenges only, does not load it

    try:
        return None if value is None else parsedate_to_datetime(value).timestamp()
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


def _is_type_asked_for(issued: object, asked: str) -> bool:
    wanted = asked or ACCESS_TOKEN
    return issued == wanted or (wanted == ACCESS_TOKEN and issued == JWT)


def _scopes(text: str, token: str) -> frozenset[str]:
    """Those of RFC 6749 section 3.3, as records can hold them: neither one that holds the token, nor any beyond `_SCOPES_CHARS` in all."""
    found: set[str] = set()
    left = _SCOPES_CHARS
    for scope in text.split():
        left -= len(scope) + 1
        if left < 0:
            break
        if _SCOPE.fullmatch(scope) is not None and (len(token) < _TELLING_CHARS or token not in scope):
            found.add(scope)
    return frozenset(found)


def _parse_json_object(fields: dict[str, str], body: Secret) -> dict[str, object]:
    if fields.get("content-encoding", "identity").lower() != "identity":
        raise BadTokenResponse("content_coding")
    if _JSON_TYPE.fullmatch(fields.get("content-type", "").partition(";")[0].strip()) is None:
        raise BadTokenResponse("media_type")
    return _parse_object(body)


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
    if len(segments) != 3:
        return None
    try:
        found = json.loads(decode_base64url(segments[1]))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        return None
    return float(value)


def _audiences(value: object) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    return tuple(one for one in listed if isinstance(one, str))
