"""The signed bundle of a verifier, `robin-bundle-v1`: issuers and their keys, routes, revocations; strict, and never in part.

The signature covers `robin-bundle-v1`, LF, and the document less `signature` as RFC 8785 has it (names are ASCII, there are no fractions).
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Final, NoReturn

from robin.model.passport import (
    CTX_NAMES,
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
from robin.wire.strict_json import refuse_half_surrogates

VERSION: Final = "robin-bundle-v1"
LIMIT_BYTES: Final = 4 << 20
ROUTES_MAX: Final = 1024
_WORD: Final = re.compile(r"[\x21-\x7e]+")  # it goes into headers and records
_TEMPLATE: Final = re.compile(r"(/(\{[A-Za-z0-9_.-]{1,64}\}|[^{}/?#\\]*))+")
_FIELD: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_AMOUNT: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")
_KINDS: Final = ("broker", "wit", "self")
_REVOCATIONS: Final = ("kid", "jti", "sub")
_DOCUMENT: Final = frozenset("version serial created_at not_after trust_domains routes revocations signature".split())
_DOMAIN: Final = frozenset({"name", "issuers"})
_REVOCATION: Final = frozenset({"kind", "value", "until"})
_ISSUER: Final = frozenset("iss kind source_type profiles keys max_identity max_key_protection subject_exact".split())


class BundleRefused(ValueError):
    """A bundle that cannot be in force. `reason` is a code of the reason table; `member` and `fix` are those of a route, where known."""

    def __init__(self, reason: str, detail: str, *, member: str = "", fix: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.member = member
        self.fix = fix


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
        refuse_half_surrogates(document, text)  # what is signed is UTF-8
    except BundleRefused:
        raise
    except UnicodeEncodeError:
        _refuse("a text holds half of a surrogate pair")
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
        _known(domain, _DOMAIN, "a trust domain")
        for issuer in _objects(domain, "issuers"):
            for kid, key in _parse_issuer(issuer):
                if keys.setdefault((_text(domain, "name"), kid), key) is not key:
                    _refuse("a kid is there twice in one trust domain")
    routes = tuple(parse_route(route) for route in _objects(document, "routes"))
    check_routes(routes)
    return TrustBundle(
        serial=_integer(document, "serial"),
        created_at=_integer(document, "created_at"),
        not_after=_integer(document, "not_after"),
        keys=keys,
        routes=routes,
        revocations=_parse_revocations(document),
    )


def _parse_revocations(document: Mapping[str, object]) -> dict[tuple[str, str], int]:
    """When each ends; of two of one value the later end counts."""
    found: dict[tuple[str, str], int] = {}
    for one in _objects(document, "revocations"):
        _known(one, _REVOCATION, "a revocation")
        revoked = (_word(one, "kind", _REVOCATIONS), _text(one, "value"))
        found[revoked] = max(_integer(one, "until"), found.get(revoked, 0))
    return found


def check_routes(routes: tuple[PassportRoute, ...]) -> None:
    """Raise BundleRefused where a route is there twice, or where two of them could fit one request equally well."""
    if len(routes) > ROUTES_MAX:
        _refuse(f"there are more than {ROUTES_MAX} routes")
    if len({route.route_id for route in routes}) != len(routes):
        _refuse("a route_id is there twice")
    alike: dict[tuple[str, bool, int], list[PassportRoute]] = {}
    for route in routes:
        peers = alike.setdefault((route.method, route.is_exact, route.path_template.count("/")), [])
        for other in peers:
            if _overlap(route.path_template, other.path_template):
                _refuse(f"the routes {other.route_id} and {route.route_id} fit one path")
        peers.append(route)


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
    texts = (route.route_id, route.method, route.path_template, route.scheme, route.freshness_class)
    lists = (route.audiences, route.authorities, route.profiles, route.covered_headers, route.covered_if_present, route.extra_components)
    if not all(map(_is_word, texts)) or not all(isinstance(items, tuple) and all(map(_is_word, items)) for items in lists):
        _refuse("a member of a route has another type, or is not visible ASCII")
    flags = (route.require_authority, route.repeated_keys)
    if not all(isinstance(flag, bool) for flag in flags) or type(route.max_staleness_seconds) is not int:
        _refuse("a member of a route has another type")
    _check_words(route)
    for member in ("audiences", "authorities"):
        if not getattr(route, member):
            _refuse(f"the route {route.route_id} has no {member}", member, "name one at least")
    if route.method != route.method.upper():
        _refuse(f"the method of {route.route_id} is not in upper case", "method", "write it in upper case, such as GET")
    if not route.path_template.startswith("/"):
        _refuse(f"the path_template of {route.route_id} has no slash in front", "path_template", "write such as /orders/{id}")
    if _TEMPLATE.fullmatch(route.path_template) is None:
        text = f"the path_template of {route.route_id} is not segments and {{names}}"
        _refuse(text, "path_template", "write such as /orders/{id}: a name in braces is one whole segment")
    for member in ("authorities", "covered_headers", "covered_if_present", "extra_components"):
        if any(name != name.lower() for name in getattr(route, member)):
            _refuse(f"{member} of {route.route_id} are not in lower case", member, "write them in lower case")
    if not all(map(_FIELD.fullmatch, route.extra_components)):
        _refuse(f"an extra component of {route.route_id} is no field name", "extra_components", "name header fields")
    if "x-trustplane-nonce" not in route.covered_headers:
        _refuse(f"the covered headers of {route.route_id} lack x-trustplane-nonce", "covered_headers", "add it")


def _check_words(route: PassportRoute) -> None:
    chosen = (
        (route.scheme, ("https", "http")),
        (route.required_key_binding, tuple(SIGNER_CLASSES)),
        (route.audience_match, ("exact", "target-uri")),
        (route.query_order, ("strict", "any")),
        (route.body, ("bound", "asserted", "unsigned")),
    )
    if any(value not in words for value, words in chosen) or not set(route.profiles) <= set(PROFILES):
        _refuse(f"a member of the route {route.route_id} is not one of its words")


def _parse_issuer(issuer: Mapping[str, object]) -> Iterator[tuple[str, IssuerKey]]:
    _known(issuer, _ISSUER, "an issuer")
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
    if not isinstance(allow, list | tuple) or not all(isinstance(text, str) for text in (*allow, *texts.values())):
        _refuse("a member of ctx has another type")
    if not set(allow) <= set(CTX_NAMES):
        _refuse(f"ctx.allow names another value than {', '.join(CTX_NAMES)}")
    if texts.get("max_txn_value") and not is_amount(texts["max_txn_value"]):
        _refuse("max_txn_value is not an amount such as 100.00")
    return CtxRules(allow=tuple(allow), **texts)


def is_amount(text: object) -> bool:
    """Whether it is an amount in ASCII digits, perhaps with a fraction."""
    return isinstance(text, str) and _AMOUNT.fullmatch(text) is not None


def _known(document: Mapping[str, object], names: frozenset[str], what: str) -> None:
    if not document.keys() <= names:
        _refuse(f"{what} has an unknown member")


def _is_word(value: object) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _verify(document: Mapping[str, object], signers: Mapping[str, PublicKey]) -> None:
    signature = document.get("signature")
    if isinstance(signature, dict) and signature.get("alg") == "Ed25519":
        key = signers.get(str(signature.get("kid")))
        try:
            octets = decode_base64url(str(signature.get("value")))
            covered = signed_bytes(document)
        except ValueError:
            octets = covered = b""
        except RecursionError:  # rendering can need one call more than parsing did
            _refuse("it is nested too deeply")
        if key is not None and key.raw and key.verifies(octets, covered):
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


def _refuse(detail: str, member: str = "", fix: str = "") -> NoReturn:
    raise BundleRefused("bundle_policy_missing", detail, member=member, fix=fix)
