"""inspect_token of the demonstration broker: a good token gives its claims, and each wrong one is refused for its own reason."""

import base64
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from robin.testing.authority import IdentityAuthority, base64url
from robin.testing.inspection import TokenRefused, inspect_token
from robin.testing.manual_clock import ManualClock

NOW = 1_780_000_000.0
AUTHORITY = IdentityAuthority(issuer="https://issuer.test", clock=ManualClock(wall=NOW))
STRANGER = IdentityAuthority(issuer="https://issuer.test", clock=ManualClock(wall=NOW))
KEY_ID = AUTHORITY.jwks()["keys"][0]["kid"]


def inspect(token: bytes, *, jwks=None, now: float = NOW) -> dict:
    return inspect_token(token, jwks=jwks or AUTHORITY.jwks(), issuer="https://issuer.test", audience="broker", now=now)


def good(**claims: object) -> bytes:
    return AUTHORITY.service_account_token(audience="broker", lifetime_s=60, **claims)


def decode(part: bytes) -> bytes:
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))


def tampered(token: bytes) -> bytes:
    """The same header and signature over other claims."""
    header, claims, signature = token.split(b".")
    changed = json.loads(decode(claims)) | {"sub": "someone else"}
    return b".".join((header, base64url(json.dumps(changed).encode()).encode(), signature))


@pytest.mark.parametrize("audience", ["broker", ["broker"], ["other", "broker"]])
def test_a_good_token_gives_its_claims(audience):
    assert inspect(good(aud=audience))["sub"] == "system:serviceaccount:demo:agent"


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (b"", "malformed"),
        (b"a.b", "malformed"),
        (b"a.b.c", "malformed"),
        (b"!.e30.e30", "malformed"),
        (b"W10.e30.e30", "malformed"),
        (b"e30.e30.e30", "algorithm"),
        (AUTHORITY.sign({}, header={"alg": "none", "kid": KEY_ID}), "algorithm"),
        (AUTHORITY.sign({}, header={"alg": "ES256"}), "unknown_key"),
        (STRANGER.service_account_token(audience="broker"), "unknown_key"),
        (STRANGER.sign({}, header={"alg": "ES256", "kid": KEY_ID}), "signature"),
        (AUTHORITY.sign({}, header={"alg": "RS256", "kid": KEY_ID}), "signature"),
        (AUTHORITY.sign({}, header={"alg": "ES384", "kid": KEY_ID}), "signature"),
        (tampered(good()), "signature"),
        (good()[:-4], "signature"),
        (good(iss="https://other.test"), "issuer"),
        (good(aud="other"), "audience"),
        (good(aud=["broker.other"]), "audience"),
        (good(aud=None), "audience"),
        (good(exp="soon"), "malformed"),
        (good(nbf=NOW + 1), "not_yet_valid"),
        (good(exp=NOW), "expired"),
    ],
)
def test_each_bad_token_is_refused_for_its_own_reason(token, reason):
    with pytest.raises(TokenRefused) as refused:
        inspect(token)
    assert refused.value.reason == reason


def test_a_token_ends_exactly_at_its_expiry():
    assert inspect(good(), now=NOW + 59.9)
    with pytest.raises(TokenRefused, match="expired"):
        inspect(good(), now=NOW + 60)


def test_an_rsa_key_as_a_cluster_has_one_verifies_too():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    numbers = key.public_key().public_numbers()
    jwk = {"kty": "RSA", "kid": "r", "n": base64url(numbers.n.to_bytes(256)), "e": base64url(numbers.e.to_bytes(3))}
    message = ".".join(
        base64url(json.dumps(part).encode())
        for part in ({"alg": "RS256", "kid": "r"}, {"iss": "https://issuer.test", "aud": "broker", "exp": NOW + 1, "sub": "s"})
    ).encode()
    token = message + b"." + base64url(key.sign(message, padding.PKCS1v15(), hashes.SHA256())).encode()
    assert inspect(token, jwks={"keys": [jwk]})["sub"] == "s"
    with pytest.raises(TokenRefused, match="signature"):
        inspect(token[:-6] + b"AAAAAA", jwks={"keys": [jwk]})
