"""The transcript of profile transcript-v1: twenty lines that one proof covers, and the guard that keeps them unambiguous.

The builder gives the public digests for any input. The guard is a separate judgement: a request that it refuses has, or could have, a
second wire form with the same transcript.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
NORMALIZATION: Final = "rfc3986-sort-keys-values"
BUCKET_S: Final = 20

_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_CODING: Final = re.compile(r"[a-z0-9-]{1,32}")
_VISIBLE: Final = re.compile(r"[\x21-\x7e]*")
_TEXT: Final = re.compile(r"[\x20-\x7e]*")
_HEX64: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What the lines hold. `headers`: (lower-case name, hex SHA-256 of the trimmed value) in order; `query` as it is on the wire."""

    method: str
    scheme: str
    authority: str
    path: str
    query: str
    audience: str
    route_id: str
    content_encoding: str
    headers: tuple[tuple[str, str], ...]
    body_sha256: str
    jti: str
    nonce: str
    issued_at: int
    key_binding: str


def normalize_query(raw: str) -> str:
    """The normalised query: pairs decoded, written in one way, sorted by key and value."""
    return "&".join(f"{key}={value}" for key, value in sorted(_pairs(raw)))


def hash_value(value: str) -> str:
    """The hex SHA-256 of a field value without its outer spaces and tabs."""
    return hashlib.sha256(value.strip(" \t").encode("utf-8", "surrogateescape")).hexdigest()


def build_transcript(part: Transcript) -> bytes:
    """The twenty lines, without a line end at the end."""
    normalized = normalize_query(part.query)
    of_query = hashlib.sha256(normalized.encode()).hexdigest()
    names = [name for name, _ in part.headers]
    lines = (
        ("version", "trustplane-transcript-v1"),
        ("method", part.method.upper()),
        ("scheme", part.scheme.lower()),
        ("authority", part.authority.lower()),
        ("path", part.path),
        ("audience", part.audience),
        ("route_id", part.route_id),
        ("content_encoding", part.content_encoding.lower() or "identity"),
        ("query_normalization.algorithm", NORMALIZATION),
        ("query_normalization.normalized", normalized),
        ("query_normalization.sha256", of_query),
        ("query_sha256", of_query),
        ("headers.allow_list", ",".join(names)),
        ("headers.selected", ",".join(f"{name}:{digest}" for name, digest in part.headers)),
        ("body_sha256", part.body_sha256),
        ("passport_jti", part.jti),
        ("nonce", part.nonce),
        ("issued_at", str(part.issued_at)),
        ("time_bucket", str(part.issued_at // BUCKET_S)),
        ("key_binding", part.key_binding),
    )
    return "\n".join(f"{name}={value}" for name, value in lines).encode()


def is_digest(text: str) -> bool:
    """Whether it is 64 lower-case hexadecimal digits."""
    return _HEX64.fullmatch(text) is not None


# The guard: each returns the detail of `transcript_ambiguous`, None where nothing is ambiguous.


def guard_words(words: Sequence[str]) -> str | None:
    """Method, scheme, authority, path, audience, route, nonce, jti: visible ASCII only."""
    return next((_kind(word) for word in words if _VISIBLE.fullmatch(word) is None), None)


def guard_values(values: Sequence[str]) -> str | None:
    """Field values: printable ASCII only."""
    return next((_kind(value) for value in values if _TEXT.fullmatch(value) is None), None)


def guard_target(target: str) -> str | None:
    """The request target as it was received, of either profile."""
    if (kind := guard_words([target])) is not None:
        return kind
    if not target.startswith("/"):
        return "absolute_form"
    return "fragment" if "#" in target else None


def guard_path(path: str) -> str | None:
    """The path of a request of this profile."""
    segments = path.split("/")[1:]
    unsafe = not path.startswith("/") or (path.endswith("/") and path != "/") or "//" in path or not {".", ".."}.isdisjoint(segments)
    return "unsafe_request_path" if unsafe or not set("\\%{}").isdisjoint(path) else None


def guard_query(raw: str, *, repeated_keys: bool, any_order: bool) -> str | None:
    """The query without its question mark. `repeated_keys`, `any_order`: what the route allows."""
    if not raw:
        return None
    pairs = _pairs(raw)
    if any(not _decodes(octets) for octets in _decoded_parts(raw)):
        return "query_not_canonical"
    if "" in raw.split("&") or any("=" not in part for part in raw.split("&")):
        return "query_not_canonical"
    if "&".join(f"{key}={value}" for key, value in pairs) != raw:
        return "query_not_canonical"
    keys = [key for key, _ in pairs]
    if not repeated_keys and len(set(keys)) != len(keys):
        return "query_repeated_key"
    return None if any_order or pairs == sorted(pairs) else "query_order"


def guard_coding(codings: Sequence[str]) -> str | None:
    """The values of Content-Encoding."""
    if len(codings) > 1 or (codings and _CODING.fullmatch(codings[0].lower()) is None):
        return "content_coding"
    return None


def _kind(word: str) -> str:
    return "control_character" if any(ord(char) < 0x21 or ord(char) == 0x7F for char in word) else "non_ascii"


def _decoded_parts(raw: str) -> list[bytes]:
    return [_ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), part.encode("utf-8", "surrogateescape")) for part in raw.split("&")]


def _decodes(octets: bytes) -> bool:
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _pairs(raw: str) -> list[tuple[str, str]]:
    query = raw.removeprefix("?")
    if not query:
        return []
    return [(_rewrite(key), _rewrite(value)) for key, _, value in (part.partition("=") for part in query.split("&"))]


def _rewrite(part: str) -> str:
    octets = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), part.encode("utf-8", "surrogateescape"))
    return "".join(chr(octet) if octet in _UNRESERVED else f"%{octet:02X}" for octet in octets)
