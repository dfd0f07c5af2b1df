"""The signed bundle of a verifier, `robin-bundle-v1`: issuers and their keys, routes, revocations; strict, and never in part.

The signature covers `robin-bundle-v1`, LF, and the document less `signature` as RFC 8785 has it (names are ASCII, there are no fractions).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Final, NoReturn

from robin.model.passport import (
    IDENTITY,
    KEY_PROTECTION,
    PROFILES,
    SIGNER_CLASSES,
    Axes,
    CtxRules,
    PassportRoute,
    ProvenancePolicy,
    SourceRule,
)
from robin.wire.compact_jws import decode_base64url
from robin.wire.passport_keys import BadKey, PublicKey, parse_public

VERSION: Final = "robin-bundle-v1"
LIMIT_BYTES: Final = 4 << 20
_KINDS: Final = ("broker", "wit", "self")
_REVOCATIONS: Final = ("kid", "jti", "sub")
_DOCUMENT: Final = frozenset("version serial created_at not_after trust_domains routes revocations signature".split())
_ISSUER: Final = frozenset("iss kind source_type profiles keys max_identity max_key_protection subject_exact".split())


class BundleRefused(ValueError):
    """A bundle that cannot be in force. `reason` is a code of the reason table."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerKey:
    """One key of one issuer. `cap` is the most that its passports are credited with."""

    iss: str
    kind: str
    source_type: str
    profiles: tuple[str, ...]
    key: PublicKey
    algorithm: str
    cap: Axes
    subject_exact: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """A bundle. `keys` by (trust domain, kid); `revocations` by (kind, value): until when."""

    serial: int
    created_at: int
    not_after: int
    keys: Mapping[tuple[str, str], IssuerKey]
    routes: tuple[PassportRoute, ...]
    revocations: Mapping[tuple[str, str], int]


def signed_bytes(document: Mapping[str, object]) -> bytes:
    """What the signature of a bundle covers."""
    rest = {name: value for name, value in document.items() if name != "signature"}
    return VERSION.encode() + b"\n" + json.dumps(rest, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def parse_document(text: bytes) -> dict[str, object]:
    """The JSON object of a bundle. Raises BundleRefused."""
    if len(text) > LIMIT_BYTES:
        _refuse("it is larger than 4 MiB")
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_object, parse_float=_no_fraction, parse_constant=_no_fraction)
    except BundleRefused:
        raise
    except (ValueError, RecursionError):
        _refuse("it is not JSON")
    if not isinstance(document, dict):
        _refuse("it is not an object")
    return document


def parse_bundle(text: bytes, signers: Mapping[str, PublicKey] | None) -> TrustBundle:
    """A bundle whose signature one of `signers` (by kid) made; None: no signature is asked for. Raises BundleRefused."""
    document = parse_document(text)
    if signers is not None:
        _verify(document, signers)
    if document.get("version") != VERSION or not document.keys() <= _DOCUMENT:
        _refuse("its version or a member is unknown")
    keys: dict[tuple[str, str], IssuerKey] = {}
    for domain in _objects(document, "trust_domains"):
        for issuer in _objects(domain, "issuers"):
            for kid, key in _parse_issuer(issuer):
                if keys.setdefault((_text(domain, "name"), kid), key) is not key:
                    _refuse("a kid is there twice in one trust domain")
    routes = tuple(parse_route(route) for route in _objects(document, "routes"))
    check_routes(routes)
    revocations = {
        (_word(one, "kind", _REVOCATIONS), _text(one, "value")): _integer(one, "until") for one in _objects(document, "revocations")
    }
    return TrustBundle(
        serial=_integer(document, "serial"),
        created_at=_integer(document, "created_at"),
        not_after=_integer(document, "not_after"),
        keys=keys,
        routes=routes,
        revocations=revocations,
    )


def check_routes(routes: tuple[PassportRoute, ...]) -> None:
    """Raise BundleRefused where a route is there twice, or where two of them could fit one request equally well."""
    if len({route.route_id for route in routes}) != len(routes):
        _refuse("a route_id is there twice")
    for at, one in enumerate(routes):
        for other in routes[at + 1 :]:
            if one.method == other.method and one.is_exact == other.is_exact and _overlap(one.path_template, other.path_template):
                _refuse(f"the routes {one.route_id} and {other.route_id} fit one path")


def parse_route(document: Mapping[str, object]) -> PassportRoute:
    """One route of a bundle or of settings as plain values. Raises BundleRefused for what it does not know or cannot keep."""
    known = {field.name for field in fields(PassportRoute)}
    values: dict[str, object] = {}
    for name, value in document.items():
        if name not in known:
            _refuse(f"a route has the unknown member {name[:40]!a}")
        values[name] = tuple(value) if isinstance(value, list) else value
    values["allowed_sources"] = tuple(_parse_source(source) for source in _objects(document, "allowed_sources"))
    values["require"] = _parse_axes(document.get("require") or {})
    values["ctx"] = _parse_ctx(document.get("ctx") or {})
    try:
        route = PassportRoute(**values)  # type: ignore[arg-type] # the types are checked below
    except TypeError:
        _refuse("a route lacks a member")
    _check_route(route)
    return route


def _check_route(route: PassportRoute) -> None:
    texts = (route.route_id, route.method, route.path_template, route.scheme)
    lists = (route.audiences, route.authorities, route.profiles, route.covered_headers, route.covered_if_present, route.extra_components)
    if not all(isinstance(text, str) and text for text in texts) or not all(
        isinstance(items, tuple) and all(isinstance(item, str) and item for item in items) for items in lists
    ):
        _refuse("a member of a route has another type")
    flags = (route.require_authority, route.repeated_keys)
    if not all(isinstance(flag, bool) for flag in flags) or type(route.max_staleness_seconds) is not int:
        _refuse("a member of a route has another type")
    if not route.audiences or not route.authorities or not route.path_template.startswith("/") or route.method != route.method.upper():
        _refuse(f"the route {route.route_id} lacks an audience or authority, or its method or path cannot be one")
    chosen = (
        (route.required_key_binding, tuple(SIGNER_CLASSES)),
        (route.audience_match, ("exact", "target-uri")),
        (route.query_order, ("strict", "any")),
        (route.body, ("bound", "asserted", "unsigned")),
    )
    if any(value not in words for value, words in chosen) or not set(route.profiles) <= set(PROFILES):
        _refuse(f"a member of the route {route.route_id} is not one of its words")
    names = (*route.covered_headers, *route.covered_if_present, *route.extra_components)
    if any(name != name.lower() for name in names) or "x-trustplane-nonce" not in route.covered_headers:
        _refuse(f"the covered headers of {route.route_id} are not in lower case, or lack x-trustplane-nonce")


def _parse_issuer(issuer: Mapping[str, object]) -> Iterator[tuple[str, IssuerKey]]:
    if not issuer.keys() <= _ISSUER:
        _refuse("an issuer has an unknown member")
    kind = _word(issuer, "kind", _KINDS)
    subject = issuer.get("subject_exact")
    if subject is not None and not isinstance(subject, str):
        _refuse("subject_exact is no text")
    cap = Axes(identity=_word(issuer, "max_identity", IDENTITY), key_protection=_word(issuer, "max_key_protection", KEY_PROTECTION))
    if kind == "self" and (not subject or cap != Axes()):
        _refuse("an issuer of kind self has a subject_exact and the cap none, software")
    profiles = issuer.get("profiles")
    if not isinstance(profiles, list) or not profiles or not all(profile in PROFILES for profile in profiles):
        _refuse("the profiles of an issuer are not those that there are")
    for jwk in _objects(issuer, "keys"):
        try:
            key = parse_public(jwk)
        except BadKey as bad:
            _refuse(f"a key of an issuer: {bad}")
        algorithm = _text(jwk, "alg")
        if not key.fits(algorithm):
            _refuse("the alg of a key is not one of its type")
        yield (
            _text(jwk, "kid"),
            IssuerKey(
                iss=_text(issuer, "iss"),
                kind=kind,
                source_type=_text(issuer, "source_type"),
                profiles=tuple(profiles),
                key=key,
                algorithm=algorithm,
                cap=cap,
                subject_exact=subject,
            ),
        )


def _parse_source(source: Mapping[str, object]) -> SourceRule:
    known = {field.name for field in fields(SourceRule)} - {"provenance"} | {"provenance_policy"}
    if not source.keys() <= known or ("subject_exact" in source and "subject_prefix" in source):
        _refuse("a source has an unknown member, or two subjects")
    policy = source.get("provenance_policy")
    provenance = None
    if policy is not None:
        if not isinstance(policy, dict) or not all(isinstance(value, str) for value in policy.values()):
            _refuse("a provenance_policy is not an object of texts")
        try:
            provenance = ProvenancePolicy(**policy)
        except TypeError:
            _refuse("a provenance_policy has an unknown member")
    binding = _text(source, "required_key_binding", default="")
    if binding and binding not in SIGNER_CLASSES:
        _refuse("the required_key_binding of a source is no signer class")
    return SourceRule(
        source_type=_text(source, "source_type"),
        issuer=_text(source, "issuer"),
        trust_domain=_text(source, "trust_domain"),
        subject_exact=_text(source, "subject_exact", default=""),
        subject_prefix=_text(source, "subject_prefix", default=""),
        required_key_binding=binding,
        provenance=provenance,
    )


def _parse_axes(value: object) -> Axes:
    if not isinstance(value, dict) or not value.keys() <= {"identity", "key_protection"}:
        _refuse("require is not an object of the two axes")
    identity, protection = value.get("identity") or "none", value.get("key_protection") or "software"
    if identity not in IDENTITY or protection not in KEY_PROTECTION:
        _refuse("require names an unknown step of an axis")
    return Axes(identity=identity, key_protection=protection)


def _parse_ctx(value: object) -> CtxRules:
    if not isinstance(value, dict) or not value.keys() <= {field.name for field in fields(CtxRules)}:
        _refuse("ctx has an unknown member")
    allow = value.get("allow") or []
    texts = {name: text for name, text in value.items() if name != "allow"}
    if not all(isinstance(text, str) for text in (*allow, *texts.values())):
        _refuse("a member of ctx has another type")
    return CtxRules(allow=tuple(allow), **texts)


def _verify(document: Mapping[str, object], signers: Mapping[str, PublicKey]) -> None:
    signature = document.get("signature")
    if isinstance(signature, dict) and signature.get("alg") == "Ed25519":
        key = signers.get(str(signature.get("kid")))
        try:
            octets = decode_base64url(str(signature.get("value")))
        except ValueError:
            octets = b""
        if key is not None and key.raw and key.verifies(octets, signed_bytes(document)):
            return
    raise BundleRefused("bundle_signature_invalid", "no pinned key made its signature")


def _overlap(one: str, other: str) -> bool:
    left, right = one.split("/"), other.split("/")
    return len(left) == len(right) and all(a == b or a.startswith("{") or b.startswith("{") for a, b in zip(left, right, strict=True))


def _objects(document: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    value = document.get(name, [])
    if not isinstance(value, list | tuple) or not all(isinstance(item, dict) for item in value):
        _refuse(f"{name} is not a list of objects")
    return list(value)


def _text(document: Mapping[str, object], name: str, *, default: str | None = None) -> str:
    value = document.get(name, default)
    if not isinstance(value, str) or (not value and default is None):
        _refuse(f"{name} is no text")
    return value


def _word(document: Mapping[str, object], name: str, words: tuple[str, ...]) -> str:
    value = _text(document, name)
    if value not in words:
        _refuse(f"{name} is not one of {', '.join(words)}")
    return value


def _integer(document: Mapping[str, object], name: str) -> int:
    value = document.get(name)
    if type(value) is not int or abs(value) > 2**53 - 1:
        _refuse(f"{name} is no whole number")
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs) or not all(name.isascii() for name, _ in pairs):
        _refuse("a member is there twice, or is not ASCII")
    return found


def _no_fraction(_: str) -> NoReturn:
    _refuse("a number has a fraction")


def _refuse(detail: str) -> NoReturn:
    raise BundleRefused("bundle_policy_missing", detail)
