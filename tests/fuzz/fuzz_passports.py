"""Invariant: any bytes as a request to the broker, a passport, a signature field or a bundle are parsed, or refused by a known name."""

# ruff: noqa: PT017 - a check asserts on what was raised, outside of pytest too

import contextlib
import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from robin.model.passport import PROFILES
from robin.model.passport_reasons import Refused
from robin.policy.broker_issue import guard_request
from robin.policy.passport_token import parse_passport
from robin.wire.broker_ipc import OWN, PUBLIC, Reader, render_deny
from robin.wire.compact_jws import encode_base64url, render_compact
from robin.wire.http_signature import BadField, digest_matches, parse_binaries, parse_signature_input, render_parameters
from robin.wire.passport_keys import parse_public, public_jwk
from robin.wire.transcript import EMPTY_SHA256, guard_query, hash_value, normalize_query
from robin.wire.trust_bundle import BundleRefused, parse_bundle, signed_bytes

_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_X = public_jwk(_KEY)["x"]
_NONCE = "nonce-fuzz-001"
_QUERY = {"raw": "a=1", "normalization": "rfc3986-sort-keys-values", "normalized": "a=1", "sha256": hash_value("a=1")}
_HEADERS = {"allow_list": ["x-trustplane-nonce"], "selected": [{"name": "x-trustplane-nonce", "value_sha256": hash_value(_NONCE)}]}
_HTTP = {"method": "GET", "scheme": "https", "authority": "a.example", "path": "/o", "content_encoding": "identity", "audience": "a"}
_BINDING = {"intent": "route_policy_minimum", "requested_key_binding": "software", "acceptable_key_bindings": []}
_PUBLIC = {
    "request_id": "r1",
    "protocol": "local-json-ipc",
    "operation": "issue_request_bound_passport",
    "http": {**_HTTP, "route_id": "r", "body_sha256": EMPTY_SHA256, "nonce": _NONCE, "query": _QUERY, "headers": _HEADERS},
    "ctx": {"selected_fields": ["purpose"], "values": {"purpose": "x"}},
    "key_binding": {**_BINDING, "allow_software_fallback": False},
}
_OWN = {
    "request_id": "r2",
    "profile": "wimse-httpsig",
    "http": {
        "method": "GET",
        "scheme": "https",
        "authority": "a.example",
        "target": "/o?b=%20",
        "fields": [["A", "é"]],
        "body_sha256": None,
    },
    "audience": None,
    "route_id": None,
    "nonce": None,
    "ctx": {},
    "signer": {"identity": "none", "key_protection": "software"},
    "svid_proof": None,
}
_CLAIMS = {"iss": "i", "sub": "spiffe://d/a", "aud": "a", "iat": 10, "exp": 20, "jti": "j"}
_SOURCE = {"source_type": "software_jwks", "issuer": "i", "trust_domain": "d"}
_ROUTE = {"route_id": "r", "audiences": ["a"], "method": "GET", "path_template": "/o/{id}", "authorities": ["a.example"]}
_ISSUER = {"iss": "i", "kind": "broker", "source_type": "software_jwks", "profiles": list(PROFILES)}
_BUNDLE = {
    "version": "robin-bundle-v1",
    "serial": 1,
    "created_at": 1,
    "not_after": 2,
    "trust_domains": [
        {
            "name": "d",
            "issuers": [
                {
                    **_ISSUER,
                    "keys": [{**public_jwk(_KEY), "kid": "k", "alg": "Ed25519"}],
                    "max_identity": "none",
                    "max_key_protection": "software",
                    "subject_exact": None,
                }
            ],
        }
    ],
    "routes": [{**_ROUTE, "allowed_sources": [_SOURCE]}],
    "revocations": [{"kind": "kid", "value": "k", "until": 3}],
}

_SIGNATURE = {"kid": "s", "alg": "Ed25519", "value": encode_base64url(_KEY.sign(signed_bytes(_BUNDLE)))}


def _token(header: object, claims: object) -> bytes:
    return render_compact(header, claims, _KEY.sign).encode()  # type: ignore[arg-type] # wrong ones too


SEEDS = (
    json.dumps({"version": PUBLIC, "kind": "broker_ipc_exchange", "request": _PUBLIC}).encode(),
    json.dumps({"version": OWN, "kind": "issue", "request": _OWN}).encode(),
    _token(
        {"alg": "EdDSA", "kid": "k", "typ": "JWT"},
        {**_CLAIMS, "trust_domain": "d", "cnf": {"kid": _X, "public_key_b64url": _X, "key_binding": "software"}},
    ),
    _token({"alg": "Ed25519", "kid": "k", "typ": "wit+jwt"}, {**_CLAIMS, "cnf": {"jwk": {**public_jwk(_KEY), "alg": "Ed25519"}}}),
    _token({"alg": "ES256", "kid": "k", "typ": "wit+jwt"}, [1]),
    b'wimse=("@method" "@request-target");created=1;expires=2;nonce="n\\"";tag="t";wimse-aud="a", b=("x");y=?0;z=:AA==:',
    b"sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:, sha-512=:AA==:",
    b"z=last&a=2&a=10&space=a%20b&encoded=%7E&empty=",
    json.dumps(_BUNDLE).encode(),
    json.dumps({**_BUNDLE, "signature": _SIGNATURE}).encode(),
)
WORDS = (
    b"\\ud800",
    b'"',
    b"\\u0000",
    b"{",
    b"}",
    b"[",
    b",",
    b":",
    b"null",
    b"1.5",
    b"%",
    b"%2F",
    b";",
    b"=",
    b'"d":"x"',
    b"..",
    b"\xff",
    b"9" * 30,
)
_OF_BROKER = {"ipc_malformed", "ipc_version_unsupported", "ipc_operation_unsupported", "transcript_ambiguous"}

_PINNED = {_SIGNATURE["kid"]: parse_public(public_jwk(_KEY))}
_POLICY = {"bundle_policy_missing"}


def check(data: bytes) -> None:
    """Raise when the invariant does not hold for `data`."""
    reader = Reader()
    try:
        guard_request(reader.parse(data))
    except Refused as refused:
        assert refused.reason.code in _OF_BROKER, refused.reason.code
        reply = render_deny(reader, refused)
        assert reply.count(b"\n") == 1
        json.loads(reply)
    text = data.decode("latin-1")
    for profile in PROFILES:
        try:
            passport = parse_passport(text, profile)
        except Refused as refused:
            assert refused.reason.code in {"passport_malformed", "passport_algorithm_not_allowed"}
        else:
            shown = (passport.issuer, passport.subject, passport.audience or "", passport.jti, passport.kid, passport.trust_domain)
            assert all(one.isascii() and (one == "" or one.isprintable()) for one in shown)  # it goes into headers
            assert 0 < passport.issued_at < passport.expires_at
    for parse in (_check_input, parse_binaries, lambda value: digest_matches(value, b"")):
        with contextlib.suppress(BadField):
            parse(text)
    if guard_query(text, repeated_keys=True, any_order=True) is None:
        assert sorted(text.split("&")) == sorted(normalize_query(text).split("&"))  # nothing but the order could differ
    for signers, reasons in ((None, _POLICY), (_PINNED, {*_POLICY, "bundle_signature_invalid"})):
        try:
            parse_bundle(data, signers)
        except BundleRefused as refused:
            assert refused.reason in reasons


def _check_input(text: str) -> None:
    for member in parse_signature_input(text):
        assert f"{member.label}={render_parameters(member.components, member.parameters)}" in text
