"""What an issuer states about itself (RFC 8414, OpenID Connect Discovery) and about a refusal, for people who look for a fault.

Its prose never leaves a running plane. Where a person asked for it, it is shown short, in ASCII, and without anything that may be a token.
"""

import base64
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from robin.model.secret import Secret
from robin.wire.strict_json import parse_json_object

_CHARS_MAX: Final = 300
_LIST_MAX: Final = 64
_TELLING_CHARS: Final = 8  # no other text holds so long a token by chance
_LONG_RUN: Final = re.compile(r"[A-Za-z0-9+/=_%-]{40,}")
_MASK: Final = "***"
_WELL_KNOWN: Final = ("oauth-authorization-server", "openid-configuration")


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerMetadata:
    """What a metadata document has of its issuer; "" or None where it does not say."""

    issuer: str
    token_endpoint: str
    grant_types: tuple[str, ...] | None
    auth_methods: tuple[str, ...] | None
    algorithms: tuple[str, ...] | None
    scopes: tuple[str, ...] | None


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Where the metadata of an issuer may be: RFC 8414 section 3.1, then OpenID Connect Discovery section 4. None for what is no URL."""
    try:
        url = urlsplit(issuer)
    except ValueError:
        return ()
    if url.scheme not in ("http", "https") or not url.netloc or "@" in url.netloc:
        return ()
    base, path = f"{url.scheme}://{url.netloc}", url.path.rstrip("/")
    return f"{base}/.well-known/{_WELL_KNOWN[0]}{path}", f"{base}{path}/.well-known/{_WELL_KNOWN[1]}"


def parse_metadata(body: Secret) -> IssuerMetadata:
    """The members that matter to a grant. Raises ValueError."""
    members = parse_json_object(body.reveal())
    issuer = _text(members, "issuer")
    if not issuer:
        raise ValueError("no issuer")
    return IssuerMetadata(
        issuer=issuer,
        token_endpoint=_text(members, "token_endpoint"),
        grant_types=_list(members, "grant_types_supported"),
        auth_methods=_list(members, "token_endpoint_auth_methods_supported"),
        algorithms=_list(members, "token_endpoint_auth_signing_alg_values_supported"),
        scopes=_list(members, "scopes_supported"),
    )


def _text(members: dict[str, object], name: str) -> str:
    value = members.get(name)
    return value[:2048] if isinstance(value, str) else ""


def _list(members: dict[str, object], name: str) -> tuple[str, ...] | None:
    value = members.get(name)
    return tuple(one[:_CHARS_MAX] for one in value[:_LIST_MAX] if isinstance(one, str)) if isinstance(value, list) else None


def masked_refusal(body: Secret, secrets: Iterable[Secret]) -> str:
    """What the body of a refusal says: `error` and `error_description` of JSON, else its beginning; secrets are masked."""
    text = body.reveal()[:8192].decode("utf-8", "replace")
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        members = None
    if isinstance(members, dict):
        text = ": ".join(str(members[name]) for name in ("error", "error_description") if isinstance(members.get(name), str))
    return masked(text, secrets)


def masked(text: str, secrets: Iterable[Secret]) -> str:
    """`text` in ASCII, at most 300 characters, without the secrets in any usual form, and without long runs that may be others."""
    for secret in secrets:
        for form in _forms(secret.reveal()):
            text = text.replace(form, _MASK)
    text = _LONG_RUN.sub(_MASK, text)
    return ascii(" ".join(text.split()))[1:-1][:_CHARS_MAX]


def _forms(octets: bytes) -> list[str]:
    """The secret and each part of it: as it is, percent-encoded, in hex, and in base64 wherever it stands in what was encoded."""
    found = {octets, *octets.split(b".")}
    forms: set[str] = set()
    for part in found:
        if len(part) < _TELLING_CHARS:
            continue
        plain = part.decode("latin-1")
        forms |= {plain, quote(plain, safe=""), part.hex()}
        for shift in range(3):  # of a part inside of something longer: without the characters that its neighbours decide
            inner = base64.b64encode(b"\0" * shift + part).decode()[(0, 2, 3)[shift] :].rstrip("=")[:-1]
            forms |= {inner, inner.replace("+", "-").replace("/", "_")}
    return sorted(forms, key=len, reverse=True)


def difference(first: str, second: str) -> str:
    """Where two strings differ, in words; "" if they are equal."""
    if first == second:
        return ""
    if first.rstrip("/") == second.rstrip("/"):
        return f"only {'the first' if first.endswith('/') else 'the second'} ends in `/`"
    if first.lower() == second.lower():
        return "they differ in letter case"
    at = next((at for at, (one, other) in enumerate(zip(first, second, strict=False)) if one != other), min(len(first), len(second)))
    return f"they differ from character {at + 1} on"
